package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/topology"
)

// statusesPerSecond is the controller's limit in these measurements.
const statusesPerSecond = 100

// fleetOf makes nodes whose agents have reported nothing yet.
func fleetOf(n int) []apisim.Object {
	var all []apisim.Object
	for i := range n {
		all = append(all, node(fmt.Sprint("node-", i), fleetAddress(i)), report(i), lease(i, 0))
	}
	return all
}

func fleetAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
}

// report of an agent, which has committed the given digests.
func report(i int, digests ...string) *v1alpha1.NodeReport {
	return &v1alpha1.NodeReport{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}, Report: v1alpha1.Report{
		Version: v1alpha1.ReportVersion, AgentVersion: "dev", Backend: "nftables", Addresses: []string{fleetAddress(i).String()},
		Committed: digests, Gateways: int32(len(digests)),
	}}
}

// lease of an agent, renewed so many times.
func lease(i, renewed int) *coordinationv1.Lease {
	name := fmt.Sprint("node-", i)
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC).Add(time.Duration(renewed) * 10 * time.Second)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: cluster.AgentLeasePrefix + name, Labels: map[string]string{cluster.AgentLabel: "true"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To(name), LeaseDurationSeconds: ptr.To[int32](40), RenewTime: ptr.To(metav1.NewMicroTime(at))},
	}
}

// pool makes all Gateways of the class get addresses of one AddressPool.
func pool(t *testing.T) []apisim.Object {
	t.Helper()
	pool, parameters := &v1alpha1.AddressPool{}, &v1alpha1.GatewayParameters{}
	for text, into := range map[string]any{
		`{"metadata":{"name":"public","generation":1},"spec":{"addresses":["198.18.0.0/15"]}}`:                     pool,
		`{"metadata":{"namespace":"default","name":"pool","generation":1},"spec":{"mode":"Pool","pool":"public"}}`: parameters,
	} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	return []apisim.Object{pool, parameters}
}

// startController starts a controller in a namespace of its own.
func startController(t *testing.T, objects []apisim.Object) (*apisim.Server, *process) {
	t.Helper()
	in := netns.ForTest(t, "controller")
	api := serveAPI(t, in)
	for _, name := range []string{namespace, system} {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	if err := api.Put(objects...); err != nil {
		t.Fatal(err)
	}
	if _, err := binaries(); err != nil { // not to be measured
		t.Fatal(err)
	}
	return api, launch(t, in, api, "portway-controller", "--kube-api-qps", fmt.Sprint(statusesPerSecond), "-v=2")
}

// TestControllerSettles: a controller starts on a cluster full of objects without a status.
func TestControllerSettles(t *testing.T) {
	measures(t)
	type start struct {
		gateways, routes int // routes of each Gateway
		pooled           bool
		agents           int // that report; 0: there is one, and it does not
	}
	for _, s := range effort(
		[]start{{20, 10, false, 0}, {50, 0, true, 20}},
		[]start{{1000, 10, false, 0}, {1000, 0, true, 0}, {1000, 0, true, 100}},
		[]start{{1000, 10, false, 0}, {5000, 0, true, 0}, {5000, 0, true, 100}},
	) {
		class := &gatewayv1.GatewayClass{
			ObjectMeta: metav1.ObjectMeta{Name: "portway", Generation: 1}, Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.DefaultConfig().ControllerName},
		}
		objects := append(fleetOf(max(1, s.agents)), class)
		name := "nodes' addresses"
		if s.pooled {
			name = "addresses of one AddressPool"
			class.Spec.ParametersRef = &gatewayv1.ParametersReference{
				Group: gatewayv1.Group(v1alpha1.GroupName), Kind: "GatewayParameters", Name: "pool", Namespace: ptr.To[gatewayv1.Namespace]("default"),
			}
			objects = append(objects, pool(t)...)
		}
		if s.agents > 0 {
			name += fmt.Sprintf(", %d agents report, up to %d s behind", s.agents, slowest)
		}
		for i := range s.gateways {
			objects = append(objects, coldGateway(i, s.routes)...)
		}
		api, p := startController(t, objects)
		stop := startAgents(t, api, s.agents)
		began, last, written, all := time.Now(), time.Duration(0), 0, s.gateways*(1+s.routes)+1
		for until := 15 * time.Minute; ; time.Sleep(50 * time.Millisecond) {
			if now := statusWrites(api); now != written {
				written, last = now, time.Since(began)
			}
			if settled(t, api, s.gateways, s.agents > 0) && written >= all && time.Since(began)-last > 5*time.Second {
				break
			}
			if time.Since(began) > until {
				t.Fatalf("not settled: %d statuses written", written)
			}
		}
		fig := func(what, unit string, value float64, note string) {
			record(t, figure.Figure{
				Section: figure.ControlPath, Name: fmt.Sprintf("controller, cold, %d Gateways with %d routes each, %s: %s", s.gateways, s.routes, name, what),
				Listeners: s.gateways * max(1, s.routes), Unit: unit, Values: []float64{value}, Note: note,
			})
		}
		fig("settled", "s", last.Seconds(), fmt.Sprintf("at %d status writes a second", statusesPerSecond))
		fig("statuses written", "", float64(written), "")
		fig("CPU", "s", p.cpu(t).Seconds(), "")
		fig("peak memory", "B", p.memory(t, "VmHWM"), "resident")
		t.Logf("%v", api.Requests())
		stop()
		p.stop(t)
	}
}

