package topology

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/portway-dev/portway/rules"
)

type family uint8

const (
	ipv4 family = iota
	ipv6
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// portKey is how an EndpointSlice names a Service port: by the Service port's
// name and protocol. Its number there is the target port, which may differ from
// slice to slice (named target ports).
type portKey struct {
	name     string
	protocol rules.Protocol
}

// serviceEndpoints are the EndpointSlices of one Service and what was read from
// them. One Service port's endpoints are one slice, shared by all who use it.
type serviceEndpoints struct {
	slices   []*EndpointSlice
	ports    []usedEndpoints // few Services have more than one that is used
	places   map[portKey]*[2]nodeSet
	looked   bool // at the slices
	warnings []string
}

// usedEndpoints are what was found for a port per family.
type usedEndpoints struct {
	usedPort
	found [2]portEndpoints
}

// nodeSet are nodes by name.
type nodeSet map[string]bool

// usedPort is a Service port together with the policy it is used with.
type usedPort struct {
	portKey
	localOnly bool
}

// portEndpoints are the endpoints of one Service port and family, as a
// rules.Backend has them.
type portEndpoints struct {
	endpoints []rules.Endpoint
	draining  []netip.AddrPort
	lingering []netip.AddrPort
}

// newServiceEndpoints takes the slices in the order of their names, so that the
// outcome does not depend on the order in which they arrived.
func newServiceEndpoints(given []*EndpointSlice) *serviceEndpoints {
	sorted := slices.Clone(given)
	slices.SortFunc(sorted, func(a, b *EndpointSlice) int { return strings.Compare(a.name, b.name) })
	return &serviceEndpoints{slices: sorted}
}

// endpoints returns the endpoints of one Service port per family, in the order of
// their addresses.
func (s *serviceEndpoints) endpoints(node Node, port usedPort) *[2]portEndpoints {
	for i := range s.ports {
		if s.ports[i].usedPort == port {
			return &s.ports[i].found
		}
	}
	var found [2][]candidate
	s.each(port.portKey, func(e sliceEndpoint, addr netip.AddrPort) {
		family := familyOf(addr.Addr())
		found[family] = append(found[family], newCandidate(node, &e, addr))
	})
	known := usedEndpoints{usedPort: port}
	for i := range known.found {
		known.found[i] = choose(merge(found[i]), port.localOnly)
	}
	s.ports = append(s.ports, known)
	return &known.found
}

// each goes through the endpoints of one Service port.
func (s *serviceEndpoints) each(port portKey, yield func(sliceEndpoint, netip.AddrPort)) {
	for _, slice := range s.slices {
		if !s.looked { // faults are those of every port
			s.warnings = append(s.warnings, slice.faults...)
		}
		number, offered := slice.port(port)
		if !offered {
			continue
		}
		for i := range slice.endpoints {
			e := slice.endpoint(i)
			yield(e, netip.AddrPortFrom(e.addr, number))
		}
	}
	s.looked = true
}

// nodes returns per family which nodes have an endpoint of one Service port that gets new
// flows with externalTrafficPolicy Local: a ready one; where no node has any, one that is
// terminating but still serving.
func (s *serviceEndpoints) nodes(port portKey) *[2]nodeSet {
	if known := s.places[port]; known != nil {
		return known
	}
	var ofReady, ofLeaving [2]nodeSet
	s.each(port, func(e sliceEndpoint, addr netip.AddrPort) {
		node, family := e.node.Value(), familyOf(addr.Addr())
		switch {
		case node == "":
		case e.traits.has(ready):
			ofReady[family] = ofReady[family].with(node)
		case e.traits.has(leaving):
			ofLeaving[family] = ofLeaving[family].with(node)
		}
	})
	for family := range ofReady {
		if len(ofReady[family]) == 0 {
			ofReady[family] = ofLeaving[family]
		}
	}
	if s.places == nil {
		s.places = map[portKey]*[2]nodeSet{}
	}
	s.places[port] = &ofReady
	return &ofReady
}

func (n nodeSet) with(name string) nodeSet {
	if n == nil {
		n = nodeSet{}
	}
	n[name] = true
	return n
}
