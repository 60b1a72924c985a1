package topology

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/addresses"
	"github.com/portway-dev/portway/rules"
)

// checkInvariants checks what holds of every Graph and its Statuses, whatever
// the input was.
func checkInvariants(t *testing.T, g *Graph, s Statuses) {
	t.Helper()
	attached := 0
	for key, gateway := range g.Gateways {
		if (gateway.Digest != "") != gateway.Accepted {
			t.Errorf("Gateway %s: accepted %t with digest %q", key, gateway.Accepted, gateway.Digest)
		}
		if !gateway.Accepted && slices.ContainsFunc(gateway.Listeners, isValid) {
			t.Errorf("Gateway %s is not accepted but has a valid listener", key)
		}
		claimed := map[claim]bool{}
		for _, listener := range gateway.Listeners {
			key := claim{listener.Protocol, listener.Port}
			if listener.Valid && claimed[key] {
				t.Errorf("%v: %v is served twice", listener, key)
			}
			claimed[key] = claimed[key] || listener.Valid
		}
		for _, listener := range gateway.own {
			attached += checkListener(t, listener)
		}
		status := s.Gateways[key]
		checkConditions(t, "Gateway "+key.String(), gateway.Source.Generation, status.Conditions)
		names := map[string]bool{}
		for _, listener := range status.Listeners {
			checkConditions(t, "listener "+string(listener.Name), gateway.Source.Generation, listener.Conditions)
			if listener.SupportedKinds == nil || names[string(listener.Name)] {
				t.Errorf("listener status without supportedKinds or twice: %+v", listener)
			}
			names[string(listener.Name)] = true
		}
		if len(status.Listeners) > maxListeners || len(status.Addresses) > maxStatusAddresses {
			t.Errorf("Gateway %s: the API refuses this status", key)
		}
	}
	for key, set := range g.ListenerSets {
		if set.Accepted != slices.ContainsFunc(set.Listeners, isValid) {
			t.Errorf("ListenerSet %s: accepted %t", key, set.Accepted)
		}
		for _, listener := range set.Listeners {
			attached += checkListener(t, listener)
		}
		checkConditions(t, "ListenerSet "+key.String(), set.Source.Generation, s.ListenerSets[key].Conditions)
		for _, listener := range s.ListenerSets[key].Listeners {
			checkConditions(t, "listener "+string(listener.Name), set.Source.Generation, listener.Conditions)
		}
	}
	for key, route := range g.Routes {
		attached -= checkRoute(t, route)
		for _, parent := range s.Routes[key].Parents {
			checkConditions(t, string(key.Kind)+" "+key.String(), route.Object.Meta.Generation, parent.Conditions)
		}
	}
	if attached != 0 {
		t.Errorf("listeners have %+d attachments more than routes", attached)
	}
	checkPools(t, g, s)
	checkServices(t, g)
	checkNodes(t, g)
	for _, gateway := range g.Gateways {
		checkParameters(t, gateway.Parameters)
	}
	if len(s.AddressPools) != len(g.Pools) || len(s.Gateways) != len(g.Gateways) || len(s.ListenerSets) != len(g.ListenerSets) || len(s.Routes) != len(g.Routes) || len(s.GatewayClasses) != len(g.Classes) {
		t.Error("an object of the Graph has no status")
	}
}

// checkPools: no two accepted pools have an address in common, and what Gateways have of
// a pool is in what its status says.
func checkPools(t *testing.T, g *Graph, s Statuses) {
	t.Helper()
	for name, pool := range g.Pools {
		for other, second := range g.Pools {
			if first, last, found := pool.Set.Overlap(second.Set); found && name != other {
				t.Errorf("AddressPools %s and %s both have %s", name, other, addresses.Format(first, last))
			}
		}
		status := s.AddressPools[name]
		checkConditions(t, "AddressPool "+name, pool.Source.Generation, status.Conditions)
		recorded, _ := addresses.Parse(slices.Concat(status.Addresses, status.Retained))
		for _, addr := range g.Uses[name].Assigned {
			if !recorded.Contains(addr) {
				t.Errorf("AddressPool %s: its status does not say that %s is in use: %+v", name, addr, status)
			}
		}
	}
}

// checkServices: the API server takes what a Service is to be like.
func checkServices(t *testing.T, g *Graph) {
	t.Helper()
	orphans := map[string]bool{}
	for _, orphan := range g.Orphans {
		orphans[orphan.Name] = true
	}
	for key, gateway := range g.Gateways {
		service := gateway.Service()
		if service == nil {
			continue
		}
		if gateway.Parameters.Mode != v1alpha1.AddressModeLoadBalancer || orphans[service.Name] && gateway.LoadBalancer.Source != nil {
			t.Errorf("Gateway %s in mode %s has a Service, which is an orphan: %t", key, gateway.Parameters.Mode, orphans[service.Name])
		}
		problems := validation.IsDNS1035Label(service.Name)
		for label, value := range service.Labels {
			problems = append(problems, validation.IsQualifiedName(label)...)
			problems = append(problems, validation.IsValidLabelValue(value)...)
		}
		seen := map[string]bool{}
		for _, port := range service.Spec.Ports {
			problems = append(problems, validation.IsValidPortName(port.Name)...)
			problems = append(problems, validation.IsValidPortNum(int(port.Port))...)
			problems = append(problems, validation.IsValidPortNum(port.TargetPort.IntValue())...)
			if seen[port.Name] {
				problems = append(problems, port.Name+" is there twice")
			}
			seen[port.Name] = true
		}
		if len(problems) > 0 || len(seen) == 0 {
			t.Errorf("Service of Gateway %s: %v: %+v", key, problems, service)
		}
		if !SameService(service, gateway.Service()) {
			t.Errorf("Service of Gateway %s differs from itself", key)
		}
	}
}

