package announce

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAbsent: who is restarted is not named, whoever else is missing, and does not change what
// is said of others.
func TestAbsent(t *testing.T) {
	var a absent
	start := time.Unix(1e9, 0)
	for _, step := range []struct {
		at      time.Duration
		missing string // last bytes of addresses
		want    string
	}{
		{0, "2", ""},
		{missingFor - 1, "2", ""},
		{missingFor, "2", "2"},
		{missingFor + 1, "3 2", "2"},
		{2 * missingFor, "2", "2"},
		{2*missingFor + 1, "2 3", "2"}, // again
		{3 * missingFor, "2 3", "2"},
		{3*missingFor + 1, "3 2", "2 3"},
		{4 * missingFor, "3", "3"},
		{5 * missingFor, "", ""},
		{6 * missingFor, "3", ""},
	} {
		var missing []netip.AddrPort
		for _, last := range strings.Fields(step.missing) {
			missing = append(missing, netip.MustParseAddrPort("192.0.2."+last+":7946"))
		}
		a = a.next(missing, start.Add(step.at))
		var want []string
		for _, last := range strings.Fields(step.want) {
			want = append(want, "192.0.2."+last)
		}
		if got := a.long(start.Add(step.at)); !slices.Equal(got, want) {
			t.Errorf("after %s: %v, want %v", step.at, got, want)
		}
	}
}
