package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/rules"
)

// Forwarder turns a Graph and EndpointSlices into the State of one node. It keeps
// what it made: a change of one Service's endpoints renews only the Frontends
// that use that Service, and a new Graph keeps every Frontend it does not
// change, so that a backend can tell what to do by comparing pointers.
//
// Inputs are taken as they come and worked on by State. Not safe for concurrent
// use; the States it returns are.
type Forwarder struct {
	node  Node
	graph *Graph

	services map[types.NamespacedName]*serviceEndpoints
	users    map[types.NamespacedName][]*Listener // valid listeners whose winner names the Service
	changed  map[types.NamespacedName]bool        // Services whose slices changed since State
	warnings map[types.NamespacedName][]string    // of the used Services that have any
	owners   map[rules.FrontendKey]*Listener      // who has what
	withheld map[types.NamespacedName][]string    // of Gateways, what they do not have here
	rebuild  bool                                 // the Graph or the Node changed since State

	state *rules.State
}

// NewForwarder returns a Forwarder for a node, with no Graph and no endpoints.
func NewForwarder(node Node) *Forwarder {
	return &Forwarder{
		node:     node,
		graph:    &Graph{},
		services: map[types.NamespacedName]*serviceEndpoints{},
		changed:  map[types.NamespacedName]bool{},
		warnings: map[types.NamespacedName][]string{},
		state:    &rules.State{},
	}
}

// SetGraph replaces the decision.
func (f *Forwarder) SetGraph(g *Graph) {
	f.graph, f.rebuild = g, true
}

// SetNode replaces the node.
func (f *Forwarder) SetNode(node Node) {
	f.node, f.rebuild = node, true
	for name, s := range f.services {
		f.services[name] = newServiceEndpoints(s.slices)
	}
}

// SetEndpointSlices replaces all EndpointSlices of one Service; none removes its
// endpoints. The slices must not be changed afterwards.
func (f *Forwarder) SetEndpointSlices(service types.NamespacedName, slices []*EndpointSlice) {
	f.changed[service] = true
	if len(slices) == 0 {
		delete(f.services, service)
		return
	}
	f.services[service] = newServiceEndpoints(slices)
}

// State returns the State for everything set so far. Without a change since the
// last call it is the same one.
func (f *Forwarder) State() *rules.State {
	changes := map[rules.FrontendKey]*rules.Frontend{}
	var digests map[string]string
	if f.rebuild {
		digests = f.indexGraph()
		f.settlePlaces()
		f.renewAll(changes)
		clear(f.warnings)
		for service := range f.users {
			f.warn(service)
		}
	} else {
		for service := range f.changed {
			for _, listener := range f.users[service] {
				f.renew(listener, changes)
			}
			f.warn(service)
		}
	}
	if len(changes) > 0 || digests != nil {
		f.state = f.state.Apply(changes, digests)
	}
	if f.rebuild {
		f.state = f.state.WithExclusive(f.exclusive())
	}
	f.rebuild = false
	f.changed = map[types.NamespacedName]bool{} // a cleared one stays as large as it once was
	return f.state
}

// Warnings returns one line per endpoint that is left out of the State although
// its Service is used, in order. They are those of the last State.
func (f *Forwarder) Warnings() []string {
	var warnings []string
	for _, lines := range f.warnings {
		warnings = append(warnings, lines...)
	}
	slices.Sort(warnings)
	return warnings
}

// warn takes over what there is to say about a Service's endpoints.
func (f *Forwarder) warn(service types.NamespacedName) {
	s := f.services[service]
	if s == nil || len(f.users[service]) == 0 || len(s.warnings) == 0 {
		delete(f.warnings, service)
		return
	}
	f.warnings[service] = s.warnings
}

// indexGraph finds out which listeners use which Service, and the digests.
func (f *Forwarder) indexGraph() map[string]string {
	digests := make(map[string]string, len(f.graph.Gateways))
	f.users = map[types.NamespacedName][]*Listener{}
	for key, gateway := range f.graph.Gateways {
		digests[key.String()] = gateway.Digest
		for _, listener := range gateway.Listeners {
			if !listener.Valid || listener.Winner == nil {
				continue
			}
			for i, ref := range listener.Winner.Backends {
				if ref.Valid && !namedBefore(listener.Winner.Backends[:i], ref) {
					f.users[ref.Service] = append(f.users[ref.Service], listener)
				}
			}
		}
	}
	return digests
}

func namedBefore(refs []BackendRef, ref BackendRef) bool {
	return slices.ContainsFunc(refs, func(r BackendRef) bool { return r.Valid && r.Service == ref.Service })
}

// renewAll adds every Frontend that differs from the last State to changes.
func (f *Forwarder) renewAll(changes map[rules.FrontendKey]*rules.Frontend) {
	wanted := make(map[rules.FrontendKey]bool, f.state.Len())
	for _, key := range sortedNames(f.graph.Gateways) {
		for _, listener := range f.graph.Gateways[key].Listeners {
			for _, key := range f.renew(listener, changes) {
				wanted[key] = true
			}
		}
	}
	for key := range f.state.All() {
		if !wanted[key] {
			changes[key] = nil
		}
	}
}