// checkNodes: no port of the nodes is that of two listeners.
func checkNodes(t *testing.T, g *Graph) {
	t.Helper()
	f := NewForwarder(Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd00::9")}})
	holders := map[rules.FrontendKey]*Listener{}
	for _, gateway := range g.Gateways {
		for _, listener := range gateway.Listeners {
			protocol, _ := listener.TransportProtocol()
			if !listener.Valid {
				continue
			}
			for _, at := range f.places(listener) {
				key := rules.FrontendKey{Addr: at.Addr(), Protocol: protocol, Port: at.Port()}
				if other := holders[key]; other != nil && other != listener {
					t.Errorf("%s is of %v and of %v", key, other, listener)
				}
				holders[key] = listener
			}
		}
	}
}

// checkParameters: nothing is offered that is not given out, or not for this Gateway.
func checkParameters(t *testing.T, p *Parameters) {
	t.Helper()
	offered := slices.Concat(p.PoolsFor(corev1.IPv4Protocol), p.PoolsFor(corev1.IPv6Protocol))
	for _, addr := range p.Requested {
		pool, why := p.Admits(addr)
		if (pool == nil) == (why == "") || pool != nil && !pool.Set.Contains(addr) {
			t.Errorf("Gateway %s: %s: %v, %q", p.Key, addr, pool, why)
		}
		if pool != nil {
			offered = append(offered, pool)
		}
	}
	for _, pool := range offered {
		if p.Frozen || !pool.Accepted || pool.Deleting || !slices.Contains(p.entitled.usable, pool) {
			t.Errorf("Gateway %s gets addresses of AddressPool %s", p.Key, pool.Name)
		}
	}
	if p.Lacks(corev1.IPv4Protocol) == "" || p.Lacks(corev1.IPv6Protocol) == "" {
		t.Errorf("Gateway %s: no word on why it lacks addresses", p.Key)
	}
	if p.Frozen && (len(p.Wants(nil)) > 0 || len(p.Families) > 0 || p.Nodes != nil) {
		t.Errorf("Gateway %s gets something without valid parameters", p.Key)
	}
}

func checkListener(t *testing.T, l *Listener) (attached int) {
	t.Helper()
	switch {
	case !l.Valid && l.Winner != nil:
		t.Errorf("%v is not valid but has a winner", l)
	case l.Valid && len(l.Attached) > 0 && l.Winner != l.Attached[0]:
		t.Errorf("%v: the winner is not the first route", l)
	case l.Valid && len(l.Attached) == 0 && l.Winner != nil:
		t.Errorf("%v: the winner is not attached", l)
	case l.Valid == l.fault.exists():
		t.Errorf("%v: valid %t with fault %v", l, l.Valid, l.fault)
	}
	if l.Valid && (l.Port == 0 || l.Set == nil && !l.Gateway.Accepted || l.Set != nil && !l.Set.Accepted) {
		t.Errorf("%v must not be valid", l)
	}
	if !slices.IsSortedFunc(l.Attached, func(a, b *Route) int { return compareAge(a.age(), b.age()) }) {
		t.Errorf("%v: routes are not in order", l)
	}
	return len(l.Attached)
}

func checkRoute(t *testing.T, r *Route) (attached int) {
	t.Helper()
	listeners := map[*Listener]bool{}
	for _, parent := range r.Parents {
		if parent.Accepted != (len(parent.Listeners) > 0) {
			t.Errorf("route %v: accepted %t with %d listeners", r.Key, parent.Accepted, len(parent.Listeners))
		}
		for _, listener := range parent.Listeners {
			listeners[listener] = true
			if !slices.Contains(listener.Attached, r) {
				t.Errorf("route %v says it is attached to %v", r.Key, listener)
			}
		}
	}
	invalid := slices.ContainsFunc(r.Backends, func(b BackendRef) bool { return !b.Valid })
	if len(r.Object.Rules) == 1 && invalid != (len(r.backendFaults) > 0) {
		t.Errorf("route %v: %d faults for %+v", r.Key, len(r.backendFaults), r.Backends)
	}
	return len(listeners)
}

// checkConditions: at most 8 per list, unique types, as the API demands of all
// lists (MaxItems, listMapKey), and the field limits of metav1.Condition.
func checkConditions(t *testing.T, object string, generation int64, conditions []metav1.Condition) {
	t.Helper()
	seen := map[string]bool{}
	for _, c := range conditions {
		if seen[c.Type] {
			t.Errorf("%s has condition %s twice", object, c.Type)
		}
		seen[c.Type] = true
		if c.Reason == "" || c.Message == "" || len(c.Message) > 32768 || c.ObservedGeneration != generation || !c.LastTransitionTime.IsZero() {
			t.Errorf("%s: incomplete condition %+v", object, c)
		}
	}
	if len(conditions) == 0 || len(conditions) > 8 || !seen["Accepted"] {
		t.Errorf("%s has conditions %+v", object, conditions)
	}
}
