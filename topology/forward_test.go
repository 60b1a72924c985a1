package topology

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/rules"
)

var (
	nodeV4 = netip.MustParseAddr("192.0.2.1")
	nodeV6 = netip.MustParseAddr("2001:db8::1")
)

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "ns", Name: name}
}

// graphOf makes a Graph of one Gateway "ns/gw" in node mode whose listener i, on
// port 8000+i, forwards to Service "ns/s<i>" port "p".
func graphOf(listeners int, change ...func(*Gateway)) *Graph {
	gateway := &Gateway{
		Key: named("gw"), Source: &gatewayv1.Gateway{}, Accepted: true, Digest: "1:x",
		Assignment: Assignment{NodeMode: true},
	}
	for i := range listeners {
		route := &Route{
			Key:      RouteKey{"TCPRoute", named(fmt.Sprintf("r%d", i))},
			Backends: []BackendRef{{Service: named(fmt.Sprintf("s%d", i)), PortName: "p", Weight: 1, Valid: true}},
		}
		gateway.Listeners = append(gateway.Listeners, &Listener{
			Gateway: gateway, Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: uint16(8000 + i), Protocol: gatewayv1.TCPProtocolType,
			Valid: true, Attached: []*Route{route}, Winner: route,
		})
	}
	for _, c := range change {
		c(gateway)
	}
	return &Graph{Gateways: map[types.NamespacedName]*Gateway{gateway.Key: gateway}}
}

func forwarderOf(g *Graph) *Forwarder {
	f := NewForwarder(Node{Name: "n1", Addresses: []netip.Addr{nodeV4, nodeV6}})
	f.SetGraph(g)
	return f
}

func frontendKey(addr netip.Addr, port uint16) rules.FrontendKey {
	return rules.FrontendKey{Addr: addr, Protocol: rules.TCP, Port: port}
}

// contents is a State as plain data for comparisons.
func contents(s *rules.State) map[rules.FrontendKey]rules.Frontend {
	all := map[rules.FrontendKey]rules.Frontend{}
	for key, f := range s.All() {
		all[key] = *f
	}
	return all
}

var plain = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

func TestForwarderEndpointChangeRenewsOnlyItsFrontends(t *testing.T) {
	f := forwarderOf(graphOf(10))
	for i := range 10 {
		f.SetEndpointSlices(named(fmt.Sprintf("s%d", i)), compact(slice("a", 80, fmt.Sprintf("10.0.0.%d", i+1))))
	}
	before := f.State()
	if f.State() != before {
		t.Error("State without a change must be the same one")
	}
	f.SetEndpointSlices(named("s3"), compact(slice("a", 80, "10.0.9.9")))
	changes := rules.Changes(before, f.State())
	if len(changes) != 1 || changes[0].Key != frontendKey(nodeV4, 8003) {
		t.Fatalf("changes %v, want only %s: the v6 Frontend has no endpoint before and after", changes, frontendKey(nodeV4, 8003))
	}
	f.SetEndpointSlices(named("unused"), compact(slice("a", 80, "10.0.9.9")))
	f.SetEndpointSlices(named("s3"), compact(slice("b", 80, "10.0.9.9")))
	after := f.State()
	f.SetGraph(graphOf(10))
	if got := rules.Changes(after, f.State()); len(got) != 0 {
		t.Errorf("the same decision again changed %v", got)
	}
}

// TestForwarderLeavingIsAChange: repair of UDP flows reads Draining, and the guard
// against invalid packets Lingering, so a Frontend is new when nothing else changed.
func TestForwarderLeavingIsAChange(t *testing.T) {
	f := forwarderOf(graphOf(2))
	for step, tt := range []struct {
		endpoints           []string
		draining, lingering string
		changed             bool
	}{
		{[]string{"ready"}, "[]", "[]", true},
		{[]string{"ready", "not-ready terminating"}, "[10.0.0.2:80]", "[]", true},
		{[]string{"ready", "not-ready"}, "[10.0.0.2:80]", "[]", false},
		{[]string{"ready", "gone"}, "[]", "[10.0.0.2:80]", true},
		{[]string{"ready", "gone terminating"}, "[]", "[10.0.0.2:80]", false},
		{[]string{"ready"}, "[]", "[]", true},
	} {
		before := f.State()
		f.SetEndpointSlices(named("s0"), compact(described("a", tt.endpoints...)))
		changes := rules.Changes(before, f.State())
		if (len(changes) == 1) != tt.changed || len(changes) > 1 {
			t.Errorf("step %d: changes %v", step, changes)
		}
		backend := f.State().Frontend(frontendKey(nodeV4, 8000)).Backends[0]
		if fmt.Sprint(backend.Draining) != tt.draining || fmt.Sprint(backend.Lingering) != tt.lingering || len(backend.Endpoints) != 1 {
			t.Errorf("step %d: draining %s, want %s; lingering %s, want %s; endpoints %v",
				step, backend.Draining, tt.draining, backend.Lingering, tt.lingering, backend.Endpoints)
		}
	}
}

