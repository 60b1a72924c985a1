package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

var epoch = time.Unix(1_700_000_000, 0).UTC()

// testbench is a controller with an API server that keeps objects, versions and
// conflicts, and informers that see what is written when sync is called.
type testbench struct {
	t      testing.TB
	ctx    context.Context
	clock  *clocktesting.FakeClock
	store  *cluster.Store
	client *gatewayfake.Clientset
	pools  *fakePools
	core   *kubefake.Clientset // with Services; nil: there are none
	events *eventLog
	served map[string]string
	// hearing of the next controller; nil: always.
	hearing hearing
	*controller

	version int
}

func newTestbench(tb testing.TB) *testbench {
	tb.Helper()
	_, ctx := ktesting.NewTestContext(tb)
	b := &testbench{
		t: tb, ctx: ctx, clock: clocktesting.NewFakeClock(epoch), store: cluster.NewStore(),
		client: newFakeAPI(), pools: &fakePools{held: map[string]*v1alpha1.AddressPool{}}, events: &eventLog{},
		served: map[string]string{"GatewayClass": "v1", "Gateway": "v1", "TCPRoute": "v1", "UDPRoute": "v1"},
	}
	b.restart()
	b.put(&gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "portway", Generation: 1},
		Spec:       gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName},
	}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	return b
}

// newFakeAPI returns a clientset whose writes have versions and conflicts.
func newFakeAPI() *gatewayfake.Clientset {
	client := gatewayfake.NewSimpleClientset()
	var mu sync.Mutex
	version := 1000
	client.PrependReactor("patch", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		patch := action.(clienttesting.PatchActionImpl)
		var sent map[string]map[string]any
		if err := json.Unmarshal(patch.Patch, &sent); err != nil {
			return true, nil, err
		}
		current, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), patch.Name)
		if err != nil {
			return true, nil, err
		}
		c, _ := meta.Accessor(current)
		if c.GetResourceVersion() != sent["metadata"]["resourceVersion"] {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), patch.Name, fmt.Errorf("it is version %s", c.GetResourceVersion()))
		}
		version++
		sent["metadata"]["resourceVersion"] = strconv.Itoa(version)
		if patch.Patch, err = json.Marshal(sent); err != nil {
			return true, nil, err
		}
		return clienttesting.ObjectReaction(client.Tracker())(patch)
	})
	client.PrependReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		updated := action.(clienttesting.UpdateAction).GetObject()
		o, _ := meta.Accessor(updated)
		current, err := client.Tracker().Get(action.GetResource(), action.GetNamespace(), o.GetName())
		if err != nil {
			return true, nil, err
		}
		c, _ := meta.Accessor(current)
		if c.GetResourceVersion() != o.GetResourceVersion() {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), o.GetName(), fmt.Errorf("it is version %s", c.GetResourceVersion()))
		}
		version++
		o.SetResourceVersion(strconv.Itoa(version))
		return false, nil, nil
	})
	return client
}

// restart is another process on the same API server and informers.
func (b *testbench) restart() {
	config := DefaultConfig()
	var services typedcorev1.ServicesGetter
	if b.core != nil {
		services = b.core.CoreV1()
	}
	w := newWriter(newClients(b.client, b.pools, services, func() map[string]string { return b.served }), b.clock, b.events, config.Workers)
	old := b.controller
	b.controller = newController(config, b.store, w, b.clock, b.hearing)
	if old != nil {
		b.snapshot, b.fleet = old.snapshot, old.fleet
		b.snapshot.Addresses = nil // of the decision that is to be made
	}
}

