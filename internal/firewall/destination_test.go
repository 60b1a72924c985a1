package firewall

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/portway-dev/portway/rules"
)

// TestCensusEndsWhereAFreshOneEnds follows random changes and compares with a count of the
// outcome.
func TestCensusEndsWhereAFreshOneEnds(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	kept := new(census)
	traffic := Traffic{State: &rules.State{}}
	seen := map[profile]bool{}
	for step := range 2000 {
		addr := []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}[r.IntN(3)]
		key := frontend(addr, []rules.Protocol{rules.TCP, rules.UDP}[r.IntN(2)], 80)
		var f *rules.Frontend
		if r.IntN(3) == 0 {
			endpoint := netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(1+r.IntN(3)))
			f = &rules.Frontend{Backends: []rules.Backend{{Weight: 1, Endpoints: []rules.Endpoint{{Addr: endpoint, Local: r.IntN(2) == 0}}}}}
		}
		traffic.State = traffic.State.Apply(map[rules.FrontendKey]*rules.Frontend{key: f}, nil)
		if r.IntN(10) == 0 {
			traffic.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}[:r.IntN(3)]
		}
		got, want := kept.profile(traffic), new(census).profile(traffic)
		if got != want {
			t.Fatalf("step %d: %+v, want %+v", step, got, want)
		}
		seen[got] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %s were seen", fmt.Sprint(seen))
	}
}
