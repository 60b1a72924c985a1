package cluster

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// syntaxError is a place where a text stops being YAML; Line is 1-based within
// the document.
type syntaxError struct {
	Line    int
	Message string
}

var yamlPlace = regexp.MustCompile(`^yaml: (line \d+: )?`)

// parseYAML parses the text of one document; nil without content.
func parseYAML(text []byte) (*yaml.Node, *syntaxError) {
	root, err := decodeYAML(text)
	if err != nil {
		message := yamlPlace.ReplaceAllString(err.Error(), "")
		return nil, &syntaxError{Line: brokenLine(text), Message: "not YAML: " + message + cureYAML(message)}
	}
	if root == nil || len(root.Content) == 0 {
		return nil, nil
	}
	return root.Content[0], nil
}

func decodeYAML(text []byte) (*yaml.Node, error) {
	var root yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&root)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &root, nil
}

// brokenLine finds the line that breaks a document: the one behind the longest
// prefix that still parses. The line in the parser's own message is that of the
// enclosing block, or off by one, depending on the error. Prefixes that end
// inside a bracket or quote fail although the text is fine, hence the look
// beyond the first boundary.
func brokenLine(text []byte) int {
	lines := bytes.SplitAfter(text, []byte("\n"))
	parses := func(n int) bool {
		_, err := decodeYAML(bytes.Join(lines[:n], nil))
		return err == nil
	}
	good, bad := 0, len(lines)
	for bad-good > 1 {
		if middle := (good + bad) / 2; parses(middle) {
			good = middle
		} else {
			bad = middle
		}
	}
	look := 30 // lines; the longest bracket or quote we look past
	if len(text) > 1<<16 {
		look = 0 // each look parses everything in front of it
	}
	for n := min(bad+look, len(lines)-1); n > bad; n-- {
		if parses(n) {
			return n + 1
		}
	}
	return bad
}

func cureYAML(message string) string {
	switch {
	case strings.Contains(message, "tab character"):
		return "; use spaces"
	case strings.Contains(message, "cannot start any token"):
		return "; indent with spaces, not tabs, and quote values that begin with a special character"
	case strings.Contains(message, "could not find expected ':'"):
		return "; a key needs a colon and a space behind it"
	case strings.Contains(message, "mapping values are not allowed"):
		return "; check the indentation, or quote the value if it holds a colon"
	case strings.Contains(message, "did not find expected"):
		return "; check the indentation of this line against the lines above"
	case strings.Contains(message, "unknown anchor"):
		return "; define the anchor in the same document, before its use"
	case strings.Contains(message, "unexpected end of stream"):
		return "; a quote that is opened here is never closed"
	default:
		return ""
	}
}
