package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// fakePools holds AddressPools as the API does: with versions and conflicts.
type fakePools struct {
	cluster.AddressPools // nothing else is called

	mu      sync.Mutex // guards everything below
	held    map[string]*v1alpha1.AddressPool
	version int
}

var poolResource = v1alpha1.GroupVersion.WithResource("addresspools").GroupResource()

func (f *fakePools) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.AddressPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held[name] == nil {
		return nil, apierrors.NewNotFound(poolResource, name)
	}
	return f.held[name].DeepCopy(), nil
}

func (f *fakePools) UpdateStatus(_ context.Context, pool *v1alpha1.AddressPool, options metav1.UpdateOptions) (*v1alpha1.AddressPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := f.held[pool.Name]
	switch {
	case options.FieldManager != cluster.FieldManager:
		return nil, fmt.Errorf("written as %q", options.FieldManager)
	case held == nil:
		return nil, apierrors.NewNotFound(poolResource, pool.Name)
	case held.ResourceVersion != pool.ResourceVersion:
		return nil, apierrors.NewConflict(poolResource, pool.Name, nil)
	}
	f.version++
	held = held.DeepCopy()
	held.Status, held.ResourceVersion = pool.DeepCopy().Status, "p"+strconv.Itoa(f.version)
	f.held[pool.Name] = held
	return held.DeepCopy(), nil
}

// Patch takes patches of finalizers; an object that is going away goes with its last one.
func (f *fakePools) Patch(_ context.Context, name string, kind types.PatchType, patch []byte, options metav1.PatchOptions, _ ...string) (*v1alpha1.AddressPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sent v1alpha1.AddressPool
	held := f.held[name]
	switch err := json.Unmarshal(patch, &sent); {
	case err != nil || kind != types.MergePatchType || options.FieldManager != cluster.FieldManager:
		return nil, fmt.Errorf("patch %s by %q: %w", patch, options.FieldManager, err)
	case held == nil:
		return nil, apierrors.NewNotFound(poolResource, name)
	case held.ResourceVersion != sent.ResourceVersion:
		return nil, apierrors.NewConflict(poolResource, name, nil)
	}
	f.version++
	held = held.DeepCopy()
	held.Finalizers, held.ResourceVersion = sent.Finalizers, "p"+strconv.Itoa(f.version)
	f.held[name] = held
	if held.DeletionTimestamp != nil && len(held.Finalizers) == 0 {
		delete(f.held, name)
	}
	return held, nil
}

func (f *fakePools) put(pool *v1alpha1.AddressPool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[pool.Name] = pool.DeepCopy()
}

func (f *fakePools) all() []*v1alpha1.AddressPool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*v1alpha1.AddressPool
	for _, pool := range f.held {
		all = append(all, pool.DeepCopy())
	}
	return all
}

// poolBench is a testbench whose class is of pool "public", of which Gateway g has an
// address.
func poolBench(t *testing.T) *testbench {
	t.Helper()
	b := newTestbench(t)
	b.put(&gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "portway", Generation: 2},
		Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName, ParametersRef: &gatewayv1.ParametersReference{
			Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("default"), Name: "edge",
		}},
	}, testEdge(), testPool(1, "192.0.2.0/24"))
	b.join("a", "10.0.0.1")
	b.put(record(publishing(testGateway("g", 80), "192.0.2.7")))
	b.settleAll()
	b.prove("a")
	b.settleAll()
	return b
}

func testEdge() *v1alpha1.GatewayParameters {
	return &v1alpha1.GatewayParameters{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge", Generation: 1},
		Spec:       v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModePool, Pool: "public"},
	}
}

func testPool(generation int64, addresses ...v1alpha1.AddressRange) *v1alpha1.AddressPool {
	return &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "public", Generation: generation}, Spec: v1alpha1.AddressPoolSpec{Addresses: addresses}}
}

// poolStatus reads the pool's status from the API server, in one line.
func (b *testbench) poolStatus() string {
	b.t.Helper()
	pool, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	s := pool.Status
	accepted := condition(s.Conditions, "Accepted")
	return fmt.Sprintf("%s/%s %v retained %v, %d in use, %s left", accepted.Status, accepted.Reason, s.Addresses, s.Retained, s.Assigned, s.Available)
}

