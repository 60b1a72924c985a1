package controller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

const foreign gatewayv1.GatewayController = "example.com/other"

func TestSecondPassWritesNothing(t *testing.T) {
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	b.put(testGateway("g", 80), testRoute("r", "g"), testRoute("s", "g"))
	b.settleAll()
	b.calls()
	if keys := b.step(); len(keys) > 0 {
		t.Errorf("nothing changed, yet there is to write: %v", keys)
	}
	if err := b.pass(b.ctx, true); err != nil {
		t.Fatal(err)
	}
	b.write()
	if calls := b.calls(); len(calls) > 0 {
		t.Errorf("calls %v", calls)
	}
}

// TestPassBeforeInformersSeeWrites: what was just written is not written again, nor
// read.
func TestPassBeforeInformersSeeWrites(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80), testRoute("r", "g"))
	b.step()
	b.write()
	want := []string{"get gatewayclasses", "patch gatewayclasses", "update gatewayclasses", "update gateways", "update tcproutes"}
	calls := b.calls()
	slices.Sort(calls)
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := b.pass(b.ctx, true); err != nil {
		t.Fatal(err)
	}
	b.write()
	if diff := cmp.Diff([]string{"get gatewayclasses"}, b.calls()); diff != "" {
		t.Errorf("again (-want +got):\n%s", diff)
	}
	b.sync()
	b.step()
	if len(b.writer.written) > 0 {
		t.Errorf("remembered although the informers have seen it: %v", b.writer.written)
	}
}

func TestDefaultsAreOverwritten(t *testing.T) {
	b := newTestbench(t)
	g := testGateway("g", 80)
	for _, kind := range []string{"Accepted", "Programmed"} {
		g.Status.Conditions = append(g.Status.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionUnknown, Reason: "Pending", Message: "Waiting for controller", LastTransitionTime: metav1.Unix(0, 0),
		})
	}
	b.put(g)
	b.settleAll()
	for _, c := range b.gateway("g").Status.Conditions {
		if c.Status == metav1.ConditionUnknown || !c.LastTransitionTime.Time.Equal(epoch) || c.ObservedGeneration != 1 {
			t.Errorf("%+v", c)
		}
	}
	if got := b.programmed("g"); got != "False/NoResources: no ready node runs an agent; deploy portway-agent" {
		t.Error(got)
	}
}