// put creates objects, or replaces them.
func (b *testbench) put(objects ...cluster.Object) {
	b.t.Helper()
	for _, o := range objects {
		b.version++
		o.SetResourceVersion(strconv.Itoa(b.version))
		if o.GetUID() == "" {
			o.SetUID(types.UID(fmt.Sprintf("%T/%s/%s", o, o.GetNamespace(), o.GetName())))
		}
		if o.GetCreationTimestamp().Time.IsZero() {
			o.SetCreationTimestamp(metav1.NewTime(epoch))
		}
		b.track(o)
		if err := b.store.Put(o.DeepCopyObject().(cluster.Object)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// track puts an object into the API server only.
func (b *testbench) track(o cluster.Object) {
	b.t.Helper()
	var resource string
	switch o := o.(type) {
	case *gatewayv1.GatewayClass:
		resource = "gatewayclasses"
	case *gatewayv1.Gateway:
		resource = "gateways"
	case *gatewayv1.ListenerSet:
		resource = "listenersets"
	case *gatewayv1.TCPRoute:
		resource = "tcproutes"
	case *gatewayv1.UDPRoute:
		resource = "udproutes"
	case *v1alpha1.AddressPool:
		b.pools.put(o)
		return
	default:
		return
	}
	copied := o.DeepCopyObject()
	if err := b.client.Tracker().Update(resourceOf("v1", resource), copied, o.GetNamespace()); err != nil {
		if err := b.client.Tracker().Create(resourceOf("v1", resource), copied, o.GetNamespace()); err != nil {
			b.t.Fatal(err)
		}
	}
}

func resourceOf(version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gatewayv1.GroupName, Version: version, Resource: resource}
}

// sync lets the informers see what the API server holds.
func (b *testbench) sync() {
	b.t.Helper()
	v1, ctx, all := b.client.GatewayV1(), context.Background(), metav1.ListOptions{}
	var objects []cluster.Object
	classes, err1 := v1.GatewayClasses().List(ctx, all)
	gateways, err2 := v1.Gateways("").List(ctx, all)
	sets, err3 := v1.ListenerSets("").List(ctx, all)
	tcp, err4 := v1.TCPRoutes("").List(ctx, all)
	udp, err5 := v1.UDPRoutes("").List(ctx, all)
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	for i := range classes.Items {
		objects = append(objects, classes.Items[i].DeepCopy())
	}
	for i := range gateways.Items {
		objects = append(objects, gateways.Items[i].DeepCopy())
	}
	for i := range sets.Items {
		objects = append(objects, sets.Items[i].DeepCopy())
	}
	for i := range tcp.Items {
		objects = append(objects, tcp.Items[i].DeepCopy())
	}
	for i := range udp.Items {
		objects = append(objects, udp.Items[i].DeepCopy())
	}
	for _, pool := range b.pools.all() {
		objects = append(objects, pool)
	}
	services, gone := b.services()
	objects = append(objects, services...)
	if err := b.store.Apply(objects, gone); err != nil {
		b.t.Fatal(err)
	}
}

// step runs one pass and returns what there was to write.
func (b *testbench) step() []string {
	b.t.Helper()
	if err := b.pass(b.ctx, false); err != nil {
		b.t.Fatal(err)
	}
	return b.pendingKeys()
}

func (b *testbench) pendingKeys() []string {
	var keys []string
	for key := range b.writer.pending {
		keys = append(keys, string(key.kind)+" "+strings.TrimPrefix(key.String(), "/"))
	}
	slices.Sort(keys)
	return keys
}

// settleAll passes, writes and syncs until there is nothing left to write.
func (b *testbench) settleAll() {
	b.t.Helper()
	for range 10 {
		if len(b.step()) == 0 {
			return
		}
		b.write()
		b.sync()
	}
	b.t.Fatalf("statuses do not settle: %v", b.pendingKeys())
}

// write makes all pending changes.
func (b *testbench) write() {
	b.t.Helper()
	for _, c := range b.changes() {
		if err := b.writer.process(b.ctx, c.key); err != nil {
			b.t.Errorf("write %v: %v", c.key, err)
		}
	}
}

func (b *testbench) changes() []*change {
	changes := make([]*change, 0, len(b.writer.pending))
	for _, c := range b.writer.pending {
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(x, y *change) int {
		return cmp.Or(strings.Compare(string(x.key.kind), string(y.key.kind)), strings.Compare(x.key.String(), y.key.String()))
	})
	return changes
}

// calls returns "verb resource" of everything sent since, but for lists.
func (b *testbench) calls() []string {
	var calls []string
	for _, a := range b.client.Actions() {
		if verb := a.GetVerb(); verb == "get" || verb == "update" || verb == "patch" || verb == "create" || verb == "delete" {
			calls = append(calls, verb+" "+a.GetResource().Resource)
		}
	}
	b.client.ClearActions()
	return calls
}

// gateway reads a Gateway from the API server.
func (b *testbench) gateway(name string) *gatewayv1.Gateway {
	b.t.Helper()
	g, err := b.client.GatewayV1().Gateways("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return g
}

func (b *testbench) route(name string) *gatewayv1.TCPRoute {
	b.t.Helper()
	r, err := b.client.GatewayV1().TCPRoutes("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// programmed returns "status/reason: message" of a Gateway in the API.
func (b *testbench) programmed(name string) string {
	b.t.Helper()
	c := condition(b.gateway(name).Status.Conditions, programmed)
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
}

// join adds a ready node with an agent.
func (b *testbench) join(name, address string) {
	b.put(testNode(name, true, address))
	b.renew(name)
}

// renew renews a node's Lease; whatever time its clock shows.
func (b *testbench) renew(names ...string) {
	for _, name := range names {
		b.version++
		b.put(testLease(name, time.Unix(int64(b.version), 0)))
	}
}

// prove lets nodes report what the controller expects at present.
func (b *testbench) prove(names ...string) {
	var digests []string
	for _, g := range b.graph.Gateways {
		digests = append(digests, g.Digest)
	}
	slices.Sort(digests)
	for _, name := range names {
		b.put(b.report(name, digests...))
	}
}

// report is of an agent that serves at all addresses of its Node, as the last pass saw
// that.
func (b *testbench) report(name string, digests ...string) *v1alpha1.NodeReport {
	report := testReport(name, digests...)
	for _, addr := range nodeAddresses(b.fleet.Nodes[name], corev1.NodeInternalIP) {
		report.Report.Addresses = append(report.Report.Addresses, addr.String())
	}
	return report
}

func testNode(name string, ready bool, addresses ...string) *corev1.Node {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}},
	}
	for _, a := range addresses {
		kind := corev1.NodeInternalIP
		if strings.HasPrefix(a, "203.0.113.") {
			kind = corev1.NodeExternalIP
		}
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: kind, Address: a})
	}
	return node
}

