package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// allocatorBench is a cluster whose class gives Gateways addresses of pools.
type allocatorBench struct {
	topology.Snapshot
	version int
}

func newAllocatorBench(families ...corev1.IPFamily) *allocatorBench {
	b := &allocatorBench{Snapshot: topology.Snapshot{
		GatewayClasses: map[string]*gatewayv1.GatewayClass{"portway": {
			ObjectMeta: metav1.ObjectMeta{Name: "portway"},
			Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName, ParametersRef: &gatewayv1.ParametersReference{
				Group: v1alpha1.GroupName, Kind: "GatewayParameters", Name: "pools", Namespace: ptr.To(gatewayv1.Namespace("infra")),
			}},
		}},
		GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{{Namespace: "infra", Name: "pools"}: {
			ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: "pools"},
			Spec:       v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModePool, IPFamilies: families},
		}},
		Gateways:     map[types.NamespacedName]*gatewayv1.Gateway{},
		AddressPools: map[string]*v1alpha1.AddressPool{},
		Namespaces:   map[string]*corev1.Namespace{"default": {ObjectMeta: metav1.ObjectMeta{Name: "default"}}, "other": {ObjectMeta: metav1.ObjectMeta{Name: "other"}}},
	}}
	return b
}

// pool adds a pool whose status is up to date.
func (b *allocatorBench) pool(name string, entries ...v1alpha1.AddressRange) *v1alpha1.AddressPool {
	pool := &v1alpha1.AddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(epoch), Finalizers: []string{v1alpha1.AddressPoolFinalizer}},
		Spec:       v1alpha1.AddressPoolSpec{Addresses: entries},
	}
	for _, entry := range entries {
		pool.Status.Addresses = append(pool.Status.Addresses, string(entry))
	}
	b.AddressPools[name] = pool
	return pool
}

// gateway adds one; the n-th is n seconds younger than the first.
func (b *allocatorBench) gateway(namespace, name string, requested ...string) *gatewayv1.Gateway {
	b.version++
	g := testGateway(name, 80)
	g.Namespace, g.UID = namespace, types.UID(fmt.Sprint("uid-", b.version))
	g.CreationTimestamp = metav1.NewTime(epoch.Add(time.Duration(b.version) * time.Second))
	g.ResourceVersion = strconv.Itoa(b.version)
	g.Status = gatewayv1.GatewayStatus{}
	for _, value := range requested {
		g.Spec.Addresses = append(g.Spec.Addresses, gatewayv1.GatewaySpecAddress{Type: ptr.To(gatewayv1.IPAddressType), Value: value})
	}
	b.Gateways[keyOf(g)] = g
	return g
}

func (b *allocatorBench) resolve() *topology.Resolution {
	return topology.Resolve(b.Snapshot, topology.DefaultConfig())
}

func publish(g *gatewayv1.Gateway, addresses []netip.Addr) {
	g.Status.Addresses = nil
	for _, addr := range addresses {
		g.Status.Addresses = append(g.Status.Addresses, gatewayv1.GatewayStatusAddress{Type: ptr.To(gatewayv1.IPAddressType), Value: addr.String()})
	}
	record(g)
}

// record says that the addresses of the status are of pools.
func record(g *gatewayv1.Gateway) *gatewayv1.Gateway {
	g.Status.Conditions = []metav1.Condition{{Type: topology.ConditionAddressMode, Status: metav1.ConditionTrue, Reason: string(v1alpha1.AddressModePool)}}
	return g
}

// gives is what an allocator that leads gives, a line for each Gateway.
func gives(a *allocator, b *allocatorBench) map[string]string {
	t := a.term
	if t == nil {
		t = &term{}
	}
	return lines(a.assign(b.resolve(), t, true))
}

func lines(assigned map[types.NamespacedName]topology.Assignment) map[string]string {
	out := map[string]string{}
	for key, assignment := range assigned {
		texts := make([]string, 0, len(assignment.Addresses)+1)
		for _, addr := range assignment.Addresses {
			texts = append(texts, addr.String())
		}
		if assignment.Message != "" {
			texts = append(texts, "("+assignment.Message+")")
		}
		out[key.String()] = strings.Join(texts, " ")
	}
	return out
}

