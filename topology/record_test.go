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
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// has lets a status show addresses that were given in a mode.
func has(g *gatewayv1.Gateway, mode v1alpha1.AddressMode, values ...string) {
	g.Status = gatewayv1.GatewayStatus{}
	for _, value := range values {
		g.Status.Addresses = append(g.Status.Addresses, gatewayv1.GatewayStatusAddress{Value: value})
	}
	if mode != v1alpha1.AddressModeNode {
		g.Status.Conditions = []metav1.Condition{{Type: ConditionAddressMode, Status: metav1.ConditionTrue, Reason: string(mode)}}
	}
}

// recordBench is a cluster whose pool covers the network of the nodes, and a Gateway "gw" of
// a class of some mode.
type recordBench struct {
	Snapshot
	gateway *gatewayv1.Gateway
}

func newRecordBench(mode v1alpha1.AddressMode, permitted ...v1alpha1.AddressMode) *recordBench {
	b := &recordBench{Snapshot: emptySnapshot()}
	b.GatewayClasses["portway"] = &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "portway"}, Spec: gatewayv1.GatewayClassSpec{
		ControllerName: ControllerName, ParametersRef: &gatewayv1.ParametersReference{
			Group: v1alpha1.GroupName, Kind: KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("infra"), Name: "edge",
		},
	}}
	b.class(mode, permitted...)
	b.AddressPools["public"] = &v1alpha1.AddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "public"},
		Spec:       v1alpha1.AddressPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/24"}},
		Status:     v1alpha1.AddressPoolStatus{Addresses: []string{"192.0.2.0/24"}},
	}
	b.gateway = &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: "gw", Generation: 1}}
	b.gateway.Spec.GatewayClassName = "portway"
	b.gateway.Spec.Listeners = []gatewayv1.Listener{{Name: "api", Protocol: "TCP", Port: 6443}, {Name: "web", Protocol: "TCP", Port: 80}}
	putObject(b.Gateways, b.gateway)
	return b
}

// class gives the class another mode.
func (b *recordBench) class(mode v1alpha1.AddressMode, permitted ...v1alpha1.AddressMode) {
	spec := v1alpha1.GatewayParametersSpec{Mode: mode}
	if len(permitted) > 0 {
		spec.Permitted = &v1alpha1.PermittedParameters{Modes: permitted}
	}
	putObject(b.GatewayParameters, &v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: "edge"}, Spec: spec})
}

func (b *recordBench) asks(values ...string) {
	b.gateway.Spec.Addresses = nil
	for _, value := range values {
		b.gateway.Spec.Addresses = append(b.gateway.Spec.Addresses, gatewayv1.GatewaySpecAddress{Value: value})
	}
}

// asksHostname adds an entry of a type that is not served.
func (b *recordBench) asksHostname() {
	b.gateway.Spec.Addresses = append(b.gateway.Spec.Addresses, gatewayv1.GatewaySpecAddress{Type: ptr.To(gatewayv1.HostnameAddressType), Value: "gw.example.com"})
}

// tenantErrs refers to parameters that do not exist.
func (b *recordBench) tenantErrs() {
	b.gateway.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: &gatewayv1.LocalParametersReference{
		Group: v1alpha1.GroupName, Kind: KindGatewayParameters, Name: "missing",
	}}
}

// balance adds the Gateway's Service, with addresses.
func (b *recordBench) balance(addrs ...string) {
	key := types.NamespacedName{Namespace: DefaultConfig().Namespace, Name: serviceName(inDefault("gw"), "")}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: map[string]string{
		v1alpha1.GatewayNamespaceLabel: "default", v1alpha1.GatewayNameLabel: "gw",
	}}}
	for _, addr := range addrs {
		service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr})
	}
	b.Services[key] = service
}

