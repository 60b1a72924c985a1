package topology

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// FuzzBuild decides Snapshots made from a byte stream and checks that the
// decision is consistent, the same again, and leaves its input alone. The
// values are few, so that objects often mean each other.
func FuzzBuild(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a listener, a route and what may go wrong between them"))
	for seed := range 64 { // also run by plain "go test"
		stream := make([]byte, 1024)
		state := uint32(seed + 1)
		for i := range stream {
			state = state*1664525 + 1013904223
			stream[i] = byte(state >> 24)
		}
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		choice := &choices{stream}
		snapshot, config := choice.snapshot(), DefaultConfig()
		config.MaxListeners = choice.of(5)
		before := copySnapshot(snapshot)

		graph := Build(snapshot, config)
		reports := choice.reports(graph)
		statuses := graph.Statuses(reports)
		checkInvariants(t, graph, statuses)

		again := Build(snapshot, config)
		if diff := cmp.Diff(statuses, again.Statuses(reports)); diff != "" {
			t.Errorf("decided otherwise the second time:\n%s", diff)
		}
		for key, gateway := range graph.Gateways {
			if gateway.Digest != again.Gateways[key].Digest {
				t.Errorf("Gateway %s: another digest the second time", key)
			}
		}
		if diff := cmp.Diff(before, snapshot, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("the Snapshot was changed:\n%s", diff)
		}
	})
}

// choices turns a byte stream into choices; when it ends all are 0.
type choices struct{ stream []byte }

func (c *choices) of(n int) int {
	if len(c.stream) == 0 {
		return 0
	}
	b := c.stream[0]
	c.stream = c.stream[1:]
	return int(b) % n
}

// rarely is true once in eight times.
func (c *choices) rarely() bool { return c.of(8) == 7 }

func pick[T any](c *choices, values ...T) T { return values[c.of(len(values))] }

func (c *choices) meta(names ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         pick(c, "a", "b", "a-b"),
		Name:              pick(c, names...),
		Generation:        int64(c.of(3)),
		CreationTimestamp: pick(c, metav1.Unix(100, 0), metav1.Unix(200, 0), metav1.Time{}),
	}
}

func (c *choices) snapshot() Snapshot {
	s := emptySnapshot()
	for _, name := range []string{"ours", "other"} {
		class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		class.Spec.ControllerName = pick(c, ControllerName, ControllerName, "example.com/other")
		class.Spec.ParametersRef = pick(c, nil, nil,
			&gatewayv1.ParametersReference{Group: "portway.dev", Kind: KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("a"), Name: pick(c, "p1", "p2", "p3")},
			&gatewayv1.ParametersReference{Kind: "Parameters", Name: "p"})
		s.GatewayClasses[name] = class
	}
	for range c.of(4) {
		c.pool(s)
		parameters := &v1alpha1.GatewayParameters{ObjectMeta: c.meta("p1", "p2"), Spec: c.parameters()}
		putObject(s.GatewayParameters, parameters)
	}
	for range c.of(5) {
		gateway := &gatewayv1.Gateway{ObjectMeta: c.meta("g1", "g2")}
		c.gateway(gateway)
		putObject(s.Gateways, gateway)
		if !c.rarely() {
			s.Addresses[objectKey(nil, gatewayv1.ObjectName(gateway.Name), gateway.Namespace)] = Assignment{
				NodeMode: c.of(2) == 1, Addresses: c.addresses(),
			}
		}
	}
	for _, key := range sortedKeys(s.Gateways) {
		if c.of(2) == 1 {
			c.balancer(s, key)
		}
	}
	if c.of(2) == 1 {
		for key, parameters := range Resolve(s, DefaultConfig()).Gateways {
			s.Addresses[key] = parameters.Kept()
		}
	}
	for range c.of(5) {
		set := &gatewayv1.ListenerSet{ObjectMeta: c.meta("s1", "s2")}
		set.Spec.ParentRef = gatewayv1.ParentGatewayReference{
			Name: pick[gatewayv1.ObjectName](c, "g1", "g2"), Namespace: pick(c, nil, ptr.To[gatewayv1.Namespace]("a")),
		}
		for range c.of(4) {
			set.Spec.Listeners = append(set.Spec.Listeners, gatewayv1.ListenerEntry(c.listener()))
		}
		putObject(s.ListenerSets, set)
	}
	for range c.of(8) {
		tcp := &gatewayv1.TCPRoute{ObjectMeta: c.meta("r1", "r2", "r3")}
		tcp.Spec.ParentRefs = c.parentRefs()
		for range pick(c, 1, 1, 1, 1, 0, 2) {
			tcp.Spec.Rules = append(tcp.Spec.Rules, gatewayv1.TCPRouteRule{BackendRefs: c.backendRefs()})
		}
		putObject(s.TCPRoutes, tcp)
		udp := &gatewayv1.UDPRoute{ObjectMeta: c.meta("r1", "r2")}
		udp.Spec.ParentRefs = c.parentRefs()
		udp.Spec.Rules = []gatewayv1.UDPRouteRule{{BackendRefs: c.backendRefs()}}
		putObject(s.UDPRoutes, udp)
	}
	for range c.of(4) {
		grant := &gatewayv1.ReferenceGrant{ObjectMeta: c.meta("g")}
		grant.Spec.From = []gatewayv1.ReferenceGrantFrom{{
			Group: gatewayv1.GroupName, Kind: pick(c, KindTCPRoute, KindUDPRoute), Namespace: pick[gatewayv1.Namespace](c, "a", "b"),
		}}
		grant.Spec.To = []gatewayv1.ReferenceGrantTo{{
			Kind: kindService, Name: pick(c, nil, ptr.To[gatewayv1.ObjectName]("v1"), ptr.To[gatewayv1.ObjectName]("")),
		}}
		putObject(s.ReferenceGrants, grant)

		service := &corev1.Service{ObjectMeta: c.meta("v1", "v2")}
		service.Spec.Type = pick(c, corev1.ServiceTypeClusterIP, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName)
		service.Spec.SessionAffinity = pick[corev1.ServiceAffinity](c, "", "None", "ClientIP", "Nobody")
		service.Spec.ExternalTrafficPolicy = pick[corev1.ServiceExternalTrafficPolicy](c, "", "Cluster", "Local")
		service.Spec.Ports = []corev1.ServicePort{{Name: "p", Port: 80, Protocol: pick[corev1.Protocol](c, "", "TCP", "UDP")}, {Name: "q", Port: 80, Protocol: "UDP"}}
		putObject(s.Services, service)
	}
	s.Namespaces["a"] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"team": "red"}}}
	return s
}

