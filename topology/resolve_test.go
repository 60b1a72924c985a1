package topology

import (
	"fmt"
	"math/rand/v2"
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

// offer is a cluster whose owner offers the tenant "red" pool "offered" and nothing of
// what the others have.
const offer = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec:
  controllerName: portway.dev/gateway-controller
  parametersRef: {group: portway.dev, kind: GatewayParameters, namespace: infra, name: edge}
---
apiVersion: portway.dev/v1alpha1
kind: GatewayParameters
metadata: {name: edge, namespace: infra}
spec: {mode: Pool, ipFamilies: [IPv4]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: nodes}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: offered}
spec: {addresses: [192.0.2.0/28, '2001:db8::/120'], avoidBuggyIPs: true}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: reserved}
spec: {addresses: [198.51.100.0/24], autoAssign: false}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: of-blue}
spec: {addresses: [203.0.113.0/24], namespaces: {from: Selector, selector: {matchLabels: {team: blue}}}}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: going, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec: {addresses: [10.1.0.0/24]}
---
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: z-overlapping}
spec: {addresses: [192.0.2.0/24]}
---
apiVersion: v1
kind: Namespace
metadata: {name: red, labels: {team: red}}
---
apiVersion: v1
kind: Namespace
metadata: {name: blue, labels: {team: blue}}
`

// TestTenantTakesNothingThatIsNotOffered tries what a tenant can write in its namespace.
func TestTenantTakesNothingThatIsNotOffered(t *testing.T) {
	asks := func(values ...string) func(*gatewayv1.Gateway, Snapshot) {
		return func(g *gatewayv1.Gateway, _ Snapshot) {
			for _, value := range values {
				g.Spec.Addresses = append(g.Spec.Addresses, gatewayv1.GatewaySpecAddress{Value: value})
			}
		}
	}
	chooses := func(namespace string, spec v1alpha1.GatewayParametersSpec) func(*gatewayv1.Gateway, Snapshot) {
		return func(g *gatewayv1.Gateway, s Snapshot) {
			putObject(s.GatewayParameters, &v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "own"}, Spec: spec})
			g.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: &gatewayv1.LocalParametersReference{
				Group: v1alpha1.GroupName, Kind: KindGatewayParameters, Name: "own",
			}}
		}
	}
	shows := func(mode v1alpha1.AddressMode, value string) func(*gatewayv1.Gateway, Snapshot) {
		return func(g *gatewayv1.Gateway, _ Snapshot) { has(g, mode, value) }
	}
	everything := &v1alpha1.PermittedParameters{
		Modes: []v1alpha1.AddressMode{"Node", "Pool", "LoadBalancer"}, Pools: []string{"reserved", "of-blue", "going"},
		IPFamilies: []corev1.IPFamily{"IPv4", "IPv6"}, NodeSelector: true,
	}
	tests := map[string]func(*gatewayv1.Gateway, Snapshot){
		"an address of a pool without autoAssign": asks("198.51.100.7"),
		"as IPv6":                                    asks("::ffff:198.51.100.7"),
		"an address of another's pool":               asks("203.0.113.7"),
		"one that it may have and another":           asks("192.0.2.1", "203.0.113.7"),
		"an address of no pool":                      asks("8.8.8.8"),
		"an address that is avoided":                 asks("192.0.2.0"),
		"an address of a pool that goes":             asks("10.1.0.7"),
		"an address of a pool that is not accepted":  asks("192.0.2.77"),
		"a family that the class does not give":      asks("2001:db8::1"),
		"no address":                                 asks("web", "0.0.0.0", "192.0.2.1/24", ""),
		"a pool without autoAssign":                  chooses("red", v1alpha1.GatewayParametersSpec{Pool: "reserved"}),
		"another's pool":                             chooses("red", v1alpha1.GatewayParametersSpec{Pool: "of-blue"}),
		"a pool that goes":                           chooses("red", v1alpha1.GatewayParametersSpec{Pool: "going"}),
		"a pool and what it permits itself":          chooses("red", v1alpha1.GatewayParametersSpec{Pool: "reserved", Permitted: everything}),
		"a family":                                   chooses("red", v1alpha1.GatewayParametersSpec{IPFamilies: []corev1.IPFamily{"IPv6"}, Permitted: everything}),
		"the nodes":                                  chooses("red", v1alpha1.GatewayParametersSpec{Mode: "Node", Permitted: everything}),
		"a load balancer":                            chooses("red", v1alpha1.GatewayParametersSpec{Mode: "LoadBalancer", Permitted: everything}),
		"parameters elsewhere":                       chooses("blue", v1alpha1.GatewayParametersSpec{Pool: "of-blue"}),
		"what another controller gave, of no pool":   shows("Pool", "8.8.8.8"),
		"what another controller gave, not accepted": shows("Pool", "192.0.2.77"),
		"what it had of a node, which a pool covers": shows("Node", "192.0.2.1"),
		"the same, as its parameters are gone": func(g *gatewayv1.Gateway, s Snapshot) {
			has(g, v1alpha1.AddressModeNode, "198.51.100.7")
			chooses("red", v1alpha1.GatewayParametersSpec{})(g, s)
			clear(s.GatewayParameters)
		},
		"what a load balancer gave it, and a pool has": shows("LoadBalancer", "192.0.2.1"),
		"a class of the nodes, for an address of a pool": func(g *gatewayv1.Gateway, s Snapshot) {
			g.Spec.GatewayClassName = "nodes"
			asks("192.0.2.1")(g, s)
		},
	}
	for name, try := range tests {
		t.Run(name, func(t *testing.T) {
			snapshot, config := readManifest(t, offer)
			gateway := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "red", Name: "gw"}}
			gateway.Spec.GatewayClassName = "portway"
			try(gateway, snapshot)
			putObject(snapshot.Gateways, gateway)

			p := Resolve(snapshot, config.config()).Gateways[types.NamespacedName{Namespace: "red", Name: "gw"}]
			offered := snapshot.AddressPools["offered"].Name
			for _, pool := range slices.Concat(p.PoolsFor(corev1.IPv4Protocol), p.PoolsFor(corev1.IPv6Protocol)) {
				if pool.Name != offered {
					t.Errorf("is given addresses of %s", pool.Name)
				}
			}
			for _, addr := range p.Requested {
				if pool, _ := p.Admits(addr); pool != nil && (pool.Name != offered || addr != netip.MustParseAddr("192.0.2.1")) {
					t.Errorf("gets %s of %s", addr, pool.Name)
				}
			}
			if slices.Contains(p.Wants(nil), corev1.IPv6Protocol) || len(p.PoolsFor(corev1.IPv6Protocol)) > 0 {
				t.Error("gets a family that its class does not give")
			}
			if kept := p.Kept(); !kept.NodeMode && len(kept.Addresses) > 0 {
				t.Errorf("keeps %v", kept)
			}
			if name != "a class of the nodes, for an address of a pool" && !p.Frozen && p.Mode != v1alpha1.AddressModePool {
				t.Errorf("mode %s", p.Mode)
			}
		})
	}
}

// TestNothingIsTakenAway lets an owner do all sorts of things to pools and parameters
// while a controller writes statuses, some of them late: who has an address keeps it,
// and no address is given to two.
func TestNothingIsTakenAway(t *testing.T) {
	got := 0
	for seed := range uint64(100) {
		o := &owner{random: rand.New(rand.NewPCG(seed, 1)), given: map[types.NamespacedName]netip.Addr{}}
		o.snapshot, o.config = readManifest(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec:
  controllerName: portway.dev/gateway-controller
  parametersRef: {group: portway.dev, kind: GatewayParameters, namespace: infra, name: edge}
`)
		for i := range 6 {
			gateway := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("gw", i)}}
			gateway.Spec.GatewayClassName = "portway"
			gateway.Spec.Listeners = []gatewayv1.Listener{{Name: "a", Protocol: "TCP", Port: 80}}
			putObject(o.snapshot.Gateways, gateway)
		}
		for range 60 {
			o.edit()
			if problem := o.control(); problem != "" {
				t.Fatalf("seed %d: %s; after:\n%s", seed, problem, strings.Join(o.did, "\n"))
			}
		}
		got += len(o.given)
	}
	if got < 200 {
		t.Errorf("only %d of 600 Gateways ever got an address", got)
	}
}