// edit replaces the pool's spec; the status stays.
func (b *testbench) editPool(generation int64, addresses ...v1alpha1.AddressRange) {
	b.t.Helper()
	pool, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	edited := testPool(generation, addresses...)
	edited.UID, edited.Status, edited.Finalizers = pool.UID, pool.Status, pool.Finalizers
	b.put(edited)
}

// stands checks that Gateway g has its address and is programmed, without a node having
// had to prove anything anew.
func (b *testbench) stands(when string) {
	b.t.Helper()
	g := b.gateway("g")
	if len(g.Status.Addresses) != 1 || g.Status.Addresses[0].Value != "192.0.2.7" || !strings.HasPrefix(b.programmed("g"), "True/") {
		b.t.Errorf("%s: addresses %v, %s", when, g.Status.Addresses, b.programmed("g"))
	}
}

// retained returns the reason of AddressRetained of Gateway g, empty without one.
func (b *testbench) retained() string {
	b.t.Helper()
	if c := condition(b.gateway("g").Status.Conditions, topology.ConditionAddressRetained); c != nil {
		return c.Reason
	}
	return ""
}

// TestPoolStatuses: what a pool's status says is written before anybody could need it,
// and whatever becomes of the pool or the parameters, the Gateway stays and says so, in
// its status and with an Event.
func TestPoolStatuses(t *testing.T) {
	b := poolBench(t)
	check := func(when, pool, retained string, events ...string) {
		t.Helper()
		b.settleAll()
		b.stands(when)
		if diff := cmp.Diff(pool, b.poolStatus()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		if got := b.retained(); got != retained {
			t.Errorf("%s: retained %q, want %q", when, got, retained)
		}
		got := b.events.take()
		for i, e := range got {
			got[i], _, _ = strings.Cut(e, ":")
		}
		if diff := cmp.Diff(append([]string{}, events...), append([]string{}, got...)); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s", when, diff)
		}
		if calls := b.calls(); b.step() != nil {
			t.Errorf("%s: another pass has something to write after %v", when, calls)
		}
	}
	b.events.take()
	check("at first", "True/Accepted [192.0.2.0/24] retained [], 1 in use, 255 left", "")

	b.editPool(2, "198.51.100.0/24")
	check("shrunk", "True/Accepted [198.51.100.0/24] retained [192.0.2.7], 1 in use, 256 left", "OutsidePool", "g AddressRetained")
	b.editPool(3, "nonsense")
	check("broken", "False/Invalid [198.51.100.0/24] retained [192.0.2.7], 1 in use, 0 left", "OutsidePool")
	b.editPool(4, "192.0.2.0/24")
	check("whole again", "True/Accepted [192.0.2.0/24] retained [], 1 in use, 255 left", "")

	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(b.store.Delete(testEdge()))
	check("without parameters", "True/Accepted [192.0.2.0/24] retained [], 1 in use, 255 left", "InvalidParameters", "g AddressRetained")
	b.put(testEdge())
	check("with parameters again", "True/Accepted [192.0.2.0/24] retained [], 1 in use, 255 left", "")

	g := b.gateway("g")
	must(b.store.Delete(g))
	must(b.client.Tracker().Delete(resourceOf("v1", "gateways"), "default", "g"))
	b.settleAll()
	if got := b.poolStatus(); got != "True/Accepted [192.0.2.0/24] retained [], 0 in use, 256 left" {
		t.Errorf("without the Gateway: %s", got)
	}
}

// TestFromAPoolToANode: a Gateway that asks for the address of a node instead gets it, and
// one that nobody has leaves it where it is.
func TestFromAPoolToANode(t *testing.T) {
	b := poolBench(t)
	edge := testEdge()
	edge.Spec.Permitted = &v1alpha1.PermittedParameters{Modes: []v1alpha1.AddressMode{v1alpha1.AddressModeNode}}
	b.put(edge)
	asks := func(value string) *gatewayv1.Gateway {
		t.Helper()
		g := b.gateway("g").DeepCopy()
		g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: value}}
		g.Generation++
		b.put(g)
		b.settleAll()
		return b.gateway("g")
	}
	for _, step := range []struct {
		asks, has string
		mode      v1alpha1.AddressMode
	}{{"10.0.0.9", "192.0.2.7", "Pool"}, {"10.0.0.1", "10.0.0.1", "Node"}} {
		g := asks(step.asks)
		if got := topology.RecordedMode(g); got != step.mode || len(g.Status.Addresses) != 1 || g.Status.Addresses[0].Value != step.has {
			t.Errorf("asks for %s: mode %s at %v, %s", step.asks, got, g.Status.Addresses, b.programmed("g"))
		}
	}
}