func (c *choices) gateway(g *gatewayv1.Gateway) {
	g.Spec.GatewayClassName = pick[gatewayv1.ObjectName](c, "ours", "ours", "ours", "other", "missing")
	for range c.of(6) {
		g.Spec.Listeners = append(g.Spec.Listeners, c.listener())
	}
	if c.rarely() {
		g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{
			Type: pick(c, nil, ptr.To(gatewayv1.IPAddressType), ptr.To(gatewayv1.HostnameAddressType)), Value: pick(c, "", "192.0.2.1", "2001:db8::1", "nonsense"),
		}}
	}
	if c.of(4) == 3 {
		ref := &gatewayv1.LocalParametersReference{Group: pick[gatewayv1.Group](c, "portway.dev", "portway.dev", ""), Kind: KindGatewayParameters, Name: pick(c, "p1", "p2", "p3")}
		g.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: ref}
	}
	for range c.of(3) {
		g.Status.Addresses = append(g.Status.Addresses, gatewayv1.GatewayStatusAddress{Value: pick(c, "192.0.2.1", "192.0.2.255", "2001:db8::1", "10.0.0.1", "nonsense")})
	}
	if mode := pick(c, "", "Pool", "LoadBalancer", "Nonsense"); mode != "" {
		g.Status.Conditions = []metav1.Condition{{Type: ConditionAddressMode, Status: pick(c, metav1.ConditionTrue, metav1.ConditionFalse), Reason: mode}}
	}
	if from := c.from(); from != nil {
		g.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: from, Selector: c.selector()}}
	}
}

func (c *choices) pool(s Snapshot) {
	pool := &v1alpha1.AddressPool{ObjectMeta: c.meta("a", "b", "c")}
	pool.Namespace = ""
	entry := func() string {
		return pick(c, "192.0.2.0/24", "192.0.2.1", "192.0.2.128/25", "2001:db8::/64", "192.0.2.9-192.0.2.255", "nonsense", "ff02::1")
	}
	for range c.of(3) {
		pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(entry()))
	}
	if c.of(2) == 1 {
		pool.Status.Addresses, pool.Status.Retained = []string{entry()}, []string{entry()}
	}
	pool.Spec.AvoidBuggyIPs = c.of(2) == 1
	pool.Spec.AutoAssign = pick(c, nil, nil, ptr.To(false))
	if c.rarely() {
		pool.DeletionTimestamp = ptr.To(metav1.Unix(300, 0))
	}
	pool.Spec.Namespaces = pick(c, nil, nil, &v1alpha1.PoolNamespaces{From: pick[v1alpha1.NamespacesFrom](c, "", "All", "Selector", "Same"), Selector: c.selector()})
	pool.Spec.Announcement = pick(c, nil, nil, &v1alpha1.Announcement{
		Mode: pick[v1alpha1.AnnouncementMode](c, "", "None", "Layer2", "BGP"), Interfaces: pick(c, nil, []string{"eth*"}, []string{"["}), NodeSelector: c.selector(),
	})
	s.AddressPools[pool.Name] = pool
}

