package main

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	// target matches the header of a chain that elements lead to: to pick one of N
	// slots, or to draw a refused share first.
	target = regexp.MustCompile(`^\tchain ((?:random|flow)-\d+|draw) \{$`)
	// set matches the header of a set or map.
	set = regexp.MustCompile(`^\t(?:set|map) (\S+) \{$`)
)

// shorten leaves out of a table's listing what is there but not in use: chains for
// other slot counts, and sets without elements. It says how many those are.
func shorten(table string) string {
	var b strings.Builder
	chains, sets := 0, 0
	for _, block := range blocks(table) {
		header, _, _ := strings.Cut(block, "\n")
		if m := target.FindStringSubmatch(header); m != nil && !used(table, m[1]) {
			chains++
			continue
		}
		if set.MatchString(header) && !strings.Contains(block, "elements = {") {
			sets++
			continue
		}
		b.WriteString(block)
	}
	short := strings.TrimRight(strings.TrimSuffix(strings.TrimRight(b.String(), "\n"), "\n}"), "\n")
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

// used reports whether an element leads to a chain. What follows its name is a
// comma, a blank or the end of the line.
func used(table, chain string) bool {
	for rest := table; ; {
		_, after, found := strings.Cut(rest, "goto "+chain)
		if !found {
			return false
		}
		if after == "" || strings.ContainsRune(", \n", rune(after[0])) {
			return true
		}
		rest = after
	}
}

// blocks cuts a listing into its sets, maps and chains, each with the lines
// between it and the next.
func blocks(table string) []string {
	var out []string
	var block strings.Builder
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "\t\t") && strings.HasSuffix(line, "{\n") {
			out = append(out, block.String())
			block.Reset()
		}
		block.WriteString(line)
	}
	return append(out, block.String())
}
