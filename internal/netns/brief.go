package netns

import (
	"regexp"
	"strings"
)

var (
	// target matches the header of a chain that elements lead to: to pick one of N
	// slots, or to draw a refused share first.
	target = regexp.MustCompile(`^\tchain ((?:wide-)?(?:random|flow|client)-\d+|draw) \{$`)
	// set matches the header of a set or map.
	set = regexp.MustCompile(`^\t(?:set|map) (\S+) \{$`)
)

// Brief leaves out of a listing of nft what is there but not in use: chains for
// other slot counts, and sets without elements. It returns how many those are.
func Brief(listing string) (brief string, chains, sets int) {
	var b strings.Builder
	for _, block := range blocks(listing) {
		header, _, _ := strings.Cut(block, "\n")
		if m := target.FindStringSubmatch(header); m != nil && !used(listing, m[1]) {
			chains++
			continue
		}
		if set.MatchString(header) && !strings.Contains(block, "elements = {") {
			sets++
			continue
		}
		b.WriteString(block)
	}
	return b.String(), chains, sets
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