// renew adds a listener's Frontends to changes where they differ from the last
// State. It returns the keys the listener has.
func (f *Forwarder) renew(listener *Listener, changes map[rules.FrontendKey]*rules.Frontend) []rules.FrontendKey {
	if !listener.served() {
		return nil
	}
	protocol, _ := listener.TransportProtocol()
	var keys []rules.FrontendKey
	var made [2]*rules.Frontend // per family; all addresses of a family share one
	for _, at := range f.places(listener) {
		key := rules.FrontendKey{Addr: at.Addr(), Protocol: protocol, Port: at.Port()}
		if f.owners[key] != listener {
			continue
		}
		family := familyOf(at.Addr())
		if made[family] == nil {
			made[family] = f.frontend(listener, protocol, family)
		}
		if old := f.state.Frontend(key); old != nil && sameFrontend(old, made[family]) {
			made[family] = old
			delete(changes, key)
		} else {
			changes[key] = made[family]
		}
		keys = append(keys, key)
	}
	return keys
}

// places are where this node takes packets for a listener: at its port, and in mode
// LoadBalancer at its node port as well.
func (f *Forwarder) places(l *Listener) []netip.AddrPort {
	var places []netip.AddrPort
	for _, addr := range f.addresses(l.Gateway) {
		places = append(places, netip.AddrPortFrom(addr, l.Port))
	}
	if port := l.nodePort(); port != 0 {
		for _, addr := range f.node.Addresses {
			if l.Gateway.LoadBalancer.hasNodePorts(addr) {
				places = append(places, netip.AddrPortFrom(addr, port))
			}
		}
	}
	return places
}

// addresses are those at which this node serves a Gateway.
func (f *Forwarder) addresses(g *Gateway) []netip.Addr {
	switch {
	case !g.Assignment.NodeMode:
		return g.boundAddresses()
	case !g.requestsAddresses():
		return f.node.Addresses
	default:
		return slices.DeleteFunc(slices.Clone(f.node.Addresses), func(a netip.Addr) bool {
			return !slices.Contains(g.Assignment.Addresses, a)
		})
	}
}

// exclusive are the addresses that only we serve: an address that was assigned to a Gateway
// is nobody else's, whether or not the Gateway is accepted and has a valid listener. What
// this node has itself is its own all the same.
func (f *Forwarder) exclusive() []netip.Addr {
	var addrs []netip.Addr
	for _, gateway := range f.graph.Gateways {
		if !gateway.Assignment.exclusive() {
			continue
		}
		for _, addr := range gateway.Assignment.Addresses {
			if addr = addr.Unmap(); !slices.Contains(f.node.Addresses, addr) {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// exclusive reports whether the addresses have no other use: those of a pool, not those of
// nodes, nor those of a Service, which its provider and kube-proxy serve as well.
func (a Assignment) exclusive() bool { return !a.NodeMode && !a.LoadBalancer }

func (f *Forwarder) frontend(l *Listener, protocol rules.Protocol, family family) *rules.Frontend {
	frontend := &rules.Frontend{Owner: ownerOf(l), Select: selectionOf(l, protocol)}
	if l.Winner == nil {
		return frontend
	}
	frontend.Backends = make([]rules.Backend, 0, len(l.Winner.Backends))
	for _, ref := range l.Winner.Backends {
		backend := rules.Backend{Ref: ref.Service.String(), Weight: uint32(ref.Weight)}
		if s := f.services[ref.Service]; s != nil && ref.Valid {
			port := s.endpoints(f.node, usedPort{portKey{ref.PortName, protocol}, ref.LocalOnly})[family]
			backend.Endpoints, backend.Draining, backend.Lingering = port.endpoints, port.draining, port.lingering
		}
		frontend.Backends = append(frontend.Backends, backend)
	}
	return frontend
}

// selectionOf says how a listener's new flows pick their endpoint. One Service with
// sessionAffinity ClientIP that gets flows makes the whole listener go by client:
// a client whose backendRef were drawn anew each time would not stay anywhere.
func selectionOf(l *Listener, protocol rules.Protocol) rules.Selection {
	switch {
	case l.Winner != nil && slices.ContainsFunc(l.Winner.Backends, func(r BackendRef) bool { return r.Valid && r.ClientAffinity && r.Weight > 0 }):
		return rules.ClientHash
	case protocol == rules.UDP:
		return rules.FlowHash
	default:
		return rules.Random
	}
}

func ownerOf(l *Listener) rules.Owner {
	owner := rules.Owner{Gateway: l.Gateway.Key.String(), Listener: string(l.Name)}
	if l.Set != nil {
		owner.Listener = l.Set.Key.String() + "/" + owner.Listener
	}
	if l.Winner != nil {
		owner.Route = l.Winner.Key.String()
	}
	return owner
}

func sameFrontend(a, b *rules.Frontend) bool {
	return a.Owner == b.Owner && a.Select == b.Select && slices.EqualFunc(a.Backends, b.Backends, func(x, y rules.Backend) bool {
		return x.Ref == y.Ref && x.Weight == y.Weight && slices.Equal(x.Endpoints, y.Endpoints) &&
			slices.Equal(x.Draining, y.Draining) && slices.Equal(x.Lingering, y.Lingering)
	})
}

func sortedNames[V any](objects map[types.NamespacedName]V) []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(objects), compareNames)
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