func expect(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestAllocateLowestFree: oldest first, the lowest address; what is asked for by value is
// not given to anybody else, and what somebody has stays.
func TestAllocateLowestFree(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.3")
	b.pool("b", "198.51.100.0/31")
	one, two := b.gateway("default", "one"), b.gateway("default", "two")
	b.gateway("default", "static", "192.0.2.2")
	b.gateway("other", "four")
	a := newAllocator()
	want := map[string]string{"default/one": "192.0.2.1", "default/two": "192.0.2.3", "default/static": "192.0.2.2", "other/four": "198.51.100.0"}
	expect(t, "at first", want, gives(a, b))
	expect(t, "before it is seen", want, gives(a, b))
	for key, g := range b.Gateways {
		publish(g, addrs(strings.Fields(want[key.String()])...))
	}
	expect(t, "by another controller", want, gives(newAllocator(), b))

	one.Spec.Listeners[0].Port = 81 // an edit of no matter
	delete(b.Gateways, keyOf(two))
	b.gateway("default", "five")
	delete(want, "default/two")
	want["default/five"] = "192.0.2.3"
	expect(t, "after one went", want, gives(a, b))
}

// TestAllocateForTheLivingOnly: a Gateway made anew under the same name is another one.
func TestAllocateForTheLivingOnly(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.2")
	b.gateway("default", "g")
	a := newAllocator()
	expect(t, "at first", map[string]string{"default/g": "192.0.2.1"}, gives(a, b))
	b.gateway("default", "before")
	b.Gateways[types.NamespacedName{Namespace: "default", Name: "before"}].CreationTimestamp = metav1.NewTime(epoch.Add(-time.Hour))
	b.gateway("default", "g")
	expect(t, "made anew", map[string]string{"default/before": "192.0.2.1", "default/g": "192.0.2.2"}, gives(a, b))
}

func TestAllocateFamilies(t *testing.T) {
	b := newAllocatorBench(corev1.IPv6Protocol, corev1.IPv4Protocol)
	b.pool("a", "192.0.2.1", "2001:db8::1-2001:db8::2")
	g := b.gateway("default", "g")
	b.gateway("default", "late")
	a := newAllocator()
	got := gives(a, b)
	if got["default/g"] != "192.0.2.1 2001:db8::1" || !strings.HasPrefix(got["default/late"], "2001:db8::2 (") {
		t.Errorf("%v", got)
	}
	publish(g, addrs("192.0.2.1", "2001:db8::1"))
	b.GatewayParameters[types.NamespacedName{Namespace: "infra", Name: "pools"}].Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	expect(t, "IPv6 only", map[string]string{"default/g": "2001:db8::1", "default/late": "2001:db8::2"}, gives(a, b))
}

// TestAllocateRequested: an address by value is honoured or it is said why not, and
// nobody loses one to a request.
func TestAllocateRequested(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.9")
	b.gateway("default", "dynamic")
	b.gateway("default", "wants", "192.0.2.1")
	b.gateway("default", "any", "192.0.2.5", "")
	b.gateway("default", "outside", "203.0.113.1")
	a := newAllocator()
	got := gives(a, b)
	if got["default/dynamic"] != "192.0.2.2" || got["default/wants"] != "192.0.2.1" || got["default/any"] != "192.0.2.5" {
		t.Errorf("%v", got)
	}
	if outside := got["default/outside"]; !strings.HasPrefix(outside, "(") {
		t.Errorf("outside of all pools: %q", outside)
	}
	b.gateway("other", "late", "192.0.2.2")
	if late := gives(a, b)["other/late"]; !strings.HasPrefix(late, "(another Gateway has 192.0.2.2") {
		t.Errorf("an address that another one has: %q", late)
	}
}

// TestAllocateNotOfNodes: a pool may contain what a node has, by mistake or as it is the
// network of the nodes. That is never given, and whoever asks for it is told; but nobody
// loses it to a node that comes later.
func TestAllocateNotOfNodes(t *testing.T) {
	b := newAllocatorBench(corev1.IPv4Protocol, corev1.IPv6Protocol)
	b.pool("a", "192.0.2.0/29", "2001:db8::/125")
	b.gateway("default", "any")
	b.gateway("default", "wants", "192.0.2.1")
	publish(b.gateway("default", "has"), addrs("192.0.2.2"))
	a := newAllocator()
	a.nodes = addressesOfNodes(map[string]*corev1.Node{
		"n1": testNode("n1", true, "192.0.2.0", "2001:db8::"), "n2": testNode("n2", true, "192.0.2.1", "2001:db8::1"), "n3": testNode("n3", false, "192.0.2.2"),
	})
	expect(t, "given", map[string]string{
		"default/any":   "192.0.2.3 2001:db8::2",
		"default/has":   "192.0.2.2 2001:db8::3",
		"default/wants": "(192.0.2.1 is an address of Node n2 itself; choose another, and take it out of the AddressPool)",
	}, gives(a, b))
}

// TestAllocateOnlyWhatIsHeld: nothing is given of a pool, by value or not, whose status does not
// say yet what it has, or that could go at any moment.
func TestAllocateOnlyWhatIsHeld(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*v1alpha1.AddressPool)
	}{
		{"status of before", func(p *v1alpha1.AddressPool) { p.Status.Addresses = []string{"198.51.100.0/24"} }},
		{"no finalizer", func(p *v1alpha1.AddressPool) { p.Finalizers = nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newAllocatorBench()
			test.spoil(b.pool("a", "192.0.2.1-192.0.2.9"))
			b.gateway("default", "any")
			b.gateway("default", "wants", "192.0.2.5")
			const waits = "(waiting for the status of AddressPool a to be written)"
			expect(t, "given", map[string]string{"default/any": waits, "default/wants": waits}, gives(newAllocator(), b))
		})
	}
}

