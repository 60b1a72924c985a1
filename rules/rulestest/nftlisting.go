package rulestest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// words are what is left to read. A line ends with the word "\n"; a word that was in
// quotes begins with one.
type words []string

// take reads on if the next words are these.
func (w *words) take(wanted ...string) bool {
	if len(*w) < len(wanted) || !slices.Equal((*w)[:len(wanted)], wanted) {
		return false
	}
	*w = (*w)[len(wanted):]
	return true
}

// next reads one word, "" where there is none.
func (w *words) next() string {
	if len(*w) == 0 {
		return ""
	}
	word := (*w)[0]
	*w = (*w)[1:]
	return word
}

// number reads a decimal or hexadecimal number of 32 bits.
func (w *words) number() (uint32, error) {
	n, err := strconv.ParseUint(w.next(), 0, 32)
	return uint32(n), err
}

// counter reads what is behind "counter".
func (w *words) counter() error {
	if !w.take("packets") || w.next() == "" || !w.take("bytes") || w.next() == "" {
		return errSyntax
	}
	return nil
}

var errSyntax = errors.New("another word is expected")

// unknown is the error of what nobody understands.
func (w *words) unknown() error {
	line := *w
	if end := slices.Index(line, "\n"); end >= 0 {
		line = line[:end]
	}
	return fmt.Errorf("%q: not understood", strings.Join(line, " "))
}

// read cuts a listing into words. A comma is one of its own.
func read(text string) (words, error) {
	out := make(words, 0, len(text)/4)
	for line := range strings.Lines(text) {
		for i, part := range strings.Split(line, `"`) {
			if i%2 == 1 {
				out = append(out, `"`+part)
				continue
			}
			for _, word := range strings.Fields(part) {
				plain, comma := strings.CutSuffix(word, ",")
				if plain != "" {
					out = append(out, plain)
				}
				if comma {
					out = append(out, ",")
				}
			}
		}
		if strings.Count(line, `"`)%2 != 0 {
			return nil, fmt.Errorf("line %q: quotes do not end", line)
		}
		out = append(out, "\n")
	}
	return out, nil
}

// ParseNftables reads one table of family inet, as "nft list table" prints it.
func ParseNftables(text string) (*Nftables, error) {
	w, err := read(text)
	if err != nil {
		return nil, err
	}
	t := &Nftables{sets: make(map[string]*nftSet), chains: make(map[string]*nftChain)}
	if !w.take("table", "inet") || w.next() == "" || !w.take("{", "\n") {
		return nil, w.unknown()
	}
	for !w.take("}") {
		switch {
		case w.take("\n"):
		case w.take("map"), w.take("set"):
			s, err := readSet(&w)
			if err != nil {
				return nil, fmt.Errorf("set %s: %w", s.name, err)
			}
			if t.sets[s.name] != nil {
				return nil, fmt.Errorf("set %s: twice", s.name)
			}
			t.sets[s.name] = s
		case w.take("chain"):
			c, err := readChain(&w)
			if err == nil {
				err = t.add(c)
			}
			if err != nil {
				return nil, fmt.Errorf("chain %s: %w", c.name, err)
			}
		default:
			return nil, w.unknown()
		}
	}
	if w.take("\n"); len(w) > 0 {
		return nil, w.unknown()
	}
	return t, nil
}

// readChain reads what is behind "chain".
func readChain(w *words) (*nftChain, error) {
	c := &nftChain{name: w.next()}
	if !w.take("{", "\n") {
		return c, w.unknown()
	}
	if w.take("type") {
		c.kind = w.next()
		if !w.take("hook") {
			return c, w.unknown()
		}
		c.hook = w.next()
		if !w.take("priority") {
			return c, w.unknown()
		}
		var err error
		if c.priority, err = readPriority(w); err != nil {
			return c, err
		}
		if !w.take("policy", "accept;", "\n") || c.kind != "nat" && c.kind != "filter" {
			return c, w.unknown()
		}
	}
	for !w.take("}", "\n") {
		end := slices.Index(*w, "\n")
		if end < 0 {
			return c, w.unknown()
		}
		c.rules = append(c.rules, (*w)[:end])
		*w = (*w)[end+1:]
	}
	return c, nil
}

// readPriority reads "dstnat - 1;".
func readPriority(w *words) (int, error) {
	names := map[string]int{"dstnat": -100, "filter": 0, "srcnat": 100}
	text := w.next()
	for !strings.HasSuffix(text, ";") && len(*w) > 0 {
		text += w.next()
	}
	text = strings.TrimSuffix(text, ";")
	for name, priority := range names {
		if rest, named := strings.CutPrefix(text, name); named {
			if rest == "" {
				return priority, nil
			}
			off, err := strconv.Atoi(rest)
			return priority + off, err
		}
	}
	return strconv.Atoi(text)
}