func TestForwarderSelects(t *testing.T) {
	affine := BackendRef{Service: named("s0"), PortName: "p", Weight: 1, Valid: true, ClientAffinity: true}
	plain := BackendRef{Service: named("s1"), PortName: "p", Weight: 1, Valid: true}
	changed := func(change func(*BackendRef)) BackendRef {
		ref := affine
		change(&ref)
		return ref
	}
	tests := []struct {
		name     string
		refs     []BackendRef
		tcp, udp rules.Selection
	}{
		{"no backendRef", nil, rules.Random, rules.FlowHash},
		{"no affinity", []BackendRef{plain}, rules.Random, rules.FlowHash},
		{"affinity", []BackendRef{affine}, rules.ClientHash, rules.ClientHash},
		{"affinity of one of two", []BackendRef{plain, affine}, rules.ClientHash, rules.ClientHash},
		{"affinity where no flow goes", []BackendRef{plain, changed(func(r *BackendRef) { r.Weight = 0 })}, rules.Random, rules.FlowHash},
		{"affinity of an invalid reference", []BackendRef{plain, changed(func(r *BackendRef) { r.Valid = false })}, rules.Random, rules.FlowHash},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state := forwarderOf(graphOf(2, func(g *Gateway) {
				for _, l := range g.Listeners {
					l.Winner.Backends = tt.refs
				}
				g.Listeners[1].Protocol = gatewayv1.UDPProtocolType
			})).State()
			tcp, udp := state.Frontend(frontendKey(nodeV4, 8000)), state.Frontend(rules.FrontendKey{Addr: nodeV4, Protocol: rules.UDP, Port: 8001})
			if tcp.Select != tt.tcp || udp.Select != tt.udp {
				t.Errorf("TCP %v, want %v; UDP %v, want %v", tcp.Select, tt.tcp, udp.Select, tt.udp)
			}
		})
	}
}

// TestForwarderFollowsPolicies: an edit of a Service comes as a new Graph, without
// new EndpointSlices.
func TestForwarderFollowsPolicies(t *testing.T) {
	policies := func(localOnly, affinity bool) *Graph {
		return graphOf(2, func(g *Gateway) {
			ref := &g.Listeners[0].Winner.Backends[0]
			ref.LocalOnly, ref.ClientAffinity = localOnly, affinity
		})
	}
	f := forwarderOf(policies(false, false))
	for i := range 2 {
		f.SetEndpointSlices(named(fmt.Sprintf("s%d", i)), compact(described("a", "ready node=n1", "ready node=n2")))
	}
	v4, v6 := frontendKey(nodeV4, 8000), frontendKey(nodeV6, 8000)
	for step, tt := range []struct {
		localOnly, affinity bool
		renewed             []rules.FrontendKey
	}{
		{true, false, []rules.FrontendKey{v4}},
		{true, true, []rules.FrontendKey{v4, v6}},
		{true, true, nil},
		{false, true, []rules.FrontendKey{v4}},
		{false, false, []rules.FrontendKey{v4, v6}},
	} {
		before := f.State()
		f.SetGraph(policies(tt.localOnly, tt.affinity))
		if diff := cmp.Diff(tt.renewed, changedKeys(before, f.State()), plain); diff != "" {
			t.Errorf("step %d: renewed (-want +got):\n%s", step, diff)
		}
		backend := f.State().Frontend(v4).Backends[0]
		if local := len(backend.Endpoints) == 1 && len(backend.Draining) == 1; local != tt.localOnly {
			t.Errorf("step %d: endpoints %v, draining %v", step, backend.Endpoints, backend.Draining)
		}
	}
}

