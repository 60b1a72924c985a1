package main

import (
	"fmt"
	"strings"

	"github.com/portway-dev/portway/internal/netns"
)

// shorten leaves out of a table's listing what is there but not in use, and says
// how much that is.
func shorten(table string) string {
	brief, chains, sets := netns.Brief(table)
	short := strings.TrimRight(strings.TrimSuffix(strings.TrimRight(brief, "\n"), "\n}"), "\n")
	note := fmt.Sprintf("\t# Not in use and not shown: %d sets and maps without elements,\n"+
		"\t# %d chains for other slot counts.", sets, chains)
	return narrow(short + "\n\n" + note + "\n}\n")
}

// narrow turns the tabs of a listing into two blanks per level and keeps the
// continuation lines of elements under their first.
func narrow(listing string) string {
	var b strings.Builder
	for line := range strings.Lines(listing) {
		text := strings.TrimLeft(line, "\t ")
		indent := 0
		for _, c := range line[:len(line)-len(text)] {
			if c == '\t' {
				indent += 8
			} else {
				indent++
			}
		}
		indent -= min(indent/8, 2) * 6
		b.WriteString(strings.Repeat(" ", indent) + text)
	}
	return b.String()
}