func coldGateway(i, routes int) []apisim.Object {
	name := fmt.Sprint("gateway-", i)
	g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: gatewayv1.GatewaySpec{GatewayClassName: "portway"}}
	all := []apisim.Object{g}
	for l := range max(1, routes) {
		g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{
			Name: gatewayv1.SectionName(fmt.Sprint("l", l)), Port: gatewayv1.PortNumber(firstPort + i*max(1, routes) + l), Protocol: gatewayv1.TCPProtocolType,
		})
		if routes > 0 {
			r := route(i*routes + l)
			r.Spec.ParentRefs[0].Name, r.Spec.ParentRefs[0].SectionName = gatewayv1.ObjectName(name), ptr.To(g.Spec.Listeners[l].Name)
			all = append(all, r, service(i*routes+l))
		}
	}
	return all
}

func statusWrites(api *apisim.Server) (n int) {
	for request, count := range api.Requests() {
		if request.Agent == "portway-controller" && request.Verb == "update" && len(request.Resource) > 7 && request.Resource[len(request.Resource)-7:] == "/status" {
			n += count
		}
	}
	return n
}

// settled reports whether all Gateways are accepted and have an address, and are programmed.
func settled(t *testing.T, api *apisim.Server, want int, programmed bool) bool {
	t.Helper()
	gateways, err := apisim.List(api, &gatewayv1.Gateway{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range gateways {
		if apimeta.IsStatusConditionTrue(g.Status.Conditions, string(gatewayv1.GatewayConditionAccepted)) && len(g.Status.Addresses) > 0 &&
			(!programmed || apimeta.IsStatusConditionTrue(g.Status.Conditions, string(gatewayv1.GatewayConditionProgrammed))) {
			n++
		}
	}
	return n == want
}

// TestControllerOfAFleet: nothing happens but that agents renew their Leases.
func TestControllerOfAFleet(t *testing.T) {
	measures(t)
	n := effort(1000, 5000, 5000)
	objects := fleetOf(n)
	for i := range 100 {
		objects = append(objects, coldGateway(i, 1)...)
	}
	objects = append(objects, &gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "portway", Generation: 1}, Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.DefaultConfig().ControllerName},
	})
	api, p := startController(t, objects)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	renew := func(from int, duration time.Duration) int {
		for began := time.Now(); time.Since(began) < duration; {
			<-ticker.C
			var leases []apisim.Object
			for range n / 1000 {
				leases = append(leases, lease(from%n, 1+from/n))
				from++
			}
			if err := api.Put(leases...); err != nil {
				t.Fatal(err)
			}
		}
		return from
	}
	from := renew(0, effort(6*time.Second, 20*time.Second, 30*time.Second)) // until it has settled
	before, began, sent := p.cpu(t), time.Now(), watched(api, "portway-controller")
	renew(from, effort(8*time.Second, 30*time.Second, 2*time.Minute))
	took := time.Since(began).Seconds()
	fig := func(what, unit string, value float64) {
		record(t, figure.Figure{
			Section: figure.ControlPath, Name: fmt.Sprintf("controller of %d nodes: %s", n, what), Unit: unit, Values: []float64{value},
			Note: "Leases renewed every 10 s, 100 Gateways, nothing else changes",
		})
	}
	fig("CPU", "cores", (p.cpu(t)-before).Seconds()/took)
	fig("memory", "B", p.memory(t, "VmRSS"))
	fig("watch bandwidth", "B/s", float64(watched(api, "portway-controller")-sent)/took)
}

// watched is how many bytes of watches clients of one name were sent.
func watched(api *apisim.Server, agent string) (n int64) {
	for stream, bytes := range api.WatchBytes() {
		if stream.Agent == agent {
			n += bytes
		}
	}
	return n
}