// TestPoolFinalizer: a pool stays until no Gateway has an address of it, and is no obstacle
// to anybody before.
func TestPoolFinalizer(t *testing.T) {
	b := poolBench(t)
	pool, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{})
	if err != nil || !slices.Equal(pool.Finalizers, []string{v1alpha1.AddressPoolFinalizer}) {
		t.Fatalf("finalizers %v, %v", pool.Finalizers, err)
	}
	pool.DeletionTimestamp = ptr.To(metav1.NewTime(epoch))
	b.put(pool)
	b.settleAll()
	b.stands("its pool is being deleted")
	if got := b.retained(); got != "PoolDeleting" {
		t.Errorf("retained %q", got)
	}
	g := b.gateway("g")
	if err := errors.Join(b.store.Delete(g), b.client.Tracker().Delete(resourceOf("v1", "gateways"), "default", "g")); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.write()
	if _, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pool is still there: %v", err)
	}
}

// TestPoolIsHeldBeforeItIsUsed: whoever gets the first address of it keeps it, though the pool
// is deleted in that moment. Without any, it goes at once.
func TestPoolIsHeldBeforeItIsUsed(t *testing.T) {
	b := poolBench(t)
	unused := testPool(1, "198.51.100.0/24")
	unused.Name = "unused"
	b.put(unused)
	b.settleAll()
	pool, err := b.pools.Get(b.ctx, "unused", metav1.GetOptions{})
	if err != nil || !slices.Equal(pool.Finalizers, []string{v1alpha1.AddressPoolFinalizer}) {
		t.Fatalf("finalizers %v, %v", pool.Finalizers, err)
	}
	pool.DeletionTimestamp = ptr.To(metav1.NewTime(epoch))
	b.put(pool)
	b.step()
	b.write()
	if _, err := b.pools.Get(b.ctx, "unused", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pool is still there: %v", err)
	}
}

// TestPoolsForgetNothingWithoutGateways: while the API server does not serve Gateways, or
// some could not be read, nobody seems to have an address.
func TestPoolsForgetNothingWithoutGateways(t *testing.T) {
	b := poolBench(t)
	b.editPool(2, "198.51.100.0/24")
	b.settleAll()
	const want = "True/Accepted [198.51.100.0/24] retained [192.0.2.7], 1 in use, 256 left"
	g := b.gateway("g")
	delete(b.served, "Gateway")
	if err := b.store.Delete(g); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.write()
	if got := b.poolStatus(); got != want {
		t.Errorf("Gateways are not served: %s", got)
	}
	if pool, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{}); err != nil || len(pool.Finalizers) != 1 {
		t.Errorf("Gateways are not served: finalizers %v, %v", pool.Finalizers, err)
	}
	b.served["Gateway"] = "v1"
	b.store.SetPartial(true)
	b.step()
	b.write()
	if got := b.poolStatus(); got != want {
		t.Errorf("some objects could not be read: %s", got)
	}
	b.store.SetPartial(false)
	b.sync()
	b.settleAll()
	b.stands("back")
}