// balancer is the Service of a Gateway in mode LoadBalancer, be it in that mode or not.
func (c *choices) balancer(s Snapshot, gateway types.NamespacedName) {
	service := &corev1.Service{ObjectMeta: c.meta(serviceName(gateway, s.Gateways[gateway].UID))}
	service.Namespace = DefaultConfig().Namespace
	service.Labels = pick(c, nil, map[string]string{v1alpha1.GatewayNamespaceLabel: gateway.Namespace, v1alpha1.GatewayNameLabel: gateway.Name})
	service.Spec.Type = pick(c, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeClusterIP)
	service.Spec.LoadBalancerClass = pick(c, nil, ptr.To("example.com/a"))
	service.Spec.IPFamilies = pick(c, nil, []corev1.IPFamily{"IPv4"}, []corev1.IPFamily{"IPv6", "IPv4"})
	for range c.of(4) {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Protocol: pick[corev1.Protocol](c, "TCP", "TCP", "UDP"), Port: pick[int32](c, 80, 81, 82), NodePort: pick[int32](c, 80, 81, 22, 30080, 0, 70000),
		})
	}
	for range c.of(3) {
		service.Status.LoadBalancer.Ingress = append(service.Status.LoadBalancer.Ingress, pick(c,
			corev1.LoadBalancerIngress{IP: "192.0.2.1"}, corev1.LoadBalancerIngress{IP: "2001:db8::1", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)},
			corev1.LoadBalancerIngress{Hostname: "h.example.com"}, corev1.LoadBalancerIngress{IP: "nonsense"}))
	}
	if c.rarely() {
		service.DeletionTimestamp = ptr.To(metav1.Unix(300, 0))
	}
	putObject(s.Services, service)
}

func (c *choices) parameters() v1alpha1.GatewayParametersSpec {
	families := func() []corev1.IPFamily {
		return pick(c, nil, nil, []corev1.IPFamily{"IPv4"}, []corev1.IPFamily{"IPv6"}, []corev1.IPFamily{"IPv4", "IPv6"}, []corev1.IPFamily{"IPv5"})
	}
	spec := v1alpha1.GatewayParametersSpec{
		Mode: pick[v1alpha1.AddressMode](c, "Pool", "Pool", "", "Node", "LoadBalancer", "LoadBalancer", "Host"), Pool: pick(c, "", "", "a", "b", "d"), IPFamilies: families(),
	}
	if c.rarely() {
		spec.NodeSelector = c.selector()
	}
	if c.rarely() {
		spec.NodeAddressType = pick[v1alpha1.NodeAddressType](c, "Internal", "External", "Other")
	}
	if c.of(2) == 1 {
		spec.Permitted = &v1alpha1.PermittedParameters{
			Modes: pick(c, nil, []v1alpha1.AddressMode{"Node", "Pool", "LoadBalancer"}), Pools: pick(c, nil, []string{"a"}, []string{"c", "d"}),
			IPFamilies: families(), NodeSelector: c.of(2) == 1,
		}
	}
	return spec
}

func (c *choices) listener() gatewayv1.Listener {
	l := gatewayv1.Listener{
		Name:     pick[gatewayv1.SectionName](c, "x", "y", "z", "w", ""),
		Protocol: pick(c, gatewayv1.TCPProtocolType, gatewayv1.TCPProtocolType, gatewayv1.UDPProtocolType, gatewayv1.HTTPProtocolType),
		Port:     pick[gatewayv1.PortNumber](c, 80, 81, 82, 22, 0, 65536+80),
	}
	if c.rarely() {
		l.Hostname = ptr.To[gatewayv1.Hostname]("h.example.com")
	}
	if c.rarely() {
		l.TLS = &gatewayv1.ListenerTLSConfig{}
	}
	if c.of(2) == 1 {
		l.AllowedRoutes = &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: c.from(), Selector: c.selector()}}
		for range c.of(3) {
			l.AllowedRoutes.Kinds = append(l.AllowedRoutes.Kinds, gatewayv1.RouteGroupKind{Kind: pick[gatewayv1.Kind](c, KindTCPRoute, KindUDPRoute, "HTTPRoute")})
		}
	}
	return l
}

