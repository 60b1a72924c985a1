package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/integration/bench/figure"
)

func noted(name string, notes ...string) group {
	g := group{name: name}
	for i, text := range notes {
		g.figures = append(g.figures, figure.Figure{Name: name, Subject: string(rune('a' + i)), Note: text})
	}
	return g
}

// TestNotes: what the notes of a table end with is said once, below what is of some subjects only.
func TestNotes(t *testing.T) {
	for name, test := range map[string]struct {
		g    group
		told []note
		want string
	}{
		"one":          {g: noted("", "It. All.", "It. All."), want: "It. All.\n\n"},
		"apart":        {g: noted("", "It.", "Other."), want: "a: It.\n\nb: Other.\n\n"},
		"shared":       {g: noted("", "It. At 1.5 s. All.", "Other. At 1.5 s. All."), want: "a: It.\n\nb: Other.\n\nAt 1.5 s. All.\n\n"},
		"only shared":  {g: noted("", "All.", "Other. All."), want: "b: Other.\n\nAll.\n\n"},
		"no sentence":  {g: noted("", "It is all.", "Is all."), want: "a: It is all.\n\nb: Is all.\n\n"},
		"one has none": {g: noted("", "It. All.", "Other. All.", ""), want: "a: It. All.\n\nb: Other. All.\n\n"},
		"told before":  {g: noted("", "It. All.", "Other. All."), told: []note{{text: "It."}}, want: "b: Other.\n\nAll.\n\n"},
	} {
		var got strings.Builder
		test.g.notes(&got, test.told)
		if diff := cmp.Diff(test.want, got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRepeated: notes on subjects that two tables have are said once, with all of their subjects; what
// is of a table is not among them.
func TestRepeated(t *testing.T) {
	var got strings.Builder
	list(&got, repeated([]group{noted("1", "It. Once.", "Other. Once."), noted("2", "It.", "Third.", "It."), noted("3", "Of the table.", "Of the table."), noted("4", "Of the table.", "Of the table.")}))
	if diff := cmp.Diff("Who is in the tables below:\n\n- a, c: It.\n\n", got.String()); diff != "" {
		t.Errorf("repeated notes (-want +got):\n%s", diff)
	}
	got.Reset()
	list(&got, repeated([]group{noted("1", "It.", "Other.")}))
	if got.Len() > 0 {
		t.Errorf("notes of one table: %q", got.String())
	}
}
