package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// resolved is of Gateways whose classes, whatever they are called, are ours.
func resolved(gateways ...*gatewayv1.Gateway) *topology.Resolution {
	s := topology.Snapshot{GatewayClasses: map[string]*gatewayv1.GatewayClass{}, Gateways: map[types.NamespacedName]*gatewayv1.Gateway{}}
	for _, g := range gateways {
		class := &gatewayv1.GatewayClass{}
		class.Name, class.Spec.ControllerName = string(g.Spec.GatewayClassName), topology.ControllerName
		s.GatewayClasses[class.Name], s.Gateways[key(g.Name)] = class, g
	}
	return topology.Resolve(s, topology.DefaultConfig())
}

func TestAssign(t *testing.T) {
	node := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
	many := make([]netip.Addr, 0, 20)
	for i := range 20 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	ip := func(value string) gatewayv1.GatewaySpecAddress {
		return gatewayv1.GatewaySpecAddress{Type: ptr.To(gatewayv1.IPAddressType), Value: value}
	}
	host := gatewayv1.GatewaySpecAddress{Type: ptr.To(gatewayv1.HostnameAddressType), Value: "a.b"}
	const has = "this node has 192.0.2.1, 192.0.2.2, 2001:db8::1"
	tests := map[string]struct {
		node      []netip.Addr
		requested []gatewayv1.GatewaySpecAddress
		want      []netip.Addr
		message   string
	}{
		"none requested":  {node, nil, node, ""},
		"at most 16":      {many, nil, many[:16], ""},
		"some requested":  {node, []gatewayv1.GatewaySpecAddress{ip("2001:DB8:0::1"), ip("192.0.2.1")}, []netip.Addr{node[0], node[2]}, has},
		"not of the node": {node, []gatewayv1.GatewaySpecAddress{ip("192.0.2.9")}, nil, has},
		"any requested":   {node, []gatewayv1.GatewaySpecAddress{ip("")}, node, has},
		"host name":       {node, []gatewayv1.GatewaySpecAddress{host}, nil, ""},
		"no address":      {nil, nil, nil, "this node has no address; give it one, or name one with --node-address"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := gateway("web", "c")
			g.Spec.Addresses = test.requested
			got := Assign(resolved(g), test.node)
			want := map[types.NamespacedName]topology.Assignment{key("web"): {NodeMode: true, Addresses: test.want, Message: test.message}}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAssignOfPools: in files, whoever names an address of a pool has it, the oldest
// first; nobody else gives any out.
func TestAssignOfPools(t *testing.T) {
	const head = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec:
  controllerName: portway.dev/gateway-controller
  parametersRef: {group: portway.dev, kind: GatewayParameters, namespace: default, name: edge}
---
apiVersion: portway.dev/v1alpha1
kind: GatewayParameters
metadata: {name: edge}
spec: {mode: Pool, ipFamilies: [IPv4], permitted: {modes: [Node, LoadBalancer]}}
---
apiVersion: portway.dev/v1alpha1
kind: GatewayParameters
metadata: {name: balancer}
spec: {mode: LoadBalancer}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: public}
spec: {addresses: [192.0.2.0/24]}
`
	tests := map[string]struct{ gateways, want string }{
		"named":            {"a: [192.0.2.7, '::ffff:192.0.2.8']", "a: 192.0.2.7 192.0.2.8"},
		"none named":       {"a: ['']", "a: (without a cluster nobody gives out addresses; name those of an AddressPool in spec.addresses)"},
		"of no pool":       {"a: [198.51.100.1, 192.0.2.1]", "a: 192.0.2.1"},
		"two name one":     {"b: [192.0.2.7]|a: [192.0.2.7, 192.0.2.8]", "a: 192.0.2.7 192.0.2.8|b: (192.0.2.7 belongs to another Gateway; to share it, give both the label portway.dev/share-address)"},
		"two share one":    {"b, shared: [192.0.2.7]|a, shared: [192.0.2.7]", "a: 192.0.2.7|b: 192.0.2.7"},
		"named twice":      {"a: [192.0.2.7, '::ffff:192.0.2.7']", "a: 192.0.2.7"},
		"of the node":      {"a: [10.0.0.1]", "a: node 10.0.0.1"},
		"a load balancer":  {"a, balanced: ['']", "a: (without a cluster nobody serves mode LoadBalancer; use Node or Pool)"},
		"unknown, no less": {"a, unknown: [192.0.2.7]", "a: node"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			text := head
			for gateway := range strings.SplitSeq(test.gateways, "|") {
				who, values, _ := strings.Cut(gateway, ": ")
				who, how, _ := strings.Cut(who, ", ")
				more := map[string]string{"balanced": "balancer", "unknown": "nope"}[how]
				if more != "" {
					more = "\n  infrastructure: {parametersRef: {group: portway.dev, kind: GatewayParameters, name: " + more + "}}"
				}
				text += "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: " + who + ", labels: {portway.dev/share-address: '" + how + "'}}\n" +
					"spec:\n  gatewayClassName: portway\n  listeners: [{name: l, protocol: TCP, port: 80}]" + more + "\n  addresses:\n"
				for value := range strings.SplitSeq(strings.Trim(values, "[]"), ", ") {
					text += "  - {value: " + value + "}\n"
				}
			}
			path := filepath.Join(t.TempDir(), "m.yaml")
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			objects, err := Load([]string{path})
			if err != nil {
				t.Fatal(err)
			}
			assigned := Assign(topology.Resolve(*objects.Snapshot, topology.DefaultConfig()), []netip.Addr{netip.MustParseAddr("10.0.0.1")})
			var got []string
			for _, name := range []string{"a", "b"} {
				a, found := assigned[key(name)]
				if !found {
					continue
				}
				line := name + ":"
				if a.NodeMode {
					line += " node"
				}
				for _, addr := range a.Addresses {
					line += " " + addr.String()
				}
				if a.Message != "" && (len(a.Addresses) == 0) {
					line += " (" + a.Message + ")"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(test.want, strings.Join(got, "|")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAssigned(t *testing.T) {
	g := gateway("web", "c")
	g.Status.Addresses = []gatewayv1.GatewayStatusAddress{
		{Value: "192.0.2.2"},
		{Type: ptr.To(gatewayv1.HostnameAddressType), Value: "host"},
		{Value: "what"},
		{Type: ptr.To(gatewayv1.IPAddressType), Value: "::ffff:192.0.2.1"},
	}
	got := Assigned(resolved(g, gateway("none", "c")))
	want := map[types.NamespacedName]topology.Assignment{
		key("web"):  {NodeMode: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")}},
		key("none"): {NodeMode: true},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAssignedOfPools: an address that no pool vouches for is not served, whatever the
// status says.
func TestAssignedOfPools(t *testing.T) {
	objects, err := Load([]string{"testdata/pools.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	s := objects.Snapshot
	s.Gateways[key("gw")].Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.7"}, {Value: "8.8.8.8"}, {Value: "198.51.100.1"}}
	s.Gateways[key("gw")].Status.Conditions = []metav1.Condition{{Type: topology.ConditionAddressMode, Status: metav1.ConditionTrue, Reason: "Pool"}}
	s.AddressPools["public"].Status.Retained = []string{"198.51.100.0/24"}
	got := Assigned(topology.Resolve(*s, topology.DefaultConfig()))
	want := map[types.NamespacedName]topology.Assignment{
		key("gw"): {Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.1")}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