func (c *choices) from() *gatewayv1.FromNamespaces {
	return pick(c, nil, ptr.To(gatewayv1.NamespacesFromAll), ptr.To(gatewayv1.NamespacesFromSame), ptr.To(gatewayv1.NamespacesFromSelector),
		ptr.To(gatewayv1.NamespacesFromNone), ptr.To[gatewayv1.FromNamespaces]("Nowhere"))
}

func (c *choices) selector() *metav1.LabelSelector {
	return pick(c, nil, &metav1.LabelSelector{},
		&metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}}, &metav1.LabelSelector{MatchLabels: map[string]string{"-": "-"}})
}

func (c *choices) parentRefs() []gatewayv1.ParentReference {
	var refs []gatewayv1.ParentReference
	for range c.of(4) {
		refs = append(refs, gatewayv1.ParentReference{
			Kind:        pick(c, nil, ptr.To(KindListenerSet), ptr.To(kindService)),
			Name:        pick[gatewayv1.ObjectName](c, "g1", "g2", "s1", "s2"),
			Namespace:   pick(c, nil, ptr.To[gatewayv1.Namespace]("a")),
			SectionName: pick(c, nil, nil, ptr.To[gatewayv1.SectionName]("x"), ptr.To[gatewayv1.SectionName]("y"), ptr.To[gatewayv1.SectionName]("")),
			Port:        pick(c, nil, nil, nil, ptr.To[gatewayv1.PortNumber](80)),
		})
	}
	return refs
}

func (c *choices) backendRefs() []gatewayv1.BackendRef {
	var refs []gatewayv1.BackendRef
	n := c.of(4)
	if c.rarely() {
		n = 17
	}
	for range n {
		refs = append(refs, gatewayv1.BackendRef{
			BackendObjectReference: gatewayv1.BackendObjectReference{
				Kind:      pick(c, nil, nil, ptr.To[gatewayv1.Kind]("Bucket")),
				Name:      pick[gatewayv1.ObjectName](c, "v1", "v2", "v3"),
				Namespace: pick(c, nil, ptr.To[gatewayv1.Namespace]("b")),
				Port:      pick(c, ptr.To[gatewayv1.PortNumber](80), ptr.To[gatewayv1.PortNumber](81), nil),
			},
			Weight: pick(c, nil, nil, ptr.To[int32](0), ptr.To[int32](1_000_000), ptr.To[int32](-1)),
		})
	}
	return refs
}

func (c *choices) addresses() []netip.Addr {
	var addrs []netip.Addr
	for range c.of(3) {
		addrs = append(addrs, netip.MustParseAddr(pick(c, "192.0.2.1", "192.0.2.2", "2001:db8::1", "::ffff:192.0.2.1")))
	}
	return addrs
}

func (c *choices) reports(g *Graph) Reports {
	reports := Reports{NotEvaluated: c.rarely()}
	for range c.of(5) {
		node := testNode{Node: pick(c, "n1", "n2", "n3"), Behind: c.of(2) == 1, Error: pick(c, "", "failed")}
		reports.Nodes = append(reports.Nodes, testConfig{Reports: &testReports{Nodes: []testNode{node}}}.reports(g).Nodes...)
	}
	return reports
}

func copySnapshot(s Snapshot) Snapshot {
	copied := emptySnapshot()
	for name, object := range s.GatewayClasses {
		copied.GatewayClasses[name] = object.DeepCopy()
	}
	for name, object := range s.Namespaces {
		copied.Namespaces[name] = object.DeepCopy()
	}
	copyObjects(copied.Gateways, s.Gateways)
	copyObjects(copied.ListenerSets, s.ListenerSets)
	copyObjects(copied.TCPRoutes, s.TCPRoutes)
	copyObjects(copied.UDPRoutes, s.UDPRoutes)
	copyObjects(copied.ReferenceGrants, s.ReferenceGrants)
	copyObjects(copied.Services, s.Services)
	copyObjects(copied.AddressPools, s.AddressPools)
	copyObjects(copied.GatewayParameters, s.GatewayParameters)
	for key, assignment := range s.Addresses {
		assignment.Addresses = append([]netip.Addr(nil), assignment.Addresses...)
		copied.Addresses[key] = assignment
	}
	return copied
}

func copyObjects[K comparable, T interface{ DeepCopy() T }](to, from map[K]T) {
	for key, object := range from {
		to[key] = object.DeepCopy()
	}
}
