package controller

import (
	"fmt"
	"runtime"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

const benchGateways, benchRoutes, benchNodes = 1000, 10000, 50

// BenchmarkPass is a pass over a large cluster in which all statuses are as they
// should be.
//
//	report   a node reported; nothing is decided anew
//	service  a Service changed; everything is decided anew
//	status   a status was written; nothing is decided anew
//	lease    a Lease was renewed
func BenchmarkPass(b *testing.B) {
	bench := largeCluster(b)
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	heap := float64(after.HeapAlloc) / (1 << 20)
	run := func(name string, change func(i int)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				change(i)
				if err := bench.pass(bench.ctx, false); err != nil {
					b.Fatal(err)
				}
			}
			if n := len(bench.writer.pending); n > 0 {
				b.Errorf("%d writes", n)
			}
			b.ReportMetric(heap, "heap-MB")
		})
	}
	store := func(o cluster.Object) {
		if err := bench.store.Put(o); err != nil {
			b.Fatal(err)
		}
	}
	report := bench.fleet.Reports["n00"]
	run("report", func(i int) {
		fresh := report.DeepCopy()
		fresh.Report.AgentVersion = fmt.Sprint(i)
		store(fresh)
	})
	run("service", func(i int) {
		service := testService("unrelated")
		service.Labels = map[string]string{"n": fmt.Sprint(i)}
		store(service)
	})
	route := bench.snapshot.TCPRoutes[types.NamespacedName{Namespace: "default", Name: "r0"}]
	run("status", func(i int) {
		written := route.DeepCopy()
		written.ResourceVersion = fmt.Sprint("s", i)
		written.Status.Parents[0].Conditions = append(written.Status.Parents[0].Conditions, metav1.Condition{Type: "example.com/N", Message: fmt.Sprint(i)})
		store(written)
	})
	run("lease", func(int) { bench.renew("n00") })
}

// BenchmarkFleet is what thousands of nodes cost after an edit that none of them has
// proven: of one Gateway, or of all.
//
//	reports   comparing every node's report with what is expected
//	statuses  judging every Gateway
//	names     addresses for Gateways that all ask for one that no node has
func BenchmarkFleet(b *testing.B) {
	const nodes, gateways = 5000, 1000
	decision := func(edited int) *topology.Graph {
		g := &topology.Graph{Gateways: map[types.NamespacedName]*topology.Gateway{}}
		for i := range gateways {
			key := types.NamespacedName{Namespace: "default", Name: fmt.Sprint("g", i)}
			gateway := &topology.Gateway{Key: key, Digest: fmt.Sprintf("1:%016x", i*7919), Accepted: true, Source: testGateway(key.Name, 80)}
			if i < edited {
				gateway.Digest += "+"
			}
			gateway.Assignment.Addresses = addrs("10.0.0.1")
			g.Gateways[key] = gateway
		}
		return g
	}
	var digests []string
	for _, g := range decision(0).Gateways {
		digests = append(digests, g.Digest)
	}
	slices.Sort(digests)
	members := make([]member, nodes)
	for i := range members {
		name, addr := fmt.Sprintf("n%04d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250)
		members[i] = servingMember(testMember(name, addr), addr)
		members[i].report.Report.Committed = digests
	}
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	for name, edited := range map[string]int{"one": 1, "all": gateways} {
		var r topology.Reports
		after := decision(edited)
		b.Run("reports/"+name, func(b *testing.B) {
			before := heap()
			var p *prover
			for b.Loop() {
				p = newProver(0)
				r = p.reports(after, members)
			}
			b.ReportMetric(heap()-before, "heap-MB")
			runtime.KeepAlive(p)
		})
		b.Run("statuses/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				after.Statuses(r)
			}
		})
	}
	b.Run("names", func(b *testing.B) {
		wanting := parametersOf(requesting("192.0.2.1"))
		for b.Loop() {
			a := newAssigner(members, corev1.NodeInternalIP, nil)
			for range gateways {
				a.assignOne(wanting)
			}
		}
	})
	// Each tenth Gateway is of a class with a selector of its own.
	b.Run("selectors", func(b *testing.B) {
		var wanting []*topology.Parameters
		for i := range gateways {
			spec := v1alpha1.GatewayParametersSpec{NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": fmt.Sprint(i % 10)}}}
			wanting = append(wanting, parametersOf(requesting(), spec))
		}
		for i := range members {
			members[i].node.Labels = map[string]string{"rack": fmt.Sprint(i % 10)}
		}
		for b.Loop() {
			a := newAssigner(members, corev1.NodeInternalIP, nil)
			for _, p := range wanting {
				a.assignOne(p)
			}
		}
	})
}

