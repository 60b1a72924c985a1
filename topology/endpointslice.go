package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/rules"
)

// EndpointSlice is what a Forwarder reads of an EndpointSlice of discovery/v1, in a
// quarter of its memory: an agent holds those of the whole cluster. Immutable.
type EndpointSlice struct {
	namespace, name string

	ports     []slicePort
	endpoints []sliceEndpoint // that could be served
	faults    []string        // why others could not
}

// slicePort is a port that a Service port can mean.
type slicePort struct {
	portKey
	number uint16
}

type sliceEndpoint struct {
	addr   netip.Addr
	pod    string                // empty: it is none
	node   unique.Handle[string] // of few nodes there are many endpoints
	hints  *discoveryv1.EndpointHints
	traits traits // those that are the same on every node
}

// NewEndpointSlice reads an EndpointSlice and keeps nothing of it but strings and hints,
// which must not be changed afterwards.
func NewEndpointSlice(given *discoveryv1.EndpointSlice) *EndpointSlice {
	s := &EndpointSlice{namespace: given.Namespace, name: given.Name}
	if given.AddressType == discoveryv1.AddressTypeFQDN {
		s.fault("addressType FQDN is not supported; list IP addresses")
		return s
	}
	for i := range given.Ports {
		if port, ok := newSlicePort(&given.Ports[i]); ok {
			s.ports = append(s.ports, port)
		}
	}
	s.endpoints = make([]sliceEndpoint, 0, len(given.Endpoints))
	for i := range given.Endpoints {
		e := &given.Endpoints[i]
		addr, reason := endpointAddress(given, e)
		if reason != "" {
			s.fault(fmt.Sprintf("endpoints[%d] left out: %s", i, reason))
			continue
		}
		s.endpoints = append(s.endpoints, newSliceEndpoint(e, addr))
	}
	return s
}

// Name of the object.
func (s *EndpointSlice) Name() string { return s.name }

// Equal reports whether nobody can tell the two from each other.
func (s *EndpointSlice) Equal(o *EndpointSlice) bool {
	return s.namespace == o.namespace && s.name == o.name && slices.Equal(s.ports, o.ports) && slices.Equal(s.faults, o.faults) &&
		slices.EqualFunc(s.endpoints, o.endpoints, func(a, b sliceEndpoint) bool {
			same := sameHints(a.hints, b.hints)
			a.hints, b.hints = nil, nil
			return same && a == b
		})
}

func sameHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForNodes, b.ForNodes) && slices.Equal(a.ForZones, b.ForZones)
}

func (s *EndpointSlice) fault(text string) {
	s.faults = append(s.faults, fmt.Sprintf("EndpointSlice %s/%s: %s", s.namespace, s.name, text))
}

// newSlicePort reads a port. One without a number ("all ports") is none that a Service
// port can mean.
func newSlicePort(p *discoveryv1.EndpointPort) (slicePort, bool) {
	if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
		return slicePort{}, false
	}
	return slicePort{portKey{ptr.Deref(p.Name, ""), protocolOf(ptr.Deref(p.Protocol, corev1.ProtocolTCP))}, uint16(*p.Port)}, true
}

// newSliceEndpoint reads an endpoint. What is not said of its conditions means ready,
// serving and not terminating (discovery/v1 EndpointConditions).
func newSliceEndpoint(e *discoveryv1.Endpoint, addr netip.Addr) sliceEndpoint {
	out := sliceEndpoint{addr: addr, node: unique.Make(ptr.Deref(e.NodeName, "")), hints: e.Hints}
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		out.pod = e.TargetRef.Name
	}
	isReady, isServing := ptr.Deref(e.Conditions.Ready, true), ptr.Deref(e.Conditions.Serving, true)
	out.traits.set(ready, isReady)
	out.traits.set(serving, isReady || isServing)
	out.traits.set(leaving, isServing && ptr.Deref(e.Conditions.Terminating, false))
	return out
}

// port finds a Service port in the slice. A slice without it has nothing to offer for that
// port, which is normal.
func (s *EndpointSlice) port(wanted portKey) (uint16, bool) {
	for _, p := range s.ports {
		if p.portKey == wanted {
			return p.number, true
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
