package rulestest

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"

	"github.com/portway-dev/portway/rules"
)

// Addresses are those of a random State's Frontends, all on ports 80 to 83.
var Addresses = [...]netip.Addr{
	netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1"),
}

// endpointPort is that of all endpoints of a random State.
const endpointPort = 8080

// State returns a State of up to 24 Frontends of three Gateways, whose digests are all
// "d". Its endpoints are few enough for Frontends, and backends of one, to share some;
// one is on the same node for all of them.
func State(r *rand.Rand) *rules.State {
	frontends, digests := make(map[rules.FrontendKey]*rules.Frontend), make(map[string]string)
	for _, addr := range Addresses {
		for port := range uint16(4) {
			for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
				if r.IntN(3) > 0 {
					k := rules.FrontendKey{Addr: addr, Protocol: protocol, Port: 80 + port}
					frontends[k] = Frontend(r, k)
					digests[frontends[k].Owner.Gateway] = "d"
				}
			}
		}
	}
	return rules.NewState(frontends, digests)
}

// VariedState returns a State with a Frontend for each Selection, protocol and family that
// draws: some flows are refused and at least two endpoints get some, each no few of them.
func VariedState(r *rand.Rand) *rules.State {
	frontends := make(map[rules.FrontendKey]*rules.Frontend)
	for _, selection := range []rules.Selection{rules.Random, rules.FlowHash, rules.ClientHash} {
		for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
			for _, addr := range Addresses[1:] {
				k := rules.FrontendKey{Addr: addr, Protocol: protocol, Port: 80 + uint16(selection)}
				for frontends[k] == nil || !draws(k, frontends[k]) {
					frontends[k] = Frontend(r, k)
					frontends[k].Select = selection
				}
			}
		}
	}
	return rules.NewState(frontends, nil)
}

// draws reports whether a Frontend refuses and has two endpoints, each with 5 % at least.
func draws(k rules.FrontendKey, f *rules.Frontend) bool {
	s := rules.NewState(map[rules.FrontendKey]*rules.Frontend{k: f}, nil)
	outcomes := s.Match(rules.Packet{Protocol: k.Protocol, Dst: netip.AddrPortFrom(k.Addr, k.Port)}).Outcomes
	for _, o := range outcomes {
		if o.Share.Cmp(big.NewRat(1, 20)) < 0 {
			return false
		}
	}
	return len(outcomes) > 2 && outcomes[0].Refused()
}

// Frontend returns a random one, of one or no Gateway's.
func Frontend(r *rand.Rand, k rules.FrontendKey) *rules.Frontend {
	f := &rules.Frontend{
		Owner: rules.Owner{
			Gateway: fmt.Sprintf("ns/gw-%d", r.IntN(3)), Listener: fmt.Sprint(k.Port), Route: fmt.Sprintf("ns/r%d", r.IntN(2)),
		},
		Select: rules.Selection(r.IntN(2)),
	}
	if r.IntN(12) == 0 { // a large one
		f.Select = rules.ClientHash
	}
	for b := range r.IntN(5) {
		one := rules.Backend{Ref: fmt.Sprintf("ns/svc-%d", b), Weight: weight(r)}
		for e := range byte(6) {
			at := netip.AddrPortFrom(Endpoint(k.Addr.Is6(), byte(b%2), e), endpointPort)
			switch r.IntN(5) {
			case 0:
				one.Endpoints = append(one.Endpoints, rules.Endpoint{Addr: at, Name: fmt.Sprintf("pod-%d", e), Local: e%2 == 0})
			case 1:
				one.Draining = append(one.Draining, at)
			case 2:
				one.Lingering = append(one.Lingering, at)
			}
		}
		f.Backends = append(f.Backends, one)
	}
	return f
}

// Endpoint returns the address of one of a random State's endpoints, of six of two
// backends; those of even numbers are on this node.
func Endpoint(ipv6 bool, backend, number byte) netip.Addr {
	if ipv6 {
		return netip.AddrFrom16([16]byte{0: 0xfd, 14: backend, 15: number})
	}
	return netip.AddrFrom4([4]byte{10, 0, backend, number})
}

// weight is mostly small, and at times an extreme.
func weight(r *rand.Rand) uint32 {
	switch r.IntN(10) {
	case 0:
		return rules.MaxWeight
	case 1:
		return uint32(r.IntN(rules.MaxWeight))
	}
	return uint32(r.IntN(4))
}
