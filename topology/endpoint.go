package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

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
	slices   []*discoveryv1.EndpointSlice
	ports    map[usedPort]*[2]portEndpoints
	places   map[portKey]*[2]nodeSet
	warnings []string
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
func newServiceEndpoints(given []*discoveryv1.EndpointSlice) *serviceEndpoints {
	sorted := slices.Clone(given)
	slices.SortFunc(sorted, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	return &serviceEndpoints{slices: sorted, ports: map[usedPort]*[2]portEndpoints{}, places: map[portKey]*[2]nodeSet{}}
}

// endpoints returns the endpoints of one Service port per family, in the order of
// their addresses.
func (s *serviceEndpoints) endpoints(node Node, port usedPort) *[2]portEndpoints {
	if known := s.ports[port]; known != nil {
		return known
	}
	var found [2][]candidate
	s.each(port.portKey, func(e *discoveryv1.Endpoint, addr netip.AddrPort) {
		family := familyOf(addr.Addr())
		found[family] = append(found[family], newCandidate(node, e, addr))
	})
	result := new([2]portEndpoints)
	for i := range result {
		result[i] = choose(merge(found[i]), port.localOnly)
	}
	s.ports[port] = result
	return result
}

// each goes through the endpoints of one Service port.
func (s *serviceEndpoints) each(port portKey, yield func(*discoveryv1.Endpoint, netip.AddrPort)) {
	for _, slice := range s.slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			s.warn(slice, "addressType FQDN is not supported; list IP addresses")
			continue
		}
		number, offered := targetPort(slice, port)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			addr, reason := endpointAddress(slice, e)
			switch {
			case reason != "":
				s.warn(slice, "endpoints[%d] left out: %s", i, reason)
			case offered:
				yield(e, netip.AddrPortFrom(addr, number))
			}
		}
	}
}

// nodes returns per family which nodes have an endpoint of one Service port that gets new
// flows with externalTrafficPolicy Local: a ready one; where no node has any, one that is
// terminating but still serving.
func (s *serviceEndpoints) nodes(port portKey) *[2]nodeSet {
	if known := s.places[port]; known != nil {
		return known
	}
	var ofReady, ofLeaving [2]nodeSet
	s.each(port, func(e *discoveryv1.Endpoint, addr netip.AddrPort) {
		node, family := ptr.Deref(e.NodeName, ""), familyOf(addr.Addr())
		c := newCandidate(Node{}, e, addr)
		switch {
		case node == "":
		case c.traits.has(ready):
			ofReady[family] = ofReady[family].with(node)
		case c.traits.has(leaving):
			ofLeaving[family] = ofLeaving[family].with(node)
		}
	})
	for family := range ofReady {
		if len(ofReady[family]) == 0 {
			ofReady[family] = ofLeaving[family]
		}
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

// warn notes a fault of a slice; faults are found again for every port of the
// Service and reported once.
func (s *serviceEndpoints) warn(slice *discoveryv1.EndpointSlice, format string, args ...any) {
	if len(s.ports) == 0 && len(s.places) == 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("EndpointSlice %s/%s: ", slice.Namespace, slice.Name)+fmt.Sprintf(format, args...))
	}
}

// targetPort finds a Service port in a slice. A slice without it has nothing to
// offer for that port, which is normal. A port without a number ("all ports") is
// none that a Service port can mean.
func targetPort(slice *discoveryv1.EndpointSlice, port portKey) (uint16, bool) {
	for _, p := range slice.Ports {
		if ptr.Deref(p.Name, "") != port.name || p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		if protocolOf(ptr.Deref(p.Protocol, corev1.ProtocolTCP)) == port.protocol {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func protocolOf(p corev1.Protocol) rules.Protocol {
	switch p {
	case corev1.ProtocolTCP:
		return rules.TCP
	case corev1.ProtocolUDP:
		return rules.UDP
	default: // SCTP and whatever follows: no route kind has it
		return 0
	}
}

// endpointAddress returns an endpoint's address, or why it cannot be one. Only the
// first address counts, as everywhere in Kubernetes (discovery/v1 Endpoint.addresses).
func endpointAddress(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) (netip.Addr, string) {
	if len(e.Addresses) == 0 {
		return netip.Addr{}, "it has no address"
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return netip.Addr{}, fmt.Sprintf("%q is not an IP address", e.Addresses[0])
	}
	addr = addr.Unmap()
	switch {
	case addr.Is4() != (slice.AddressType == discoveryv1.AddressTypeIPv4):
		return netip.Addr{}, fmt.Sprintf("%s is not of the slice's addressType %s", addr, slice.AddressType)
	case addr.IsUnspecified():
		return netip.Addr{}, fmt.Sprintf("%s is the unspecified address", addr)
	case addr.IsLoopback():
		return netip.Addr{}, fmt.Sprintf("%s is a loopback address", addr)
	case addr.IsLinkLocalUnicast(), addr.Zone() != "":
		return netip.Addr{}, fmt.Sprintf("%s is a link-local address", addr)
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Sprintf("%s is a multicast or broadcast address", addr)
	}
	return addr, ""
}