// TestAllocateAnewAfterTheNodes: whoever had the addresses of nodes, or those of a load
// balancer, gets others when its class is one of pools, and does not take along those of a
// pool that covers them; nor does a new leader see it so.
func TestAllocateAnewAfterTheNodes(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.0/29")
	before := b.gateway("default", "g")
	publish(before, addrs("192.0.2.1", "192.0.2.2"))
	before.Status.Conditions = nil
	asks := b.gateway("default", "asks", "192.0.2.1")
	asks.Status = before.Status
	balanced := b.gateway("default", "balanced")
	publish(balanced, addrs("192.0.2.6"))
	balanced.Status.Conditions[0].Reason = string(v1alpha1.AddressModeLoadBalancer)
	a := newAllocator()
	a.nodes = addressesOfNodes(map[string]*corev1.Node{"n1": testNode("n1", true, "192.0.2.1"), "n2": testNode("n2", true, "192.0.2.2")})
	list := func(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error) {
		return &gatewayv1.GatewayList{Items: []gatewayv1.Gateway{*before, *asks, *balanced}}, nil
	}
	term, err := beginTerm(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"default/g": "192.0.2.0", "default/balanced": "192.0.2.3",
		"default/asks": "(192.0.2.1 is an address of Node n1 itself; choose another, and take it out of the AddressPool)",
	}
	expect(t, "given", want, lines(a.assign(b.resolve(), term, true)))
	expect(t, "before it is seen", want, lines(a.assign(b.resolve(), term, true)))
}

// TestAllocateRemembersUntilRecorded: the status may show the same address from before,
// when it was a node's. Until it says that a pool gave it, that is remembered.
func TestAllocateRemembersUntilRecorded(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.2")
	g := b.gateway("default", "g")
	publish(g, addrs("192.0.2.1"))
	g.Status.Conditions = nil
	a := newAllocator()
	expect(t, "given", map[string]string{"default/g": "192.0.2.1"}, gives(a, b))
	older := b.gateway("default", "older")
	older.CreationTimestamp = metav1.NewTime(epoch)
	expect(t, "before it is seen", map[string]string{"default/g": "192.0.2.1", "default/older": "192.0.2.2"}, gives(a, b))
}