// TestRecordDecides: what a Gateway has is of the mode in which it got it, though a pool
// holds the same addresses, and whatever becomes of parameters.
func TestRecordDecides(t *testing.T) {
	const node, pool, balancer = v1alpha1.AddressModeNode, v1alpha1.AddressModePool, v1alpha1.AddressModeLoadBalancer
	tests := []struct {
		name  string
		setUp func() *recordBench
		want  string // mode, addresses that are kept; rejected listeners, addresses that are announced or refused for
	}{
		{"a tenant's missing parameters", func() *recordBench {
			b := newRecordBench(node)
			has(b.gateway, node, "192.0.2.11", "192.0.2.12")
			b.tenantErrs()
			return b
		}, "Node [192.0.2.11 192.0.2.12] rejected [api]"},
		{"a class's missing parameters", func() *recordBench {
			b := newRecordBench(node)
			has(b.gateway, node, "192.0.2.11")
			clear(b.GatewayParameters)
			return b
		}, "Node [192.0.2.11] rejected [api]"},
		{"of a pool, a class's missing parameters", func() *recordBench {
			b := newRecordBench(pool)
			has(b.gateway, pool, "192.0.2.1")
			clear(b.GatewayParameters)
			return b
		}, "Pool [192.0.2.1] rejected []"},
		{"of a pool that is gone, a class's missing parameters", func() *recordBench {
			b := newRecordBench(pool)
			has(b.gateway, pool, "192.0.2.1")
			clear(b.GatewayParameters)
			clear(b.AddressPools)
			return b
		}, "Pool [] rejected [api web]"},
		{"class from the nodes to pools", func() *recordBench {
			b := newRecordBench(pool)
			has(b.gateway, node, "192.0.2.11", "192.0.2.12")
			return b
		}, "Pool [] rejected []"},
		{"class from pools to the nodes", func() *recordBench {
			b := newRecordBench(node)
			has(b.gateway, pool, "192.0.2.1")
			return b
		}, "Node [] rejected [api]"},
		{"of a load balancer, missing parameters", func() *recordBench {
			b := newRecordBench(balancer)
			has(b.gateway, balancer, "192.0.2.200")
			b.balance("192.0.2.200")
			clear(b.GatewayParameters)
			return b
		}, "LoadBalancer [192.0.2.200] rejected []"},
		{"a load balancer that has just given one, missing parameters", func() *recordBench {
			b := newRecordBench(balancer)
			b.balance("192.0.2.200")
			clear(b.GatewayParameters)
			return b
		}, "LoadBalancer [192.0.2.200] rejected []"},
		{"of nodes, and its Service is made, missing parameters", func() *recordBench {
			b := newRecordBench(balancer)
			has(b.gateway, node, "192.0.2.11")
			b.balance("192.0.2.200")
			clear(b.GatewayParameters)
			return b
		}, "Node [192.0.2.11] rejected [api]"},
		{"class from load balancers to pools", func() *recordBench {
			b := newRecordBench(pool)
			has(b.gateway, balancer, "192.0.2.200")
			return b
		}, "Pool [] rejected []"},
		{"of a node, by value, and a pool comes to cover it", func() *recordBench {
			b := newRecordBench(node, pool)
			has(b.gateway, node, "192.0.2.11")
			b.asks("192.0.2.11")
			return b
		}, "Node [192.0.2.11] rejected [api]"},
		{"of a pool, by value", func() *recordBench {
			b := newRecordBench(node, pool)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("192.0.2.1")
			return b
		}, "Pool [192.0.2.1] rejected []"},
		{"of a pool, by value, and the class permits that no more", func() *recordBench {
			b := newRecordBench(node)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("192.0.2.1")
			return b
		}, "Pool [192.0.2.1] rejected [] retained NotPermitted"},
		{"and names others, too", func() *recordBench {
			b := newRecordBench(node)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("192.0.2.1", "8.8.8.8", "")
			return b
		}, "Pool [192.0.2.1] rejected [] retained NotPermitted"},
		{"and names none any more", func() *recordBench {
			b := newRecordBench(node, pool)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("")
			return b
		}, "Node [] rejected [api]"},
		{"of a pool, by value, and another type", func() *recordBench {
			b := newRecordBench(node, pool)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("192.0.2.1")
			b.asksHostname()
			return b
		}, "Pool [192.0.2.1] rejected [] UnsupportedAddress"},
		{"of a pool, and another type", func() *recordBench {
			b := newRecordBench(pool)
			has(b.gateway, pool, "192.0.2.1")
			b.asksHostname()
			return b
		}, "Pool [192.0.2.1] rejected [] UnsupportedAddress"},
		{"of nodes, and another type", func() *recordBench {
			b := newRecordBench(pool, node)
			has(b.gateway, node, "192.0.2.11")
			b.asks("192.0.2.11")
			b.asksHostname()
			return b
		}, "Node [192.0.2.11] rejected [api] UnsupportedAddress"},
		{"new, and another type", func() *recordBench {
			b := newRecordBench(pool)
			b.asksHostname()
			return b
		}, "Node [] rejected [api web] UnsupportedAddress"},
		{"of a pool, by value, and a typing mistake", func() *recordBench {
			b := newRecordBench(node, pool)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("192.0.20.1")
			return b
		}, "Pool [192.0.2.1] rejected []"},
		{"the same, where nodes are known", func() *recordBench {
			b := newRecordBench(pool, node)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("198.51.100.1", "192.0.20.1")
			b.NodeAddresses = map[netip.Addr]bool{netip.MustParseAddr("198.51.100.1"): true}
			return b
		}, "Pool [192.0.2.1] rejected []"},
		{"of a pool, and asks for what nodes have", func() *recordBench {
			b := newRecordBench(pool, node)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("198.51.100.1")
			b.NodeAddresses = map[netip.Addr]bool{netip.MustParseAddr("198.51.100.1"): true}
			return b
		}, "Node [] rejected [api]"},
		{"of a pool, and asks for what nodes have, where nodes are not known", func() *recordBench {
			b := newRecordBench(pool, node)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("198.51.100.1")
			return b
		}, "Pool [192.0.2.1] rejected []"},
		{"of a pool, by value, and retained without a pool to use", func() *recordBench {
			b := newRecordBench(pool, node)
			has(b.gateway, pool, "192.0.2.1")
			b.asks("192.0.2.1")
			b.AddressPools["public"].Spec.AutoAssign = ptr.To(false)
			return b
		}, "Pool [192.0.2.1] rejected [] retained NotPermitted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.setUp()
			r := Resolve(b.Snapshot, DefaultConfig())
			p := r.Gateways[inDefault("gw")]
			graph := r.Build(map[types.NamespacedName]Assignment{p.Key: p.Kept()})
			var rejected []string
			for _, l := range graph.Gateways[p.Key].Listeners {
				if !l.Valid {
					rejected = append(rejected, string(l.Name))
				}
			}
			got := fmt.Sprintf("%s %v rejected %v", p.Mode, p.Kept().Addresses, rejected)
			for _, c := range graph.Gateways[p.Key].Conditions {
				switch {
				case c.Type == ConditionAddressRetained && c.Reason != ReasonInvalidParameters:
					got += " retained " + c.Reason
				case c.Reason == "UnsupportedAddress":
					got += " " + c.Reason
				}
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if len(graph.Orphans) > 0 && strings.Contains(tt.name, "missing") {
				t.Error("its Service is an orphan")
			}
			if own := exclusiveOf(graph); p.Mode != pool && len(own) > 0 {
				t.Errorf("refuses what reaches %v", own)
			}
		})
	}
}