// TestForwarderFollowsTheZone: another zone of the node renews the Frontends whose
// Service has hints, and no others.
func TestForwarderFollowsTheZone(t *testing.T) {
	f := forwarderOf(graphOf(3))
	f.SetEndpointSlices(named("s0"), compact(described("a", "ready zones=z1", "ready zones=z2")))
	f.SetEndpointSlices(named("s1"), compact(described("a", "ready", "ready")))
	f.SetEndpointSlices(named("s2"), compact(described("a", "ready zones=z1,z2", "ready zones=z2,z1")))
	v4 := frontendKey(nodeV4, 8000)
	for _, tt := range []struct {
		zone, want string
		renewed    []rules.FrontendKey
	}{
		{"z1", "10.0.0.1:80", []rules.FrontendKey{v4}},
		{"z2", "10.0.0.2:80", []rules.FrontendKey{v4}},
		{"z2", "10.0.0.2:80", nil},
		{"z3", "10.0.0.1:80 10.0.0.2:80", []rules.FrontendKey{v4}},
		{"", "10.0.0.1:80 10.0.0.2:80", nil},
	} {
		before, node := f.State(), f.node
		node.Zone = tt.zone
		f.SetNode(node)
		if diff := cmp.Diff(tt.renewed, changedKeys(before, f.State()), plain); diff != "" {
			t.Errorf("zone %q: renewed (-want +got):\n%s", tt.zone, diff)
		}
		var got []string
		for _, e := range f.State().Frontend(v4).Backends[0].Endpoints {
			got = append(got, e.Addr.String())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("zone %q: %v, want %s", tt.zone, got, tt.want)
		}
	}
}

func changedKeys(from, to *rules.State) []rules.FrontendKey {
	var keys []rules.FrontendKey
	for _, change := range rules.Changes(from, to) {
		keys = append(keys, change.Key)
	}
	return keys
}

func TestForwarderRefusesInTheFamilyWithoutEndpoints(t *testing.T) {
	f := forwarderOf(graphOf(1))
	f.SetEndpointSlices(named("s0"), compact(slice("a", 80, "10.0.0.1")))
	state := f.State()
	if got := state.Frontend(frontendKey(nodeV4, 8000)).Backends[0].Endpoints; len(got) != 1 {
		t.Errorf("IPv4 endpoints %v, want one", got)
	}
	if got := state.Frontend(frontendKey(nodeV6, 8000)).Backends[0].Endpoints; len(got) != 0 {
		t.Errorf("IPv6 endpoints %v, want none", got)
	}
}

