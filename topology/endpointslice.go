package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	family    family
	endpoints []heldEndpoint               // that could be served
	pods      string                       // their names, one after another
	hints     []*discoveryv1.EndpointHints // of each endpoint; nil: none has any
	faults    []string                     // why others could not
}

// slicePort is a port that a Service port can mean.
type slicePort struct {
	portKey
	number uint16
}

// heldEndpoint is what a slice holds of each endpoint. There are more of them than of
// anything else that an agent holds.
type heldEndpoint struct {
	addr   [16]byte              // as netip.Addr.As16
	node   unique.Handle[string] // of few nodes there are many endpoints
	podEnd uint32                // where the pod's name ends in the slice's pods
	traits traits                // those that are the same on every node
}

// sliceEndpoint is an endpoint of a slice, read.
type sliceEndpoint struct {
	addr   netip.Addr
	pod    string // empty: it is none
	node   unique.Handle[string]
	hints  *discoveryv1.EndpointHints
	traits traits
}

// NewEndpointSlice reads an EndpointSlice and keeps nothing of it but strings and hints,
// which must not be changed afterwards. Names of pods are copied: each where it was decoded,
// among what is not kept, they would leave gaps all over the heap.
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
	if given.AddressType == discoveryv1.AddressTypeIPv6 {
		s.family = ipv6
	}
	s.endpoints = make([]heldEndpoint, 0, len(given.Endpoints))
	var pods strings.Builder
	pods.Grow(podsLength(given.Endpoints))
	for i := range given.Endpoints {
		e := &given.Endpoints[i]
		addr, reason := endpointAddress(given, e)
		if reason != "" {
			s.fault(fmt.Sprintf("endpoints[%d] left out: %s", i, reason))
			continue
		}
		s.hold(e, addr, &pods)
	}
	s.pods = pods.String()
	return s
}

// Name of the object.
func (s *EndpointSlice) Name() string { return s.name }

// Equal reports whether nobody can tell the two from each other.
func (s *EndpointSlice) Equal(o *EndpointSlice) bool {
	return s.namespace == o.namespace && s.name == o.name && slices.Equal(s.ports, o.ports) && slices.Equal(s.faults, o.faults) &&
		s.family == o.family && s.pods == o.pods && slices.Equal(s.endpoints, o.endpoints) && slices.EqualFunc(s.hints, o.hints, sameHints)
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

// hold adds an endpoint. What is not said of its conditions means ready, serving and not
// terminating (discovery/v1 EndpointConditions).
func (s *EndpointSlice) hold(e *discoveryv1.Endpoint, addr netip.Addr, pods *strings.Builder) {
	pods.WriteString(podOf(e))
	held := heldEndpoint{addr: addr.As16(), node: unique.Make(ptr.Deref(e.NodeName, "")), podEnd: uint32(pods.Len())}
	isReady, isServing := ptr.Deref(e.Conditions.Ready, true), ptr.Deref(e.Conditions.Serving, true)
	held.traits.set(ready, isReady)
	held.traits.set(serving, isReady || isServing)
	held.traits.set(leaving, isServing && ptr.Deref(e.Conditions.Terminating, false))
	s.endpoints = append(s.endpoints, held)
	if e.Hints != nil || s.hints != nil {
		s.hints = append(s.hints, make([]*discoveryv1.EndpointHints, len(s.endpoints)-1-len(s.hints))...)
		s.hints = append(s.hints, e.Hints)
	}
}

// podOf names the pod that an endpoint is.
func podOf(e *discoveryv1.Endpoint) string {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return ""
	}
	return e.TargetRef.Name
}

// podsLength is how long the names of all pods are together.
func podsLength(endpoints []discoveryv1.Endpoint) (n int) {
	for i := range endpoints {
		n += len(podOf(&endpoints[i]))
	}
	return n
}

// endpoint reads endpoint i.
func (s *EndpointSlice) endpoint(i int) sliceEndpoint {
	held, podBegin := &s.endpoints[i], uint32(0)
	if i > 0 {
		podBegin = s.endpoints[i-1].podEnd
	}
	e := sliceEndpoint{addr: s.addr(i), pod: s.pods[podBegin:held.podEnd], node: held.node, traits: held.traits}
	if s.hints != nil {
		e.hints = s.hints[i]
	}
	return e
}

// addr is the address of endpoint i.
func (s *EndpointSlice) addr(i int) netip.Addr {
	addr := netip.AddrFrom16(s.endpoints[i].addr)
	if s.family == ipv4 {
		return addr.Unmap()
	}
	return addr
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
