package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// servesAndWithholds is what a node serves, its own addresses first given, and what not.
func servesAndWithholds(b *recordBench, node ...string) string {
	r := Resolve(b.Snapshot, DefaultConfig())
	assigned := map[types.NamespacedName]Assignment{}
	for key, p := range r.Gateways {
		assigned[key] = p.Kept()
	}
	var own []netip.Addr
	for _, text := range node {
		own = append(own, netip.MustParseAddr(text))
	}
	f := NewForwarder(Node{Name: "n", Addresses: own})
	f.SetGraph(r.Build(assigned))
	state := f.State()
	var keys, texts []string
	for key, frontend := range state.All() {
		keys = append(keys, fmt.Sprintf("%s of %s", key, frontend.Owner.Gateway))
	}
	slices.Sort(keys)
	for _, key := range sortedKeys(f.Withheld()) {
		texts = append(texts, key.Name+": "+f.Withheld()[key])
	}
	return strings.Join(append(keys, texts...), "\n")
}

// TestNodesKeepTheirPorts: what a node needs itself it does not serve at its own address, in
// whatever mode the Gateway is, and says so.
func TestNodesKeepTheirPorts(t *testing.T) {
	tests := []struct {
		name  string
		setUp func() *recordBench
		want  []string
	}{
		{"a load balancer that gives the addresses of nodes", func() *recordBench {
			b := newRecordBench(v1alpha1.AddressModeLoadBalancer)
			b.balance("192.0.2.11", "192.0.2.12")
			return b
		}, []string{
			"192.0.2.11 tcp 80 of default/gw", "192.0.2.12 tcp 80 of default/gw",
			`gw: listener "api" of Gateway default/gw: 192.0.2.11 is an address of a node, which needs port 6443 itself (--node-ports): not served there; choose another port and 1 more`,
		}},
		{"a load balancer with addresses of its own", func() *recordBench {
			b := newRecordBench(v1alpha1.AddressModeLoadBalancer)
			b.balance("192.0.2.200")
			return b
		}, []string{"192.0.2.200 tcp 6443 of default/gw", "192.0.2.200 tcp 80 of default/gw"}},
		{"a pool's address that this node has, by its mistake", func() *recordBench {
			b := newRecordBench(v1alpha1.AddressModePool)
			has(b.gateway, v1alpha1.AddressModePool, "192.0.2.11", "192.0.2.50")
			return b
		}, []string{
			"192.0.2.11 tcp 80 of default/gw", "192.0.2.50 tcp 6443 of default/gw", "192.0.2.50 tcp 80 of default/gw",
			`gw: listener "api" of Gateway default/gw: 192.0.2.11 is an address of a node, which needs port 6443 itself (--node-ports): not served there; choose another port`,
		}},
		{"a NodePort of an older Service", func() *recordBench {
			b := newRecordBench(v1alpha1.AddressModeLoadBalancer)
			b.balance("192.0.2.11")
			b.gateway.CreationTimestamp = metav1.Unix(200, 0)
			b.gateway.Spec.Listeners = []gatewayv1.Listener{{Name: "old", Protocol: "TCP", Port: 30080}, {Name: "young", Protocol: "TCP", Port: 30081}}
			for i, name := range []string{"old", "young"} {
				service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(100+200*i), 0)}}
				service.Spec.Ports = []corev1.ServicePort{{Protocol: "TCP", Port: 80, NodePort: int32(30080 + i)}}
				putObject(b.Services, service)
			}
			return b
		}, []string{
			"192.0.2.11 tcp 30081 of default/gw",
			`gw: listener "old" of Gateway default/gw: 192.0.2.11 is an address of a node, where TCP port 30080 is a NodePort of Service default/old, which is older: not served there; choose another port`,
		}},
		{"its own node port", func() *recordBench {
			b := newRecordBench(v1alpha1.AddressModeLoadBalancer)
			b.balance()
			for _, service := range b.Services {
				service.Spec.Ports = []corev1.ServicePort{{Protocol: "TCP", Port: 80, NodePort: 10250}}
			}
			return b
		}, []string{"192.0.2.11 tcp 10250 of default/gw"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), servesAndWithholds(tt.setUp(), "192.0.2.11")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOlderListenerWinsAtTheNode: of many nodes a Gateway shows 16 addresses, so that one
// that meets it at another is not rejected. There the older one is served, whatever their
// names, and stays so when endpoints of the other change.
func TestOlderListenerWinsAtTheNode(t *testing.T) {
	for _, test := range []struct {
		balanced, nodes int64 // when they were made
		want            string
	}{
		{1, 2, `192.0.2.99 tcp 80 of default/gw
192.0.2.99 tcp 81 of default/all
all: listener "web" of Gateway default/all: TCP port 80 of 192.0.2.99 belongs to listener "web" of Gateway default/gw, which has precedence (oldest, then by name): not served there; choose another port`},
		{2, 1, `192.0.2.99 tcp 80 of default/all
192.0.2.99 tcp 81 of default/all
gw: listener "web" of Gateway default/gw: TCP port 80 of 192.0.2.99 belongs to listener "web" of Gateway default/all, which has precedence (oldest, then by name): not served there; choose another port`},
	} {
		b := newRecordBench(v1alpha1.AddressModeLoadBalancer)
		b.balance("192.0.2.99")
		b.gateway.CreationTimestamp, b.gateway.Spec.Listeners = metav1.Unix(test.balanced, 0), b.gateway.Spec.Listeners[1:]
		b.GatewayClasses["nodes"] = &gatewayv1.GatewayClass{Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}
		all := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: "all", CreationTimestamp: metav1.Unix(test.nodes, 0)}}
		all.Spec.GatewayClassName = "nodes"
		all.Spec.Listeners = []gatewayv1.Listener{{Name: "web", Protocol: "TCP", Port: 80}, {Name: "more", Protocol: "TCP", Port: 81}}
		has(all, v1alpha1.AddressModeNode, "192.0.2.11")
		putObject(b.Gateways, all)
		if diff := cmp.Diff(test.want, servesAndWithholds(b, "192.0.2.99")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}

	g := graphOf(1, balancedBy())
	first := g.Gateways[named("gw")]
	other := graphOf(1, func(g *Gateway) { g.Key = named("other"); balancedBy()(g) }).Gateways[named("other")]
	first.Source = &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(1, 0)}}
	other.Listeners[0].Winner.Backends[0].Service = named("elsewhere")
	g.Gateways[other.Key] = other
	f := forwarderOf(g)
	f.State()
	f.SetEndpointSlices(named("elsewhere"), compact(slice("a", 80, "10.0.0.1")))
	if owner := f.State().Frontend(frontendKey(balancerAddr, 8000)).Owner.Gateway; owner != "ns/gw" {
		t.Errorf("after a change of endpoints it is of %s", owner)
	}
}