// TestAllocateBadInputCostsNothing: who asks for what it cannot have keeps what it has until
// it has what it asks for; nobody else gets it meanwhile.
func TestAllocateBadInputCostsNothing(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.0-192.0.2.31")
	g := b.gateway("default", "g")
	b.gateway("default", "wants", "192.0.2.0")
	b.gateway("other", "any")
	a := newAllocator()
	publish(g, addrs("192.0.2.0"))
	entries := func(kind gatewayv1.AddressType, values ...string) []gatewayv1.GatewaySpecAddress {
		var list []gatewayv1.GatewaySpecAddress
		for _, value := range values {
			list = append(list, gatewayv1.GatewaySpecAddress{Type: &kind, Value: value})
		}
		return list
	}
	ip, hostname := gatewayv1.IPAddressType, gatewayv1.HostnameAddressType
	for _, step := range []struct {
		what  string
		asks  []gatewayv1.GatewaySpecAddress
		want  string
		gives bool // what it had is free
	}{
		{"another type", entries(hostname, "gw"), "192.0.2.0", false},
		{"another type, and a value that it could have", append(entries(ip, "192.0.2.9"), entries(hostname, "gw")...), "192.0.2.0", false},
		{"a value of no pool", entries(ip, "8.8.8.8"), "192.0.2.0", false},
		{"no value", entries(ip, "192.0.2.300"), "192.0.2.0", false},
		{"one that it can have, one of no pool", entries(ip, "192.0.2.9", "8.8.8.8"), "192.0.2.0 192.0.2.9", false},
		{"one that it can have", entries(ip, "192.0.2.9"), "192.0.2.9", true},
	} {
		g.Spec.Addresses = step.asks
		assigned := lines(a.assign(b.resolve(), &term{}, true))
		got, _, _ := strings.Cut(assigned["default/g"], " (")
		if got != step.want || assigned["other/any"] != "192.0.2.1" {
			t.Errorf("%s: %v", step.what, assigned)
		}
		publish(g, addrs(strings.Fields(got)...))
		if got := lines(a.assign(b.resolve(), &term{}, true))["default/wants"]; (got == "192.0.2.0") != step.gives {
			t.Errorf("%s: who waits for what it had gets %q", step.what, got)
		}
	}
	var before, after []string
	for i := range 16 {
		before, after = append(before, fmt.Sprint("192.0.2.", 2+i)), append(after, fmt.Sprint("192.0.2.", 31-i))
	}
	slices.Reverse(after)
	publish(g, addrs(before...))
	g.Spec.Addresses = entries(ip, after...)
	clear(b.Gateways)
	b.Gateways[keyOf(g)] = g
	expect(t, "as many as it can have, all of them others", map[string]string{"default/g": strings.Join(after, " ")}, gives(newAllocator(), b))
}

// TestAllocateWhileAWriteIsUnderWay: whose parameters go before its status is seen may have
// the address all the same, and nobody else gets it.
func TestAllocateWhileAWriteIsUnderWay(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.2")
	g := b.gateway("default", "g")
	a := newAllocator()
	expect(t, "given", map[string]string{"default/g": "192.0.2.1"}, gives(a, b))
	g.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: &gatewayv1.LocalParametersReference{Group: v1alpha1.GroupName, Kind: "GatewayParameters", Name: "missing"}}
	b.gateway("default", "other")
	for range 2 {
		expect(t, "without parameters", map[string]string{"default/other": "192.0.2.2"}, gives(a, b))
	}
	publish(g, addrs("192.0.2.1"))
	expect(t, "seen", map[string]string{"default/g": "192.0.2.1", "default/other": "192.0.2.2"}, gives(a, b))
}

