package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	blockPattern    = regexp.MustCompile(`(?ms)^\t(set|map|chain) (\S+) \{\n(.*?)^\t\}\n`)
	elementsPattern = regexp.MustCompile(`(?s)\t\telements = \{ (.*?) \}\n`)
	between         = regexp.MustCompile(`,\s+`)
	typePattern     = regexp.MustCompile(`(?m)^\t\ttype ([^:\n]*)`)
	elementPattern  = regexp.MustCompile(`^(.*?)(?: counter packets \d+ bytes \d+)?(?: comment "([^"]*)")?(?: : (.*))?$`)
)

// listing is a table as nft lists it, without what is not in use.
type listing struct {
	blocks []*block
	byName map[string]*block
}

// block is one set, map or chain.
type block struct {
	kind, name string
	body       string // all lines but those of the elements
	elements   []element
	byKey      map[string]element
}

// element of a set or map. text is all of it.
type element struct{ text, key, comment, value string }

// newListing takes from a listing what the rendered one shows, in its order, and wants
// both to say the same.
func newListing(listed, rendered string) (*listing, error) {
	kernel := parse(listed)
	shown := &listing{byName: kernel.byName}
	for _, want := range parse(rendered).blocks {
		got := kernel.byName[want.name]
		if got == nil || got.kind != want.kind || got.body != want.body || !maps.Equal(got.byKey, want.byKey) {
			return nil, fmt.Errorf("nft lists %s %s otherwise than nftables.Render does:\n%s\nand not\n%s", want.kind, want.name, got, want)
		}
		got.elements = want.elements // nft's order is that of a hash table
		if got.kind == "chain" || len(got.elements) > 0 {
			shown.blocks = append(shown.blocks, got)
		}
	}
	return shown, nil
}

func parse(text string) *listing {
	l := &listing{byName: map[string]*block{}}
	for _, m := range blockPattern.FindAllStringSubmatch(text, -1) {
		b := &block{kind: m[1], name: m[2], body: m[3], byKey: map[string]element{}}
		if elements := elementsPattern.FindStringSubmatch(m[3]); elements != nil {
			b.body = strings.Replace(b.body, elements[0], "", 1)
			for _, text := range between.Split(elements[1], -1) {
				e := elementPattern.FindStringSubmatch(text)
				b.elements = append(b.elements, element{text: text, key: e[1], comment: e[2], value: e[3]})
			}
		}
		for _, e := range b.elements {
			b.byKey[e.key] = e
		}
		l.blocks = append(l.blocks, b)
		l.byName[b.name] = b
	}
	return l
}

// keyOf is the key that the set has for the parts of a service: as many as its type.
func (b *block) keyOf(parts ...string) string {
	if m := typePattern.FindStringSubmatch(b.body); m != nil {
		parts = parts[:min(len(parts), strings.Count(m[1], " . ")+1)]
	}
	return strings.Join(parts, " . ")
}

// manyElements is how many a set may have to be shown in full.
const manyElements = 64

// String is the block as nft prints it, with one element on a line.
func (b *block) String() string {
	if b == nil {
		return "nothing"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "\t%s %s {\n%s", b.kind, b.name, b.body)
	var lines []string
	for _, e := range b.elements {
		lines = append(lines, e.text)
	}
	if more := len(lines) - 4; len(lines) > manyElements {
		lines = slices.Concat(lines[:4], []string{fmt.Sprintf("… and %d more", more)})
	}
	if len(lines) > 0 {
		fmt.Fprintf(&s, "\t\telements = { %s }\n", strings.Join(lines, ",\n\t\t             "))
	}
	s.WriteString("\t}\n")
	return s.String()
}

// text is the listing without the blocks that were shown before.
func (l *listing) text(shown map[string]string) string {
	var parts, repeated []string
	for _, b := range l.blocks {
		text := b.String()
		if shown[b.name] == text {
			repeated = append(repeated, b.name)
			continue
		}
		if b.kind == "chain" {
			shown[b.name] = text
		}
		parts = append(parts, text)
	}
	if len(repeated) > 0 {
		parts = append(parts, "\t# as above: "+strings.Join(repeated, ", ")+"\n")
	}
	return strings.ReplaceAll("table inet portway {\n"+strings.Join(parts, "\n")+"}\n", "\t", "  ")
}