// owner is a cluster in which somebody edits and a controller follows.
type owner struct {
	random   *rand.Rand
	snapshot Snapshot
	config   testConfig
	given    map[types.NamespacedName]netip.Addr
	did      []string
	time     int64
}

// edit changes one thing as no API server would refuse.
func (o *owner) edit() {
	o.time++
	s, pick := o.snapshot, func(texts ...string) string { return texts[o.random.IntN(len(texts))] }
	name := pick("a", "b", "c")
	pool := s.AddressPools[name]
	key := types.NamespacedName{Namespace: "infra", Name: "edge"}
	switch action := pick("addresses", "addresses", "addresses", "auto", "namespaces", "buggy", "delete", "parameters"); {
	case action == "parameters":
		spec := v1alpha1.GatewayParametersSpec{Mode: "Pool", Pool: pick("", "", "a", "b", "nope")}
		delete(s.GatewayParameters, key)
		if o.random.IntN(4) > 0 {
			s.GatewayParameters[key] = &v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: "edge"}, Spec: spec}
		}
		o.did = append(o.did, fmt.Sprintf("parameters %+v", s.GatewayParameters[key]))
		return
	case pool == nil:
		pool = &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(o.time, 0)}}
	default:
		pool = pool.DeepCopy()
		switch action {
		case "auto":
			pool.Spec.AutoAssign = ptr.To(o.random.IntN(2) == 1)
		case "namespaces":
			pool.Spec.Namespaces = &v1alpha1.PoolNamespaces{From: v1alpha1.NamespacesFrom(pick("All", "Selector")), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
		case "buggy":
			pool.Spec.AvoidBuggyIPs = !pool.Spec.AvoidBuggyIPs
		case "delete":
			pool.DeletionTimestamp = ptr.To(metav1.Unix(o.time, 0))
		}
	}
	if len(pool.Spec.Addresses) == 0 || o.random.IntN(2) == 1 {
		pool.Spec.Addresses = nil
		for range 1 + o.random.IntN(2) {
			pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(pick("192.0.2.0/30", "192.0.2.0-192.0.2.1", "192.0.2.2-192.0.2.5", "198.51.100.0/31", "198.51.100.1", "nonsense")))
		}
	}
	s.AddressPools[name] = pool
	o.did = append(o.did, fmt.Sprintf("pool %s %+v deleted %t", name, pool.Spec, pool.DeletionTimestamp != nil))
}

