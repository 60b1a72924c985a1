package rules

import (
	"cmp"
	"maps"
	"math/big"
	"net/netip"
	"slices"
)

// Packet is the first packet of a flow, before any translation.
type Packet struct {
	Protocol Protocol
	Src, Dst netip.AddrPort
}

// Decision is what a State demands for a new flow. It is the reference every
// backend is measured against: it knows shares, not slots, and nothing of how a
// backend draws.
type Decision struct {
	// Frontend that serves the packet; nil when it is none of ours and must pass
	// as if we were not there, or is Unowned.
	Frontend *Frontend
	// Unowned: no Frontend takes the packet, and its address is exclusive. All of it is
	// refused on the node: TCP by RST, UDP by ICMP port unreachable. Packets of other
	// protocols are dropped, but for ICMP echo requests: the node answers those.
	Unowned bool
	// Outcomes with a probability above zero, refusal first, then by endpoint.
	// Their shares add up to exactly 1.
	Outcomes []Outcome
}

// Outcome is one thing that can happen to a new flow.
type Outcome struct {
	// Endpoint the flow is translated to; the zero value means refused: a TCP RST,
	// a silent drop for UDP but where the Decision is Unowned.
	Endpoint netip.AddrPort
	// Share of new flows: exact. With ClientHash it is the share of the clients, but for
	// the refusal, which each new flow draws anew.
	Share *big.Rat
	// Masquerade: the endpoint must see this node as the source, because it is on
	// another node or because it is the client itself (hairpin).
	Masquerade bool
}

// Refused reports whether the outcome is a refusal.
func (o Outcome) Refused() bool { return !o.Endpoint.IsValid() }

// Match returns what the State demands for a packet.
//
// Source of the rules: Gateway API v1.6 TCPRouteRule.backendRefs and
// UDPRouteRule.backendRefs (shares by weight, the share of an invalid or empty
// backend is rejected); all weights zero, or no backend, refuses everything.
func (s *State) Match(p Packet) Decision {
	to := p.Dst.Addr().Unmap()
	f := s.Frontend(FrontendKey{Addr: to, Protocol: p.Protocol, Port: p.Dst.Port()})
	switch {
	case f == nil && s.IsExclusive(to):
		return Decision{Unowned: true, Outcomes: []Outcome{{Share: big.NewRat(1, 1)}}}
	case f == nil:
		return Decision{}
	}
	total := int64(0)
	for _, b := range f.Backends {
		total += int64(b.Weight)
	}
	if total == 0 {
		return Decision{Frontend: f, Outcomes: []Outcome{{Share: big.NewRat(1, 1)}}}
	}
	shares := map[netip.AddrPort]Outcome{}
	add := func(e Endpoint, share *big.Rat) {
		o, known := shares[e.Addr]
		if !known {
			o = Outcome{Endpoint: e.Addr, Share: new(big.Rat)}
			o.Masquerade = e.Addr.IsValid() && (!e.Local || e.Addr.Addr() == p.Src.Addr().Unmap())
		}
		o.Share.Add(o.Share, share)
		shares[e.Addr] = o
	}
	for _, b := range f.Backends {
		switch {
		case b.Weight == 0:
		case len(b.Endpoints) == 0:
			add(Endpoint{}, big.NewRat(int64(b.Weight), total))
		default:
			for _, e := range b.Endpoints {
				add(e, big.NewRat(int64(b.Weight), total*int64(len(b.Endpoints))))
			}
		}
	}
	outcomes := slices.SortedFunc(maps.Values(shares), func(a, b Outcome) int {
		return cmp.Or(a.Endpoint.Addr().Compare(b.Endpoint.Addr()), cmp.Compare(a.Endpoint.Port(), b.Endpoint.Port()))
	})
	return Decision{Frontend: f, Outcomes: outcomes}
}
