package shorten

import "testing"

func TestTo(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 5, ""},
		{"short", 5, "short"},
		{"longer", 5, "lo…"},
		{"ééé", 6, "ééé"},
		{"éééé", 7, "éé…"},
		{"éééé", 6, "é…"}, // not within a character
	} {
		if got := To(test.text, test.limit); got != test.want {
			t.Errorf("To(%q, %d) = %q, want %q", test.text, test.limit, got, test.want)
		}
	}
}