// control does what a controller does: it keeps and gives addresses, writes statuses, and
// lets pools go that nobody uses. Some writes do not get through.
func (o *owner) control() (problem string) {
	r := Resolve(o.snapshot, o.config.config())
	assigned, taken := map[types.NamespacedName]Assignment{}, map[netip.Addr]bool{}
	for key, p := range r.Gateways {
		assigned[key] = p.Kept()
		if had, ok := o.given[key]; ok && !slices.Equal(assigned[key].Addresses, []netip.Addr{had}) {
			return fmt.Sprintf("%s had %s and keeps %+v", key, had, assigned[key])
		}
		for _, addr := range assigned[key].Addresses {
			taken[addr] = true
		}
	}
	for _, p := range r.OldestFirst() {
		for _, family := range p.Wants(assigned[p.Key].Addresses) {
			if addr := lowestFree(p.PoolsFor(family), taken); addr.IsValid() {
				taken[addr], o.given[p.Key] = true, addr
				assigned[p.Key] = Assignment{Addresses: []netip.Addr{addr}}
			}
		}
	}
	graph := r.Build(assigned)
	statuses := graph.Statuses(Reports{})
	for key, status := range statuses.Gateways {
		gateway := o.snapshot.Gateways[key].DeepCopy()
		gateway.Status = status
		o.snapshot.Gateways[key] = gateway
	}
	for name, status := range statuses.AddressPools {
		pool := o.snapshot.AddressPools[name].DeepCopy()
		switch {
		case pool.DeletionTimestamp != nil && !graph.Uses[name].InUse:
			delete(o.snapshot.AddressPools, name)
			o.did = append(o.did, "gone: "+name)
		case o.random.IntN(2) == 1:
			pool.Status = status
			o.snapshot.AddressPools[name] = pool
			o.did = append(o.did, fmt.Sprintf("status of %s: %v retained %v", name, status.Addresses, status.Retained))
		}
	}
	return ""
}

func lowestFree(pools []*Pool, taken map[netip.Addr]bool) netip.Addr {
	for _, pool := range pools {
		for addr := range pool.Set.From(netip.IPv4Unspecified()) {
			if pool.Recorded && !taken[addr] {
				return addr
			}
		}
	}
	return netip.Addr{}
}

func TestShares(t *testing.T) {
	of := func(namespace, label string) *Parameters {
		g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{v1alpha1.ShareAddressLabel: label}}}
		return &Parameters{Gateway: g, Key: types.NamespacedName{Namespace: namespace}}
	}
	got := []bool{of("a", "x").Shares(of("a", "x")), of("a", "x").Shares(of("a", "y")), of("a", "x").Shares(of("b", "x")), of("a", "").Shares(of("a", ""))}
	if diff := cmp.Diff([]bool{true, false, false, false}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func BenchmarkResolve(b *testing.B) {
	snapshot := emptySnapshot()
	snapshot.GatewayClasses["portway"] = &gatewayv1.GatewayClass{Spec: gatewayv1.GatewayClassSpec{
		ControllerName: ControllerName,
		ParametersRef:  &gatewayv1.ParametersReference{Group: v1alpha1.GroupName, Kind: KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("infra"), Name: "edge"},
	}}
	putObject(snapshot.GatewayParameters, &v1alpha1.GatewayParameters{
		ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: "edge"}, Spec: v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModePool},
	})
	for i := range 20 {
		name := fmt.Sprint("pool", i)
		snapshot.AddressPools[name] = &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressPoolSpec{
			Addresses: []v1alpha1.AddressRange{v1alpha1.AddressRange(fmt.Sprintf("10.%d.0.0/18", i))},
		}}
	}
	for i := range 5000 {
		gateway := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", i%100), Name: fmt.Sprint("gw", i)}}
		gateway.Spec.GatewayClassName = "portway"
		has(gateway, v1alpha1.AddressModePool, fmt.Sprintf("10.%d.%d.%d", i%20, i/256%64, i%256))
		putObject(snapshot.Gateways, gateway)
	}
	for b.Loop() {
		r := Resolve(snapshot, DefaultConfig())
		for _, p := range r.Gateways {
			p.Kept()
		}
	}
}