func TestForeignConditionsStay(t *testing.T) {
	b := newTestbench(t)
	g := testGateway("g", 80)
	mine := metav1.Condition{Type: "example.com/Billed", Status: metav1.ConditionTrue, Reason: "Paid", LastTransitionTime: metav1.Unix(1, 0)}
	stale := metav1.Condition{Type: "portway.dev/Old", Status: metav1.ConditionTrue, Reason: "Old", LastTransitionTime: metav1.Unix(1, 0)}
	g.Status.Conditions = []metav1.Condition{stale, mine}
	g.Status.Listeners = []gatewayv1.ListenerStatus{{Name: "p80", Conditions: []metav1.Condition{mine}}, {Name: "gone"}}
	b.put(g)
	b.settleAll()
	got := b.gateway("g").Status
	if diff := cmp.Diff([]string{"example.com/Billed", "Accepted", "Programmed"}, typesOf(got.Conditions)); diff != "" {
		t.Errorf("Gateway (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(mine, got.Conditions[0]); diff != "" {
		t.Errorf("the other's condition (-want +got):\n%s", diff)
	}
	if len(got.Listeners) != 1 || !slices.Contains(typesOf(got.Listeners[0].Conditions), "example.com/Billed") {
		t.Errorf("listeners %+v", got.Listeners)
	}
}

func typesOf(conditions []metav1.Condition) []string {
	var all []string
	for _, c := range conditions {
		all = append(all, c.Type)
	}
	return all
}

func TestNoMoreConditionsThanTheAPITakes(t *testing.T) {
	var existing []metav1.Condition
	for _, kind := range strings.Fields("a b c d e f g") {
		existing = append(existing, metav1.Condition{Type: kind, Status: metav1.ConditionTrue})
	}
	desired := []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue}, {Type: "Programmed", Status: metav1.ConditionTrue}}
	got := mergeConditions(existing, desired, metav1.Now())
	if diff := cmp.Diff(strings.Fields("a b c d e f Accepted Programmed"), typesOf(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTransitionTimeMovesWithStatus(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.settleAll()
	b.clock.Step(time.Hour)
	b.join("a", "10.0.0.1") // NoResources becomes Pending, both are False
	b.settleAll()
	c := condition(b.gateway("g").Status.Conditions, programmed)
	if c.Reason != pending || !c.LastTransitionTime.Time.Equal(epoch) {
		t.Errorf("the reason alone moved it: %+v", c)
	}
	b.prove("a")
	b.settleAll()
	c = condition(b.gateway("g").Status.Conditions, programmed)
	if c.Status != metav1.ConditionTrue || !c.LastTransitionTime.Time.Equal(epoch.Add(time.Hour)) {
		t.Errorf("%+v", c)
	}
}

func parentOf(controller gatewayv1.GatewayController, gateway string) gatewayv1.RouteParentStatus {
	return gatewayv1.RouteParentStatus{
		ControllerName: controller,
		ParentRef:      gatewayv1.ParentReference{Name: gatewayv1.ObjectName(gateway)},
		Conditions:     []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", LastTransitionTime: metav1.Unix(1, 0)}},
	}
}

func TestForeignParentsStay(t *testing.T) {
	b := newTestbench(t)
	r := testRoute("r", "g")
	theirs := parentOf(foreign, "g")
	r.Status.Parents = []gatewayv1.RouteParentStatus{parentOf(topology.ControllerName, "former"), theirs}
	b.put(testGateway("g", 80), r)
	b.settleAll()
	got := b.route("r").Status.Parents
	if len(got) != 2 || got[1].ControllerName != topology.ControllerName || got[1].ParentRef.Name != "g" {
		t.Fatalf("parents %+v", got)
	}
	if diff := cmp.Diff(theirs, got[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRoutesNoLongerOurs: our entries go, those of others stay, and the status of
// a Gateway that changed hands is the new owner's.
func TestRoutesNoLongerOurs(t *testing.T) {
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	b.put(testGateway("g", 80), testRoute("r", "g"))
	b.settleAll()
	r, g := b.route("r"), b.gateway("g")
	before := g.Status.DeepCopy()
	r.Status.Parents = append(r.Status.Parents, parentOf(foreign, "g"))
	g.Spec.GatewayClassName = "theirs"
	g.Generation++
	b.put(r, g, &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: foreign}})
	b.settleAll()
	if got := b.route("r").Status.Parents; len(got) != 1 || got[0].ControllerName != foreign {
		t.Errorf("parents %+v", got)
	}
	if diff := cmp.Diff(before, &b.gateway("g").Status); diff != "" {
		t.Errorf("Gateway (-before +after):\n%s", diff)
	}
	b.put(testRoute("orphan", "nothing"))
	if keys := b.step(); len(keys) > 0 {
		t.Errorf("a route that is not ours: %v", keys)
	}
}

func TestConflictIsReadAndWrittenAgain(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.step()
	other := b.gateway("g") // somebody else writes; the informers have not seen it
	other.ResourceVersion = "999"
	other.Status.Conditions = []metav1.Condition{{Type: "example.com/Billed", Status: metav1.ConditionTrue}}
	b.track(other)
	b.calls()
	b.write()
	if calls := strings.Join(b.calls(), ", "); !strings.Contains(calls, "update gateways, get gateways, update gateways") {
		t.Errorf("calls %s", calls)
	}
	if diff := cmp.Diff([]string{"example.com/Billed", "Accepted", "Programmed"}, typesOf(b.gateway("g").Status.Conditions)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConflictWithNewGenerationIsLeftToTheNextPass(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.step()
	edited := b.gateway("g")
	edited.ResourceVersion, edited.Generation = "999", 2
	edited.Spec.Listeners[0].Protocol = "HTTP"
	b.track(edited)
	b.write()
	if got := b.gateway("g").Status; len(got.Conditions) > 0 {
		t.Errorf("decided for generation 1: %+v", got.Conditions)
	}
	b.sync()
	b.settleAll()
	if c := condition(b.gateway("g").Status.Conditions, "Accepted"); c.Status != metav1.ConditionFalse || c.ObservedGeneration != 2 {
		t.Errorf("%+v", c)
	}
}

func TestConflictsWithoutEndAreQueuedAgain(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.client.PrependReactor("update", "gateways", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), "g", errors.New("again"))
	})
	b.step()
	key := objectKey{kind: "Gateway"}
	key.Namespace, key.Name = "default", "g"
	if err := b.writer.process(b.ctx, key); !apierrors.IsConflict(err) {
		t.Errorf("error %v", err)
	}
	if b.writer.pending[key] == nil {
		t.Error("forgotten")
	}
}

// TestGoneIsDone: an object that was deleted, or whose kind was, needs no status.
func TestGoneIsDone(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80), testRoute("r", "g"))
	b.step()
	if err := b.client.Tracker().Delete(resourceOf("v1", "gateways"), "default", "g"); err != nil {
		t.Fatal(err)
	}
	delete(b.served, "TCPRoute")
	b.write()
	if keys := b.pendingKeys(); len(keys) > 0 {
		t.Errorf("still to write: %v", keys)
	}
}

// TestFieldThatTheAPIDrops: a CRD that is older than a field of ours is not asked
// again and again.
func TestFieldThatTheAPIDrops(t *testing.T) {
	b := newTestbench(t)
	b.client.PrependReactor("update", "gateways", func(action clienttesting.Action) (bool, runtime.Object, error) {
		action.(clienttesting.UpdateAction).GetObject().(*gatewayv1.Gateway).Status.Listeners[0].SupportedKinds = nil
		return false, nil, nil
	})
	b.put(testGateway("g", 80))
	for range 3 {
		b.step()
		b.write()
		b.sync()
	}
	b.calls()
	b.step()
	b.write()
	b.sync()
	if calls := b.calls(); len(calls) > 0 {
		t.Errorf("calls %v", calls)
	}
}

