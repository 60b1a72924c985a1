package cluster

import (
	"bytes"
	"iter"
)

// chunk is the text of one YAML document and the number of lines before it.
type chunk struct {
	text   []byte
	offset int
}

// split cuts a file into its YAML documents without parsing them, so that one
// broken document does not hide the others and an unchanged one need not be
// parsed again. YAML 1.2, 9.1: a line that begins with "---" or "..." and then
// ends or goes on with white space is a marker wherever it stands, also inside
// a block scalar. A "---" line stays with the document it begins.
func split(file []byte) iter.Seq[chunk] {
	file = bytes.TrimPrefix(file, []byte("\xef\xbb\xbf"))
	return func(yield func(chunk) bool) {
		start, offset := 0, 0 // of the current document
		line := 0
		for pos := 0; pos < len(file); line++ {
			end := pos + bytes.IndexByte(file[pos:], '\n') + 1
			if end == pos {
				end = len(file)
			}
			text := file[pos:end]
			if begins, ends := isMarker(text, "---"), isMarker(text, "..."); begins || ends {
				if one := file[start:pos]; !blank(one) && !yield(chunk{text: one, offset: offset}) {
					return
				}
				start, offset = pos, line
				if ends {
					start, offset = end, line+1
				}
			}
			pos = end
		}
		if one := file[start:]; !blank(one) {
			yield(chunk{text: one, offset: offset})
		}
	}
}

func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])))
}

// blank reports whether a document has no content: nothing but white space,
// comments, directives and its own marker.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		if isMarker(line, "---") {
			line = line[3:]
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}