// TestAllocateShared: the same label in one namespace shares, and nothing else does.
func TestAllocateShared(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.9")
	label := func(g *gatewayv1.Gateway, value string) {
		g.Labels = map[string]string{v1alpha1.ShareAddressLabel: value}
	}
	tcp, udp := b.gateway("default", "dns-tcp"), b.gateway("default", "dns-udp")
	label(tcp, "dns")
	label(udp, "dns")
	label(b.gateway("default", "else"), "web")
	label(b.gateway("other", "dns"), "dns")
	label(b.gateway("default", "asks", "192.0.2.1"), "dns")
	b.gateway("default", "unlabelled", "192.0.2.1")
	a := newAllocator()
	got := gives(a, b)
	if why := got["default/unlabelled"]; !strings.HasPrefix(why, "(another Gateway has 192.0.2.1") {
		t.Errorf("without the label: %q", why)
	}
	delete(got, "default/unlabelled")
	want := map[string]string{
		"default/dns-tcp": "192.0.2.1", "default/dns-udp": "192.0.2.1", "default/asks": "192.0.2.1",
		"default/else": "192.0.2.2", "other/dns": "192.0.2.3",
	}
	expect(t, "shared", want, got)
	for key, g := range b.Gateways {
		publish(g, addrs(strings.Fields(want[key.String()])...))
	}
	// The oldest has no address of the other family, the next one has.
	both := b.GatewayParameters[types.NamespacedName{Namespace: "infra", Name: "pools"}]
	b.pool("b", "2001:db8::1-2001:db8::9")
	both.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	tcp.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Type: ptr.To(gatewayv1.IPAddressType), Value: "192.0.2.1"}}
	label(b.gateway("default", "dns-late"), "dns")
	if got := gives(newAllocator(), b); got["default/dns-tcp"] != "192.0.2.1" || got["default/dns-udp"] != "192.0.2.1 2001:db8::1" || got["default/dns-late"] != got["default/dns-udp"] {
		t.Errorf("of two families: %v", got)
	}
	tcp.Spec.Addresses, both.Spec.IPFamilies = nil, nil
	delete(b.Gateways, types.NamespacedName{Namespace: "default", Name: "dns-late"})
	delete(udp.Labels, v1alpha1.ShareAddressLabel)
	if got := gives(a, b); got["default/dns-tcp"] != "192.0.2.1" || got["default/dns-udp"] != "192.0.2.4" {
		t.Errorf("when the younger one shares no more: %v", got)
	}
}

// TestOlderKeepsWhatBothHad: what a Gateway got and is not seen yet says nothing of what it
// shares with an older one, when it no longer shares.
func TestOlderKeepsWhatBothHad(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9")
	older, younger := b.gateway("default", "older"), b.gateway("default", "younger")
	for _, g := range []*gatewayv1.Gateway{older, younger} {
		g.Labels = map[string]string{v1alpha1.ShareAddressLabel: "dns"}
		publish(g, addrs("192.0.2.1"))
	}
	older.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Type: ptr.To(gatewayv1.IPAddressType), Value: "192.0.2.1"}}
	b.GatewayParameters[types.NamespacedName{Namespace: "infra", Name: "pools"}].Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	a := newAllocator()
	expect(t, "shared", map[string]string{"default/older": "192.0.2.1", "default/younger": "192.0.2.1 2001:db8::1"}, gives(a, b))
	younger.Labels = nil
	expect(t, "no longer", map[string]string{"default/older": "192.0.2.1", "default/younger": "192.0.2.2 2001:db8::1"}, gives(a, b))
}

// BenchmarkAllocate: a cold start of 5000 Gateways in one /18, and a pass when all of
// them have their addresses.
func BenchmarkAllocate(b *testing.B) {
	bench := newAllocatorBench()
	bench.pool("a", "10.0.0.0/18")
	for i := range 5000 {
		bench.gateway("default", fmt.Sprint("g", i))
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			newAllocator().assign(bench.resolve(), &term{}, true)
		}
	})
	for key, assignment := range newAllocator().assign(bench.resolve(), &term{}, true) {
		publish(bench.Gateways[key], assignment.Addresses)
	}
	b.Run("unchanged", func(b *testing.B) {
		a := newAllocator()
		for b.Loop() {
			a.assign(bench.resolve(), &term{}, true)
		}
	})
}