func testService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
}

// largeCluster is settled without an API server: what would be written is put
// into the Store.
func largeCluster(b *testing.B) *testbench {
	b.Helper()
	bench := newTestbench(b)
	bench.ctx = klog.NewContext(b.Context(), ktesting.NewLogger(nopTL{b}, ktesting.NewConfig(ktesting.Verbosity(0))))
	store := func(o cluster.Object) {
		if err := bench.store.Put(o); err != nil {
			b.Fatal(err)
		}
	}
	store(testService("app"))
	for i := range benchNodes {
		name := fmt.Sprintf("n%02d", i)
		store(testNode(name, true, fmt.Sprintf("10.0.0.%d", i+1)))
		store(testLease(name, epoch))
	}
	for i := range benchGateways {
		store(testGateway(fmt.Sprint("g", i), int32(20000+i)))
	}
	for i := range benchRoutes {
		r := testRoute(fmt.Sprint("r", i), fmt.Sprint("g", i%benchGateways))
		r.Spec.ParentRefs[0].Kind, r.Spec.ParentRefs[0].Group = ptr.To(gatewayv1.Kind("Gateway")), ptr.To(gatewayv1.Group(gatewayv1.GroupName))
		store(r)
	}
	if err := bench.pass(bench.ctx, true); err != nil {
		b.Fatal(err)
	}
	var digests []string
	for _, g := range bench.graph.Gateways {
		digests = append(digests, g.Digest)
	}
	for i := range benchNodes {
		store(bench.report(fmt.Sprintf("n%02d", i), digests...))
	}
	if err := bench.pass(bench.ctx, true); err != nil {
		b.Fatal(err)
	}
	bench.adopt(b)
	if err := bench.pass(bench.ctx, true); err != nil {
		b.Fatal(err)
	}
	if n := len(bench.writer.pending); n > 0 {
		b.Fatalf("%d writes are left", n)
	}
	return bench
}

// adopt makes every status the desired one.
func (b *testbench) adopt(tb testing.TB) {
	tb.Helper()
	now := metav1.NewTime(epoch)
	statuses := b.graph.Statuses(b.prover.reports(b.graph, b.roll.members))
	put := func(o cluster.Object) {
		if err := b.store.Put(o); err != nil {
			tb.Fatal(err)
		}
	}
	for _, o := range b.snapshot.GatewayClasses {
		o = o.DeepCopy()
		want := statuses.GatewayClasses[o.Name]
		o.Status = mergeGatewayClass(&o.Status, &want, now)
		o.Finalizers = []string{gatewayv1.GatewayClassFinalizerGatewaysExist}
		put(o)
	}
	for key, o := range b.snapshot.Gateways {
		o = o.DeepCopy()
		want := statuses.Gateways[key]
		o.Status = mergeGateway(&o.Status, &want, now)
		put(o)
	}
	for key, o := range b.snapshot.TCPRoutes {
		o = o.DeepCopy()
		want := statuses.Routes[topology.RouteKey{Kind: "TCPRoute", NamespacedName: key}]
		o.Status.RouteStatus = mergeRoute(&o.Status.RouteStatus, &want, b.config.Topology.ControllerName, now)
		put(o)
	}
}

// nopTL is a benchmark that swallows logs.
type nopTL struct{ *testing.B }

func (nopTL) Log(...any)          {}
func (nopTL) Logf(string, ...any) {}
