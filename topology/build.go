package topology

import "k8s.io/apimachinery/pkg/types"

// Build decides: it reads a Snapshot and returns what is attached to what, what
// is wrong and which route wins each listener. It never fails; what cannot be
// served is a condition on its object and leaves everything else alone. Safe
// for concurrent use.
func Build(s Snapshot, c Config) *Graph { return Resolve(s, c).Build(s.Addresses) }

// Build decides with these addresses, whatever the Snapshot has.
func (r *Resolution) Build(assigned map[types.NamespacedName]Assignment) *Graph {
	s, c := r.snapshot, r.config
	g := &Graph{Classes: r.classes, Pools: r.Pools}

	gateways := r.gateways(assigned)
	g.Gateways = make(map[types.NamespacedName]*Gateway, len(gateways))
	for _, gateway := range gateways {
		g.Gateways[gateway.Key] = gateway
	}
	g.ListenerSets = listenerSets(s, g.Gateways)

	bound := newBindings(s, c)
	g.reserved = reserved{bound.nodePorts, bound.services}
	for _, turn := range turns(gateways) {
		turn.admit(bound, s.Namespaces, c.MaxListeners)
	}

	routes := routesOf(s, g)
	g.Routes = make(map[RouteKey]*Route, len(routes))
	resolver := newBackendResolver(s)
	for _, route := range routes { // oldest first, so that Attached is in order
		route.attach(s.Namespaces)
		resolver.resolve(route)
		g.Routes[route.Key] = route
	}
	for _, gateway := range gateways {
		gateway.chooseWinners()
		gateway.Digest = gateway.digest()
	}
	g.Uses = r.uses(gateways)
	g.Orphans = r.orphans()
	g.setConditions()
	return g
}
