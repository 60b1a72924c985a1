package topology

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/rules"
)

// What a node finds that a Graph cannot know: which addresses are its own, and where two
// Gateways meet at one of them. A load balancer may give the addresses of nodes, and of
// many nodes a Gateway's status shows 16.

// reserved are the ports of nodes that are not for Gateways.
type reserved struct {
	ports    []PortRange
	services map[claim]age // by their NodePorts
}

// Withheld returns, per Gateway, what this node does not serve of it, and why: ports of its
// own that it needs itself, and places that an older listener has. It is that of the last
// State, and must not be changed.
func (f *Forwarder) Withheld() map[types.NamespacedName]string {
	texts := make(map[types.NamespacedName]string, len(f.withheld))
	for key, lines := range f.withheld {
		texts[key] = atMost(1, lines)
	}
	return texts
}

// settlePlaces decides which listener has each Frontend. Where several would, it is the one
// with precedence, as on every other node.
func (f *Forwarder) settlePlaces() {
	f.owners = make(map[rules.FrontendKey]*Listener, f.state.Len())
	f.withheld = map[types.NamespacedName][]string{}
	for _, l := range f.graph.byPrecedence() {
		protocol, _ := l.TransportProtocol()
		for _, at := range f.places(l) {
			key := rules.FrontendKey{Addr: at.Addr(), Protocol: protocol, Port: at.Port()}
			holder, why := f.owners[key], f.needs(l, at)
			if holder != nil && holder != l {
				why = placeHeld(l, holder, at)
			}
			if why == "" {
				f.owners[key] = l
				continue
			}
			f.withheld[l.Gateway.Key] = append(f.withheld[l.Gateway.Key], why)
		}
	}
}

// needs says why the node does not let a listener have a port of its own, empty if it does.
// A node port of the Gateway's Service is the Gateway's.
func (f *Forwarder) needs(l *Listener, at netip.AddrPort) string {
	if at.Port() == l.nodePort() || !f.isOfNode(l, at.Addr()) {
		return ""
	}
	for _, ports := range f.graph.reserved.ports {
		if ports.First <= at.Port() && at.Port() <= ports.Last {
			return portNeeded(l, at)
		}
	}
	if service, taken := f.graph.reserved.services[claim{l.Protocol, at.Port()}]; taken && compareAge(service, l.Gateway.age()) < 0 {
		return portOfService(l, at, service.name)
	}
	return ""
}

// isOfNode: the address is this node's, or of a load balancer that gives those of nodes, as
// it gave this one's: what this node sends to another one is not to be led astray either.
func (f *Forwarder) isOfNode(l *Listener, addr netip.Addr) bool {
	own := func(addr netip.Addr) bool { return slices.Contains(f.node.Addresses, addr) }
	lb := l.Gateway.LoadBalancer
	return own(addr) || lb != nil && slices.Contains(lb.Routed, addr) && slices.ContainsFunc(lb.Routed, own)
}

// byPrecedence returns the listeners that are served, those first that had their ports first.
func (g *Graph) byPrecedence() []*Listener {
	var all []*Listener
	for _, key := range sortedNames(g.Gateways) {
		for _, l := range g.Gateways[key].Listeners {
			if l.served() {
				all = append(all, l)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *Listener) int { return compareAge(a.age(), b.age()) })
	return all
}

// age is since when a listener may have a port, as for turns.
func (l *Listener) age() age {
	opened := l.Gateway.age()
	if l.Set != nil && compareAge(l.Set.age(), opened) > 0 {
		return l.Set.age()
	}
	return opened
}

// served: nodes have Frontends for it.
func (l *Listener) served() bool {
	_, known := l.TransportProtocol()
	return known && l.Valid && l.Gateway.Accepted
}
