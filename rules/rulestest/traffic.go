package rulestest

import (
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/portway-dev/portway/rules"
)

// Packets are some to every Frontend that a random State can have, and to neighbours: from
// clients, from endpoints, and from a Frontend's own address.
func Packets(r *rand.Rand) []rules.Packet {
	var out []rules.Packet
	for _, addr := range append(Addresses[:], netip.MustParseAddr("192.0.2.3")) {
		src := netip.MustParseAddr("198.51.100.7")
		if addr.Is6() {
			src = netip.MustParseAddr("2001:db8:c::7")
		}
		sources := []netip.Addr{src, addr}
		for e := range byte(6) {
			sources = append(sources, Endpoint(addr.Is6(), byte(r.IntN(2)), e))
		}
		for port := uint16(79); port < 85; port++ {
			for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
				out = append(out, rules.Packet{
					Protocol: protocol,
					Src:      netip.AddrPortFrom(sources[r.IntN(len(sources))], uint16(1+r.IntN(65535))),
					Dst:      netip.AddrPortFrom(addr, port),
				})
			}
		}
	}
	return out
}

// InvalidPackets yields an invalid packet from every endpoint that a random State can
// have, and what is to become of it: it is dropped if it comes from one that this State
// has, also from one that gets no new flow, and else it passes.
func InvalidPackets(s *rules.State) iter.Seq2[Packet, Verdict] {
	endpoints := make(map[rules.Flow]bool)
	for key, f := range s.All() {
		for _, b := range f.Backends {
			for _, e := range b.Endpoints {
				endpoints[rules.Flow{Protocol: key.Protocol, Src: e.Addr}] = true
			}
			for _, e := range slices.Concat(b.Draining, b.Lingering) {
				endpoints[rules.Flow{Protocol: key.Protocol, Src: e}] = true
			}
		}
	}
	return func(yield func(Packet, Verdict) bool) {
		for i := range byte(48) {
			ipv6 := i%2 == 1
			p := Packet{
				Protocol: []rules.Protocol{rules.TCP, rules.UDP}[i/2%2], State: Invalid,
				Src: netip.AddrPortFrom(Endpoint(ipv6, i/4%2, i/8), endpointPort),
				Dst: netip.AddrPortFrom(Endpoint(ipv6, 9, 9), 1),
			}
			want := Accepted
			if endpoints[rules.Flow{Protocol: p.Protocol, Src: p.Src}] {
				want = Dropped
			}
			if !yield(p, want) {
				return
			}
		}
	}
}