func TestForwarderFrontends(t *testing.T) {
	backends := func(g *Gateway, refs ...BackendRef) { g.Listeners[0].Winner.Backends = refs }
	v4 := frontendKey(nodeV4, 8000)
	tests := []struct {
		name   string
		change func(*Gateway)
		want   map[rules.FrontendKey]string // key → backends as "ref weight endpoints"
	}{
		{"a listener without a route refuses", func(g *Gateway) { g.Listeners[0].Winner = nil }, map[rules.FrontendKey]string{v4: "[]"}},
		{"an invalid listener is not ours", func(g *Gateway) { g.Listeners[0].Valid = false }, nil},
		{"a Gateway that is not accepted is not ours", func(g *Gateway) { g.Accepted = false }, nil},
		{"an invalid reference keeps its weight, not its endpoints", func(g *Gateway) {
			backends(g, BackendRef{Service: named("s0"), PortName: "p", Weight: 4}, BackendRef{Service: named("s0"), PortName: "p", Weight: 1, Valid: true})
		}, map[rules.FrontendKey]string{v4: "[ns/s0 4 0 ns/s0 1 1]"}},
		{"another port's endpoints are not used", func(g *Gateway) {
			backends(g, BackendRef{Service: named("s0"), PortName: "q", Weight: 1, Valid: true})
		}, map[rules.FrontendKey]string{v4: "[ns/s0 1 0]"}},
		{"requested node addresses only", func(g *Gateway) {
			g.Source.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: "192.0.2.9"}}
			g.Assignment.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		}, nil},
		{"assigned addresses", func(g *Gateway) {
			g.Assignment = Assignment{Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}}
		}, map[rules.FrontendKey]string{
			frontendKey(netip.MustParseAddr("203.0.113.1"), 8000): "[ns/s0 1 1]",
			frontendKey(netip.MustParseAddr("203.0.113.2"), 8000): "[ns/s0 1 1]",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := forwarderOf(graphOf(1, tt.change))
			f.SetNode(Node{Name: "n1", Addresses: []netip.Addr{nodeV4}})
			f.SetEndpointSlices(named("s0"), compact(slice("a", 80, "10.0.0.1")))
			got := map[rules.FrontendKey]string{}
			for key, frontend := range f.State().All() {
				var parts []string
				for _, b := range frontend.Backends {
					parts = append(parts, fmt.Sprintf("%s %d %d", b.Ref, b.Weight, len(b.Endpoints)))
				}
				got[key] = fmt.Sprint(parts)
			}
			if diff := cmp.Diff(tt.want, got, plain); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestForwarderNamesOwners(t *testing.T) {
	graph := graphOf(1, func(g *Gateway) {
		l := *g.Listeners[0]
		l.Set, l.Port, l.Winner = &ListenerSet{Key: named("set"), Source: &gatewayv1.ListenerSet{}}, 9000, nil
		g.Listeners = append(g.Listeners, &l)
	})
	state := forwarderOf(graph).State()
	got := []rules.Owner{state.Frontend(frontendKey(nodeV4, 8000)).Owner, state.Frontend(frontendKey(nodeV4, 9000)).Owner}
	want := []rules.Owner{{Gateway: "ns/gw", Listener: "l0", Route: "ns/r0"}, {Gateway: "ns/gw", Listener: "ns/set/l0"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	if state.Digest("ns/gw") != "1:x" {
		t.Errorf("digest %q", state.Digest("ns/gw"))
	}
}

// TestForwarderEndsWhereAFreshOneEnds applies random changes in random order and
// compares with a Forwarder that only saw the outcome.
func TestForwarderEndsWhereAFreshOneEnds(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	f := forwarderOf(graphOf(3))
	graph, node := f.graph, f.node
	services := map[types.NamespacedName][]*EndpointSlice{}
	for step := range 300 {
		switch r.IntN(8) {
		case 0:
			graph = graphOf(1+r.IntN(6), func(g *Gateway) {
				for _, l := range g.Listeners {
					l.Valid = r.IntN(5) > 0
					l.Winner.Backends[0].Weight = int32(r.IntN(3))
					l.Winner.Backends[0].Service = named(fmt.Sprintf("s%d", r.IntN(6)))
					l.Winner.Backends[0].LocalOnly = r.IntN(3) == 0
					l.Winner.Backends[0].ClientAffinity = r.IntN(3) == 0
				}
			})
			f.SetGraph(graph)
		case 1:
			node = Node{Name: fmt.Sprintf("n%d", r.IntN(2)), Zone: fmt.Sprintf("z%d", r.IntN(3)), Addresses: []netip.Addr{nodeV4, nodeV6}[:1+r.IntN(2)]}
			f.SetNode(node)
		default:
			name := named(fmt.Sprintf("s%d", r.IntN(6)))
			var given []*discoveryv1.EndpointSlice
			for i := range r.IntN(3) {
				given = append(given, slice(fmt.Sprint(i), 80, fmt.Sprintf("10.0.0.%d", 1+r.IntN(5)), "127.0.0.1"))
			}
			if r.IntN(2) == 0 {
				states := []string{"ready", "ready zones=z1", "ready zones=z2 node=n1", "not-ready terminating node=n0", "gone"}
				given = append(given, described("described", states[r.IntN(5)], states[r.IntN(5)], states[r.IntN(5)]))
			}
			services[name] = compact(given...)
			f.SetEndpointSlices(name, services[name])
		}
		if r.IntN(3) == 0 {
			continue // several changes before one State
		}
		got, before := f.State(), f.state
		fresh := NewForwarder(node)
		for name, given := range services {
			reversed := slices.Clone(given)
			slices.Reverse(reversed)
			fresh.SetEndpointSlices(name, reversed)
		}
		fresh.SetGraph(graph)
		if diff := cmp.Diff(contents(fresh.State()), contents(got), plain); diff != "" {
			t.Fatalf("step %d (-fresh +incremental):\n%s", step, diff)
		}
		if diff := cmp.Diff(fresh.Warnings(), f.Warnings(), plain); diff != "" {
			t.Fatalf("step %d warnings (-fresh +incremental):\n%s", step, diff)
		}
		if err := got.Validate(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		f.SetGraph(graph)
		if changes := rules.Changes(before, f.State()); len(changes) != 0 {
			t.Fatalf("step %d: the same decision again changed %v", step, changes)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		graph := graphOf(n)
		f := forwarderOf(graph)
		endpoints := func(last int) []*EndpointSlice {
			var addresses []string
			for i := range 9 {
				addresses = append(addresses, fmt.Sprintf("10.0.0.%d", i+1))
			}
			return compact(slice("a", 80, append(addresses, fmt.Sprintf("10.0.1.%d", last+1))...))
		}
		for i := range n {
			f.SetEndpointSlices(named(fmt.Sprintf("s%d", i)), endpoints(i%2))
		}
		f.State()
		b.Run(fmt.Sprintf("graph/%d", n), func(b *testing.B) {
			for b.Loop() {
				f.SetGraph(graph)
				f.State()
			}
		})
		b.Run(fmt.Sprintf("endpoint/%d", n), func(b *testing.B) {
			given := [][]*EndpointSlice{endpoints(0), endpoints(1)}
			for i := 0; b.Loop(); i++ {
				f.SetEndpointSlices(named("s5"), given[i%2])
				f.State()
			}
		})
	}
}