func testLease(name string, renewed time.Time) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "portway-system", Name: cluster.AgentLeasePrefix + name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To(name), RenewTime: ptr.To(metav1.NewMicroTime(renewed))},
	}
}

func testReport(name string, digests ...string) *v1alpha1.NodeReport {
	return &v1alpha1.NodeReport{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Report:     v1alpha1.Report{Version: v1alpha1.ReportVersion, Committed: digests, Gateways: int32(len(digests))},
	}
}

// testGateway has one TCP listener per port.
func testGateway(name string, ports ...int32) *gatewayv1.Gateway {
	g := &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Generation: 1},
		Spec:       gatewayv1.GatewaySpec{GatewayClassName: "portway"},
	}
	for _, port := range ports {
		g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{
			Name: gatewayv1.SectionName(fmt.Sprint("p", port)), Port: gatewayv1.PortNumber(port), Protocol: gatewayv1.TCPProtocolType,
		})
	}
	return g
}

func testRoute(name, gateway string) *gatewayv1.TCPRoute {
	return &gatewayv1.TCPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Generation: 1},
		Spec: gatewayv1.TCPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: gatewayv1.ObjectName(gateway)}}},
			Rules: []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{
				BackendObjectReference: gatewayv1.BackendObjectReference{Name: "app", Port: ptr.To(gatewayv1.PortNumber(80))},
			}}}},
		},
	}
}

func addrs(texts ...string) []netip.Addr {
	parsed := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		parsed = append(parsed, netip.MustParseAddr(text))
	}
	return parsed
}

// eventLog keeps Events as "object reason: note".
type eventLog struct {
	mu   sync.Mutex
	seen []string
}

func (l *eventLog) Eventf(about, _ runtime.Object, _, reason, _, note string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := ""
	if o, err := meta.Accessor(about); err == nil {
		name = o.GetName()
	} else if ref, ok := about.(*corev1.ObjectReference); ok {
		name = ref.Name
	}
	l.seen = append(l.seen, name+" "+reason+": "+fmt.Sprintf(note, args...))
}

func (l *eventLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen
	l.seen = nil
	return seen
}
