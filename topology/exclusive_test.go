package topology

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

var pool = []netip.Addr{
	netip.MustParseAddr("192.0.2.50"), netip.MustParseAddr("192.0.2.51"), netip.MustParseAddr("2001:db8::50"),
}

// withPool adds a Gateway with addresses of a pool.
func withPool(g *Graph, name string, change func(*Gateway), addrs ...netip.Addr) {
	gateway := &Gateway{Key: named(name), Source: &gatewayv1.Gateway{}, Accepted: true, Assignment: Assignment{Addresses: addrs}}
	if change != nil {
		change(gateway)
	}
	g.Gateways[gateway.Key] = gateway
}

// TestForwarderExclusive: what was assigned from a pool is exclusive, whatever is wrong with
// the Gateway; the addresses of nodes are not.
func TestForwarderExclusive(t *testing.T) {
	tests := []struct {
		name  string
		build func(*Graph)
		want  []netip.Addr
	}{
		{"node mode", func(*Graph) {}, nil},
		{"no listener", func(g *Graph) { withPool(g, "a", nil, pool...) }, pool},
		{"not accepted", func(g *Graph) {
			withPool(g, "a", func(g *Gateway) { g.Accepted = false }, pool...)
		}, pool},
		{"invalid listener", func(g *Graph) {
			withPool(g, "a", func(g *Gateway) {
				g.Listeners = []*Listener{{Gateway: g, Port: 80, Protocol: gatewayv1.TCPProtocolType}}
			}, pool...)
		}, pool},
		{"two share one", func(g *Graph) { withPool(g, "a", nil, pool[1], pool[0]); withPool(g, "b", nil, pool[1:]...) }, pool},
		{"of a Service", func(g *Graph) {
			withPool(g, "a", func(g *Gateway) { g.Assignment.LoadBalancer = true }, pool...)
		}, nil},
		{"none assigned", func(g *Graph) { withPool(g, "a", nil) }, nil},
		{"the node's own", func(g *Graph) { withPool(g, "a", nil, nodeV4, pool[0], nodeV6) }, pool[:1]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := graphOf(1)
			tt.build(g)
			if diff := cmp.Diff(tt.want, forwarderOf(g).State().Exclusive(), plain); diff != "" {
				t.Errorf("exclusive (-want +got):\n%s", diff)
			}
		})
	}
}

// TestForwarderKeepsExclusive: only a change of a Gateway's addresses is one.
func TestForwarderKeepsExclusive(t *testing.T) {
	graph := func(addrs ...netip.Addr) *Graph {
		g := graphOf(2)
		withPool(g, "a", nil, addrs...)
		return g
	}
	f := forwarderOf(graph(pool...))
	before := f.State()
	if f.State() != before {
		t.Error("State without a change must be the same one")
	}
	f.SetEndpointSlices(named("s0"), nil)
	f.State()
	f.SetGraph(graph(pool[2], pool[0], pool[1]))
	if got := f.State().Exclusive(); &got[0] != &before.Exclusive()[0] {
		t.Error("the same addresses are another object")
	}
	f.SetGraph(graph(pool[1:]...))
	if diff := cmp.Diff(pool[1:], f.State().Exclusive(), plain); diff != "" {
		t.Errorf("one less (-want +got):\n%s", diff)
	}
	f.SetNode(Node{Name: "n1", Addresses: pool[1:2]})
	if diff := cmp.Diff(pool[2:], f.State().Exclusive(), plain); diff != "" {
		t.Errorf("one of them is the node's now (-want +got):\n%s", diff)
	}
	f.SetGraph(&Graph{Gateways: map[types.NamespacedName]*Gateway{}})
	if got := f.State().Exclusive(); len(got) > 0 {
		t.Errorf("without a Gateway: %v", got)
	}
}
