package rulestest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/portway-dev/portway/rules"
)

// Unreachable is how a packet of UDP leaves a hook that nobody serves.
const (
	Unreachable  Verdict = "REJECT --reject-with icmp-port-unreachable"
	Unreachable6 Verdict = "REJECT --reject-with icmp6-port-unreachable"
)

// Unowned is the verdict about a first packet to an exclusive address that no Frontend
// takes.
func Unowned(p rules.Packet) Verdict {
	switch {
	case p.Protocol == rules.TCP:
		return Reset
	case p.Dst.Addr().Is6():
		return Unreachable6
	}
	return Unreachable
}

// Exclusive returns some of a random State's addresses, and some that it has no Frontend at.
func Exclusive(r *rand.Rand) []netip.Addr {
	var out []netip.Addr
	for _, addr := range append(Addresses[:], netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::2")) {
		if r.IntN(2) == 0 {
			out = append(out, addr)
		}
	}
	return out
}

func wantValue(value, want string) error {
	if value != want {
		return fmt.Errorf("%q: not understood", value)
	}
	return nil
}