// TestNextControllerCompletes: one is killed between any two writes; the next one
// writes the rest, and nothing twice.
func TestNextControllerCompletes(t *testing.T) {
	objects := func(b *testbench) {
		b.join("a", "10.0.0.1")
		b.put(testGateway("g", 80), testGateway("h", 81), testRoute("r", "g"), testRoute("s", "h"))
	}
	whole := newTestbench(t)
	objects(whole)
	whole.step()
	n := len(whole.changes())
	whole.settleAll()
	for kill := range n {
		b := newTestbench(t)
		objects(b)
		b.step()
		for _, c := range b.changes()[:kill] {
			if err := b.writer.process(b.ctx, c.key); err != nil {
				t.Fatal(err)
			}
		}
		b.sync()
		b.restart()
		b.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "unrelated"}})
		b.step()
		if left := len(b.changes()); left != n-kill {
			t.Errorf("killed after %d of %d writes, %d are left", kill, n, left)
		}
		b.settleAll()
		for _, name := range []string{"g", "h"} {
			if diff := cmp.Diff(whole.gateway(name).Status, b.gateway(name).Status); diff != "" {
				t.Errorf("killed after %d: %s (-want +got):\n%s", kill, name, diff)
			}
		}
	}
}

func TestFinalizer(t *testing.T) {
	const exists = gatewayv1.GatewayClassFinalizerGatewaysExist
	b := newTestbench(t)
	class := func() *gatewayv1.GatewayClass {
		c, err := b.client.GatewayV1().GatewayClasses().Get(b.ctx, "portway", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := class()
	c.Finalizers = []string{"example.com/keep"}
	b.put(c)
	b.settleAll()
	if got := class().Finalizers; !slices.Equal(got, []string{"example.com/keep"}) {
		t.Errorf("not in use: %v", got)
	}
	b.put(testGateway("g", 80))
	b.settleAll()
	if got := class().Finalizers; !slices.Equal(got, []string{"example.com/keep", exists}) {
		t.Errorf("in use: %v", got)
	}
	g := b.gateway("g")
	if err := b.client.Tracker().Delete(resourceOf("v1", "gateways"), "default", "g"); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Delete(g); err != nil {
		t.Fatal(err)
	}
	b.settleAll()
	if got := class().Finalizers; !slices.Equal(got, []string{"example.com/keep"}) {
		t.Errorf("no longer in use: %v", got)
	}
	c = class()
	c.DeletionTimestamp = &metav1.Time{Time: epoch}
	b.put(c, testGateway("late", 80))
	if keys := b.step(); slices.Contains(keys, "GatewayClass finalizer portway") {
		t.Error("the API forbids new finalizers on an object that is going away")
	}
}

func TestClassStatus(t *testing.T) {
	b := newTestbench(t)
	b.settleAll()
	c, err := b.client.GatewayV1().GatewayClasses().Get(b.ctx, "portway", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if accepted := condition(c.Status.Conditions, "Accepted"); accepted == nil || accepted.Status != metav1.ConditionTrue {
		t.Errorf("%+v", accepted)
	}
	if len(c.Status.SupportedFeatures) == 0 {
		t.Error("no features")
	}
}

// TestRoutesOfV1alpha2: where v1 is not served, statuses go to v1alpha2.
func TestRoutesOfV1alpha2(t *testing.T) {
	b := newTestbench(t)
	b.served["TCPRoute"] = "v1alpha2"
	r := testRoute("r", "g")
	r.Spec.Rules = append(r.Spec.Rules, r.Spec.Rules[0])
	b.put(testGateway("g", 80), r)
	old := cluster.TCPRouteToV1alpha2(r)
	if err := b.client.Tracker().Create(resourceOf("v1alpha2", "tcproutes"), old.DeepCopy(), "default"); err != nil {
		t.Fatal(err)
	}
	b.step()
	b.write()
	got, err := b.client.GatewayV1alpha2().TCPRoutes("default").Get(context.Background(), "r", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(old.Spec, got.Spec); diff != "" {
		t.Errorf("spec (-before +after):\n%s", diff)
	}
	if len(got.Status.Parents) != 1 || got.Status.Parents[0].Conditions[0].Reason != "UnsupportedValue" {
		t.Errorf("parents %+v", got.Status.Parents)
	}
}

// TestPartialWritesNothing: an object that could not be read is not missing.
func TestPartialWritesNothing(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.step()
	b.take(b.store.Next())
	b.partial = true
	b.evaluate(b.ctx, b.clock.Now(), true)
	if keys := b.pendingKeys(); len(keys) > 0 {
		t.Errorf("to write: %v", keys)
	}
}
