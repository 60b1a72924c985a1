package topology

import (
	stdcmp "cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestOrderDoesNotMatter: the same objects give the same bytes, whatever the
// order of maps, of ReferenceGrant entries and of node reports.
func TestOrderDoesNotMatter(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range goldenNames(t) {
		snapshot, config := readManifest(t, readFile(t, name+".in.yaml"))
		want := decideAll(t, snapshot, config)
		for range 5 {
			shuffled, shuffledConfig := shuffle(random, snapshot, config)
			if diff := cmp.Diff(want, decideAll(t, shuffled, shuffledConfig)); diff != "" {
				t.Fatalf("%s: another order decides otherwise (-want +got):\n%s", name, diff)
			}
		}
	}
}

// decideAll renders statuses, winners and digests.
func decideAll(t *testing.T, s Snapshot, config testConfig) string {
	t.Helper()
	graph := Build(s, config.config())
	rendered := renderOutcome(t, graph, graph.Statuses(config.reports(graph)), config)
	for _, key := range sortedKeys(graph.Gateways) {
		rendered += fmt.Sprintf("%s %s\n", key, graph.Gateways[key].Digest)
	}
	return rendered
}

func shuffle(random *rand.Rand, s Snapshot, config testConfig) (Snapshot, testConfig) {
	s.GatewayClasses = shuffledMap(random, s.GatewayClasses)
	s.Gateways = shuffledMap(random, s.Gateways)
	s.ListenerSets = shuffledMap(random, s.ListenerSets)
	s.TCPRoutes = shuffledMap(random, s.TCPRoutes)
	s.UDPRoutes = shuffledMap(random, s.UDPRoutes)
	s.Namespaces = shuffledMap(random, s.Namespaces)
	s.Services = shuffledMap(random, s.Services)
	s.Addresses = shuffledMap(random, s.Addresses)
	s.AddressPools = shuffledMap(random, s.AddressPools)
	s.GatewayParameters = shuffledMap(random, s.GatewayParameters)
	s.ReferenceGrants = shuffledMap(random, s.ReferenceGrants)
	for key, grant := range s.ReferenceGrants {
		grant = grant.DeepCopy()
		random.Shuffle(len(grant.Spec.From), func(i, j int) { grant.Spec.From[i], grant.Spec.From[j] = grant.Spec.From[j], grant.Spec.From[i] })
		random.Shuffle(len(grant.Spec.To), func(i, j int) { grant.Spec.To[i], grant.Spec.To[j] = grant.Spec.To[j], grant.Spec.To[i] })
		s.ReferenceGrants[key] = grant
	}
	if config.Reports != nil {
		reports := *config.Reports
		reports.Nodes = slices.Clone(reports.Nodes)
		random.Shuffle(len(reports.Nodes), func(i, j int) { reports.Nodes[i], reports.Nodes[j] = reports.Nodes[j], reports.Nodes[i] })
		config.Reports = &reports
	}
	return s, config
}

func shuffledMap[K comparable, V any](random *rand.Rand, m map[K]V) map[K]V {
	keys := make([]K, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	shuffled := make(map[K]V)
	for _, i := range random.Perm(len(keys)) {
		shuffled[keys[i]] = m[keys[i]]
	}
	return shuffled
}

func TestCompareAge(t *testing.T) {
	aged := func(namespace, name string, second int64) age {
		created := metav1.Time{}
		if second > 0 {
			created = metav1.Unix(second, 0)
		}
		return newAge(created, types.NamespacedName{Namespace: namespace, Name: name})
	}
	ordered := []age{
		aged("z", "z", 1), aged("a-b", "x", 2), aged("a", "x", 2), aged("a", "y", 2), aged("a", "x", 3), aged("a", "x", 0), aged("a", "y", 0),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := compareAge(a, b), stdcmp.Compare(i, j); got != want {
				t.Errorf("compareAge(%v, %v) = %d, want %d", a, b, got, want)
			}
		}
	}
}

// TestNothing: the zero values decide nothing and break nothing.
func TestNothing(t *testing.T) {
	graph := Build(Snapshot{}, Config{})
	checkInvariants(t, graph, graph.Statuses(Reports{}))
}

// TestMoreThanTheAPIAllows: a YAML file may exceed every list of the API; no
// status does.
func TestMoreThanTheAPIAllows(t *testing.T) {
	snapshot := benchmarkSnapshot(64)
	key := types.NamespacedName{Namespace: "ns-0", Name: "gw"}
	spec := &snapshot.Gateways[key].Spec
	for i := range 6 {
		spec.Listeners = append(spec.Listeners, gatewayv1.Listener{
			Name: gatewayv1.SectionName(fmt.Sprintf("more-%d", i)), Protocol: gatewayv1.TCPProtocolType, Port: gatewayv1.PortNumber(9000 + i),
		})
	}
	assignment := snapshot.Addresses[key]
	for addr := netip.MustParseAddr("198.51.100.1"); len(assignment.Addresses) < 20; addr = addr.Next() {
		assignment.Addresses = append(assignment.Addresses, addr)
	}
	snapshot.Addresses[key] = assignment
	route := snapshot.TCPRoutes[types.NamespacedName{Namespace: "ns-0", Name: "route-0"}]
	for len(route.Spec.ParentRefs) < 40 {
		route.Spec.ParentRefs = append(route.Spec.ParentRefs, route.Spec.ParentRefs[0])
	}

	graph := Build(snapshot, DefaultConfig())
	statuses := graph.Statuses(Reports{})
	checkInvariants(t, graph, statuses)
	gateway := statuses.Gateways[key]
	if n := len(gateway.Listeners); n != 64 {
		t.Errorf("%d listeners in status", n)
	}
	accepted := gateway.Conditions[0]
	if accepted.Status != metav1.ConditionTrue || accepted.Reason != "ListenersNotValid" || !strings.Contains(accepted.Message, "6 entries more than the 64 allowed") {
		t.Errorf("excess listeners: %+v", accepted)
	}
	parents := statuses.Routes[RouteKey{KindTCPRoute, types.NamespacedName{Namespace: "ns-0", Name: "route-0"}}].Parents
	if len(parents) != 32 || parents[0].Conditions[0].Reason != "UnsupportedValue" {
		t.Errorf("%d parents, first: %+v", len(parents), parents[0].Conditions[0])
	}
}

func TestClassStatus(t *testing.T) {
	statuses := Build(benchmarkSnapshot(1), DefaultConfig()).Statuses(Reports{})
	features := statuses.GatewayClasses["portway"].SupportedFeatures
	if len(features) == 0 || !slices.IsSortedFunc(features, func(a, b gatewayv1.SupportedFeature) int {
		return strings.Compare(string(a.Name), string(b.Name))
	}) {
		t.Errorf("supportedFeatures are not in order: %v", features)
	}
	for key, route := range statuses.Routes {
		for _, parent := range route.Parents {
			if parent.ControllerName != ControllerName {
				t.Errorf("route %v: controllerName %q", key, parent.ControllerName)
			}
		}
	}
}

// TestLongErrorsAreCut: no message outgrows the 32768 bytes of a condition.
func TestLongErrorsAreCut(t *testing.T) {
	graph := Build(benchmarkSnapshot(1), DefaultConfig())
	key := types.NamespacedName{Namespace: "ns-0", Name: "gw"}
	var reports Reports
	for i := range 5000 {
		reports.Nodes = append(reports.Nodes, NodeReport{
			Node:   fmt.Sprintf("node-%04d", i),
			Errors: map[types.NamespacedName]string{key: strings.Repeat("é", 50_000)},
		})
	}
	checkInvariants(t, graph, graph.Statuses(reports))
}

// benchmarkSnapshot has n listeners, 64 per Gateway, with a route and a Service
// for each.
func benchmarkSnapshot(n int) Snapshot {
	s := emptySnapshot()
	s.GatewayClasses["portway"] = &gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "portway"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName},
	}
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	addr := netip.MustParseAddr("10.0.0.0")
	var gateway *gatewayv1.Gateway
	for i := range n {
		namespace := fmt.Sprintf("ns-%d", i/64)
		if i%64 == 0 {
			addr = addr.Next()
			gateway = &gatewayv1.Gateway{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "gw", Generation: 1, CreationTimestamp: metav1.NewTime(created.Add(time.Duration(i) * time.Second))},
				Spec:       gatewayv1.GatewaySpec{GatewayClassName: "portway"},
			}
			key := types.NamespacedName{Namespace: namespace, Name: "gw"}
			s.Gateways[key] = gateway
			s.Addresses[key] = Assignment{Addresses: []netip.Addr{addr}}
		}
		listener := fmt.Sprintf("listener-%d", i%64)
		name := types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("route-%d", i)}
		service := types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("service-%d", i)}
		gateway.Spec.Listeners = append(gateway.Spec.Listeners, gatewayv1.Listener{
			Name: gatewayv1.SectionName(listener), Protocol: gatewayv1.TCPProtocolType, Port: gatewayv1.PortNumber(20000 + i%64),
		})
		s.TCPRoutes[name] = &gatewayv1.TCPRoute{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name.Name, Generation: 1, CreationTimestamp: metav1.NewTime(created.Add(time.Duration(i%977) * time.Second))},
			Spec: gatewayv1.TCPRouteSpec{
				CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "gw", SectionName: ptr.To(gatewayv1.SectionName(listener))}}},
				Rules: []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{
					BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(service.Name), Port: ptr.To[gatewayv1.PortNumber](80)},
				}}}},
			},
		}
		s.Services[service] = &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	}
	return s
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			snapshot, config := benchmarkSnapshot(n), DefaultConfig()
			b.ReportAllocs()
			for b.Loop() {
				Build(snapshot, config)
			}
		})
	}
}

func BenchmarkStatuses(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) {
			graph := Build(benchmarkSnapshot(n), DefaultConfig())
			var reports Reports
			for i := range 100 {
				report := NodeReport{Node: fmt.Sprintf("node-%d", i), Committed: map[types.NamespacedName]string{}}
				for key, gateway := range graph.Gateways {
					report.Committed[key] = gateway.Digest
				}
				reports.Nodes = append(reports.Nodes, report)
			}
			b.ReportAllocs()
			for b.Loop() {
				graph.Statuses(reports)
			}
		})
	}
}