// TestPoolIsHeldWhileInUse: a leader gives a new Gateway an address once the pool's status
// and finalizer are in place; a pool that is deleted gives nothing more, and goes with
// the last Gateway that has an address of it.
func TestPoolIsHeldWhileInUse(t *testing.T) {
	b := poolBench(t)
	addressOf := func(name string) string {
		if a := b.gateway(name).Status.Addresses; len(a) > 0 {
			return a[0].Value
		}
		return ""
	}
	defer b.writer.close(b.writer.open(&term{}))
	b.put(testGateway("new", 81))
	b.settleAll()
	if got := addressOf("new"); got != "192.0.2.0" {
		t.Fatalf("a new Gateway gets %q, want the first address", got)
	}
	pool, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{})
	if err != nil || !slices.Equal(pool.Finalizers, []string{v1alpha1.AddressPoolFinalizer}) {
		t.Fatalf("finalizers %v, %v", pool.Finalizers, err)
	}
	now := metav1.NewTime(epoch)
	pool.DeletionTimestamp = &now
	b.put(pool)
	b.put(testGateway("late", 82))
	b.settleAll()
	if got := addressOf("late"); got != "" {
		t.Errorf("of a pool that is deleted a Gateway gets %s", got)
	}
	b.stands("when the pool is deleted")
	for _, name := range []string{"new", "g"} {
		if _, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{}); err != nil {
			t.Fatalf("the pool goes while Gateway %s has an address: %v", name, err)
		}
		if err := errors.Join(b.store.Delete(b.gateway(name)), b.client.Tracker().Delete(resourceOf("v1", "gateways"), "default", name)); err != nil {
			t.Fatal(err)
		}
		b.settleAll()
	}
	if _, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("nobody uses the pool, and it is still there: %v", err)
	}
}

// TestLeaderGoesByAllItKnows: what the controller gives depends on what Nodes have, on what
// the quorum read has told and nobody has seen yet, and on whether everything could be read.
func TestLeaderGoesByAllItKnows(t *testing.T) {
	b := poolBench(t)
	b.put(testNode("without-an-agent", false, "192.0.2.0"))
	gone := record(publishing(testGateway("gone", 80), "192.0.2.1"))
	gone.UID, gone.ResourceVersion = "gone", "5000"
	term, err := beginTerm(b.ctx, func(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error) {
		return &gatewayv1.GatewayList{Items: []gatewayv1.Gateway{*gone}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.writer.close(b.writer.open(term))
	b.store.SetPartial(true)
	b.put(testGateway("first", 81))
	b.step()
	if got := b.snapshot.Addresses[types.NamespacedName{Namespace: "default", Name: "first"}]; len(got.Addresses) > 0 {
		t.Errorf("gives %v while some objects could not be read", got.Addresses)
	}
	b.store.SetPartial(false)
	expectAddress := func(name, want string) {
		t.Helper()
		b.settleAll()
		if a := b.gateway(name).Status.Addresses; len(a) != 1 || a[0].Value != want {
			t.Errorf("Gateway %s gets %v, want %s", name, a, want)
		}
	}
	expectAddress("first", "192.0.2.2") // .0 is a node's, .1 was given by the leader before
	late := testGateway("late", 82)
	b.version = 5000 // later than all that the quorum read told
	b.put(late)
	expectAddress("late", "192.0.2.1")
}

// TestAnnouncerThatIsLost: a node that is not ready any more, or whose agent is gone, may
// still answer; whoever says that it does, does.
func TestAnnouncerThatIsLost(t *testing.T) {
	b := poolBench(t)
	pool, err := b.pools.Get(b.ctx, "public", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool.Generation, pool.Spec.Announcement = 2, &v1alpha1.Announcement{Mode: v1alpha1.AnnouncementLayer2}
	b.put(pool)
	b.join("b", "10.0.0.2")
	b.settleAll()
	says := func(node string) {
		report := b.report(node, b.graph.Gateways[types.NamespacedName{Namespace: "default", Name: "g"}].Digest)
		report.Report.Announcing = []v1alpha1.Announced{{Since: metav1.NewTime(epoch), Addresses: []string{"192.0.2.7"}}}
		b.put(report)
	}
	expectAnnounced := func(when, want string) {
		t.Helper()
		b.settleAll()
		c := condition(b.gateway("g").Status.Conditions, topology.ConditionAnnounced)
		if got := fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	expectAnnounced("nobody", "False/NotAnnounced: ")
	says("a")
	expectAnnounced("one", "True/Announced: 192.0.2.7 by a")
	b.put(testNode("a", false, "10.0.0.1"))
	expectAnnounced("not ready", "Unknown/AnnouncerUnheard: 192.0.2.7 last by a")
	says("b")
	expectAnnounced("taken over", "True/Announced: 192.0.2.7 by b")
}