// exclusiveOf are the addresses that a node refuses other ports of.
func exclusiveOf(g *Graph) []string {
	f := NewForwarder(Node{Name: "n"})
	f.SetGraph(g)
	var texts []string
	for _, addr := range f.State().Exclusive() {
		texts = append(texts, addr.String())
	}
	return texts
}

// TestRecordStaysWithTheAddresses: what status says of the mode is there as long as the
// addresses are, in every state of the Gateway, and says the same.
func TestRecordStaysWithTheAddresses(t *testing.T) {
	tests := map[string]func(*recordBench){
		"as made":                func(*recordBench) {},
		"its parameters missing": func(b *recordBench) { b.tenantErrs() },
		"its class's missing":    func(b *recordBench) { clear(b.GatewayParameters) },
		"no valid listener":      func(b *recordBench) { b.gateway.Spec.Listeners = nil },
		"its pool being deleted": func(b *recordBench) { b.AddressPools["public"].DeletionTimestamp = ptr.To(metav1.Unix(1, 0)) },
		"its pool not accepted":  func(b *recordBench) { b.AddressPools["public"].Spec.Addresses = nil },
		"another pool named": func(b *recordBench) {
			b.GatewayParameters[types.NamespacedName{Namespace: "infra", Name: "edge"}].Spec.Pool = "public"
		},
		"an address of no use": func(b *recordBench) { b.asks("192.0.2.1", "8.8.8.8") },
		"its namespace not allowed": func(b *recordBench) {
			b.AddressPools["public"].Spec.Namespaces = &v1alpha1.PoolNamespaces{From: "Selector"}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			b := newRecordBench(v1alpha1.AddressModePool)
			has(b.gateway, v1alpha1.AddressModePool, "192.0.2.1")
			change(b)
			r := Resolve(b.Snapshot, DefaultConfig())
			graph := r.Build(map[types.NamespacedName]Assignment{inDefault("gw"): r.Gateways[inDefault("gw")].Kept()})
			status := graph.Statuses(Reports{}).Gateways[inDefault("gw")]
			if got := RecordedMode(&gatewayv1.Gateway{Status: status}); got != v1alpha1.AddressModePool || len(status.Addresses) != 1 {
				t.Errorf("mode %q of %v", got, status.Addresses)
			}
			i := slices.IndexFunc(status.Conditions, func(c metav1.Condition) bool { return c.Type == ConditionAddressMode })
			if diff := cmp.Diff("its addresses are of AddressPool public", status.Conditions[i].Message); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
