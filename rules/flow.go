package rules

import (
	"net/netip"
	"slices"
)

// Flow is what conntrack knows of one flow.
type Flow struct {
	Protocol Protocol
	// Src and Dst are of the original direction, before any translation.
	Src, Dst netip.AddrPort
	// Endpoint is the source of the replies: where the flow was translated to, and Dst
	// itself where it was not, as with a flow that is older than the rules.
	Endpoint netip.AddrPort
}

// Keeps reports whether a flow may go on as it is: it leads to one of the Endpoints of
// its Frontend, whatever their weight, to one that is Draining or, if it is of TCP, to
// one that is Lingering. A flow whose destination is no Frontend is not ours, and kept.
//
// It is the reference for the repair of UDP flows, which unlike those of TCP have no
// end of their own: an entry that is not kept is to be deleted, and the next datagram
// of that client then finds its endpoint as a new flow does. A backend of weight 0
// keeps what it has, as weights are of new flows (Gateway API v1.6 BackendRef.weight).
func (s *State) Keeps(f Flow) bool {
	frontend := s.Frontend(FrontendKey{Addr: f.Dst.Addr().Unmap(), Protocol: f.Protocol, Port: f.Dst.Port()})
	if frontend == nil {
		return true
	}
	endpoint := netip.AddrPortFrom(f.Endpoint.Addr().Unmap(), f.Endpoint.Port())
	return slices.ContainsFunc(frontend.Backends, func(b Backend) bool {
		return slices.Contains(b.Draining, endpoint) ||
			f.Protocol == TCP && slices.Contains(b.Lingering, endpoint) ||
			slices.ContainsFunc(b.Endpoints, func(e Endpoint) bool { return e.Addr == endpoint })
	})
}
