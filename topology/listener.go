package topology

import (
	"slices"

	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxListeners is how many listeners a Gateway or ListenerSet may have
// (MaxItems of spec.listeners and of status.listeners). The API server enforces
// it; YAML files reach us without one.
const maxListeners = 64

var (
	tcpKinds = []gatewayv1.RouteGroupKind{{Group: ptr.To(gatewayv1.Group(gatewayv1.GroupName)), Kind: KindTCPRoute}}
	udpKinds = []gatewayv1.RouteGroupKind{{Group: ptr.To(gatewayv1.Group(gatewayv1.GroupName)), Kind: KindUDPRoute}}
	noKinds  = []gatewayv1.RouteGroupKind{} // status shows "supportedKinds: []"
)

// newListeners reads the listeners of a Gateway, or of a set if that is not nil,
// and judges each by itself. A name that occurs twice gives one rejected
// Listener, because name is the key of status.listeners. Entries beyond
// maxListeners are left out; excess says how many.
func newListeners(gateway *Gateway, set *ListenerSet, specs []gatewayv1.Listener) (listeners []*Listener, excess int) {
	if len(specs) > maxListeners {
		excess = len(specs) - maxListeners
		specs = specs[:maxListeners]
	}
	byName := make(map[gatewayv1.SectionName]*Listener, len(specs))
	listeners = make([]*Listener, 0, len(specs))
	all := make([]Listener, len(specs)) // in one piece, they live as long as each other
	for i := range specs {
		if first, known := byName[specs[i].Name]; known {
			first.fault = duplicateName(first, i)
			continue
		}
		listener := &all[i]
		listener.read(gateway, set, i, &specs[i])
		byName[listener.Name] = listener
		listeners = append(listeners, listener)
	}
	for _, listener := range listeners {
		listener.Valid = !listener.fault.exists()
	}
	return listeners, excess
}

// read fills in a listener from its spec and judges it by itself.
func (l *Listener) read(gateway *Gateway, set *ListenerSet, index int, spec *gatewayv1.Listener) {
	*l = Listener{Gateway: gateway, Set: set, Name: spec.Name, Protocol: spec.Protocol, index: index}
	if spec.Port >= 1 && spec.Port <= 65535 {
		l.Port = uint16(spec.Port)
	}
	home := gateway.Key.Namespace
	if set != nil {
		home = set.Key.Namespace // "Same" is the namespace of the object that holds the listener
	}
	allowed := ptr.Deref(spec.AllowedRoutes, gatewayv1.AllowedRoutes{})
	from := ptr.Deref(allowed.Namespaces, gatewayv1.RouteNamespaces{})
	var err error
	l.namespaces, err = newNamespacePolicy(ptr.Deref(from.From, gatewayv1.NamespacesFromSame), from.Selector, home)
	l.SupportedKinds = l.kinds(allowed.Kinds)

	_, supported := l.TransportProtocol()
	switch {
	case !supported:
		l.fault = protocolUnsupported(l)
	case l.Name == "":
		l.fault = nameMissing(l)
	case l.Port == 0:
		l.fault = portOutOfRange(l, spec.Port)
	case ptr.Deref(spec.Hostname, "") != "":
		l.fault = hostnameUnsupported(l)
	case spec.TLS != nil:
		l.fault = tlsUnsupported(l)
	case err != nil:
		l.fault = routeNamespacesInvalid(l, err)
	}
}

// kinds returns those of the wanted route kinds that this listener's protocol
// can have, all of them when none is named, and notes the others
// (ListenerStatus.SupportedKinds).
func (l *Listener) kinds(wanted []gatewayv1.RouteGroupKind) []gatewayv1.RouteGroupKind {
	possible := noKinds
	switch l.Protocol {
	case gatewayv1.TCPProtocolType:
		possible = tcpKinds
	case gatewayv1.UDPProtocolType:
		possible = udpKinds
	default: // none
	}
	if len(wanted) == 0 {
		return possible
	}
	kinds := noKinds
	for i, want := range wanted {
		group := ptr.Deref(want.Group, gatewayv1.GroupName)
		if len(possible) > 0 && group == gatewayv1.GroupName && want.Kind == possible[0].Kind {
			kinds = possible
		} else if !l.kindsFault.exists() {
			l.kindsFault = kindUnsupported(l, i, group, want.Kind)
		}
	}
	return kinds
}

// allowsKind: routes of this kind may attach.
func (l *Listener) allowsKind(kind gatewayv1.Kind) bool {
	return slices.ContainsFunc(l.SupportedKinds, func(k gatewayv1.RouteGroupKind) bool { return k.Kind == kind })
}

// attach adds a route. Routes come oldest first; one that selects the listener
// through two parentRefs counts once.
func (l *Listener) attach(route *Route) {
	if n := len(l.Attached); n == 0 || l.Attached[n-1] != route {
		l.Attached = append(l.Attached, route)
	}
}

func (l *Listener) reject(f fault) {
	if !l.fault.exists() { // the first fault found is the most specific
		l.fault = f
	}
	l.Valid = false
}

func rejectAll(listeners []*Listener, f fault) {
	for _, listener := range listeners {
		listener.reject(f)
	}
}

func isValid(l *Listener) bool { return l.Valid }

func countValid(listeners []*Listener) int {
	n := 0
	for _, listener := range listeners {
		if listener.Valid {
			n++
		}
	}
	return n
}
