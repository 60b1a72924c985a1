package main

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// sizePrefix begins a sentence on what was left out at one size: 1000x10.
var sizePrefix = regexp.MustCompile(`^(\d+)x(\d+): `)

// mergeSizes makes one sentence, with all sizes, of those that differ in nothing but their size or
// that they name none.
func mergeSizes(sentences []string) []string {
	type merged struct {
		text      string
		sizes     []figure.Figure
		elsewhere bool
	}
	var all []merged
	for _, sentence := range sentences {
		text := sizePrefix.ReplaceAllString(sentence, "")
		at := slices.IndexFunc(all, func(m merged) bool { return m.text == text })
		if at < 0 {
			at, all = len(all), append(all, merged{text: text})
		}
		found := sizePrefix.FindStringSubmatch(sentence)
		if found == nil {
			all[at].elsewhere = true
			continue
		}
		listeners, _ := strconv.Atoi(found[1])
		endpoints, _ := strconv.Atoi(found[2])
		all[at].sizes = append(all[at].sizes, figure.Figure{Listeners: listeners, Endpoints: endpoints})
	}
	out := make([]string, 0, len(all))
	for _, m := range all {
		if len(m.sizes) == 0 {
			out = append(out, m.text)
			continue
		}
		slices.SortFunc(m.sizes, func(a, b figure.Figure) int {
			return cmp.Or(cmp.Compare(a.Listeners, b.Listeners), cmp.Compare(a.Endpoints, b.Endpoints))
		})
		var at []string
		for _, f := range m.sizes {
			at = append(at, size(f))
		}
		if m.elsewhere {
			at = append(at, "elsewhere")
		}
		out = append(out, enumerate(at)+": "+m.text)
	}
	return out
}

// enumerate writes a, b and c.
func enumerate(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}
