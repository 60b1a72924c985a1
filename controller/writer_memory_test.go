package controller

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"
)

// TestRestoredStatusIsWrittenAgain: somebody restores what informers have seen last,
// before they see what we wrote. To them nothing changed.
func TestRestoredStatusIsWrittenAgain(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.settleAll()
	old := b.gateway("g").DeepCopy()
	edited := old.DeepCopy()
	edited.Generation, edited.ResourceVersion = 2, "7000"
	b.track(edited)
	b.sync()
	b.step()
	b.write() // ours is in the API, and informers do not know
	restored := b.gateway("g").DeepCopy()
	restored.Status, restored.ResourceVersion = *old.Status.DeepCopy(), "9000"
	b.track(restored)
	b.sync()
	for range 2 {
		b.clock.Step(unseenFor)
		if err := b.pass(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		b.write()
		b.sync()
	}
	if c := condition(b.gateway("g").Status.Conditions, "Accepted"); c.ObservedGeneration != 2 {
		t.Errorf("the API still holds what was restored: %+v", c)
	}
	if keys := b.step(); len(keys) > 0 {
		t.Errorf("still to write: %v", keys)
	}
}

// pruning is an API server whose CRD has no supportedKinds while on is set.
func pruning(b *testbench) (on *bool) {
	on = new(bool)
	*on = true
	b.client.PrependReactor("update", "gateways", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if *on {
			action.(clienttesting.UpdateAction).GetObject().(*gatewayv1.Gateway).Status.Listeners[0].SupportedKinds = nil
		}
		return false, nil, nil
	})
	return on
}

// round passes, writes, lets informers see it and returns the calls about Gateways.
func (b *testbench) round() []string {
	b.calls()
	b.step()
	b.write()
	b.sync()
	var calls []string
	for _, call := range b.calls() {
		if strings.HasSuffix(call, " gateways") {
			calls = append(calls, call)
		}
	}
	return calls
}

// TestRefusedFieldCostsOneWrite per change, and is written when the CRDs have it or
// after a while.
func TestRefusedFieldCostsOneWrite(t *testing.T) {
	b := newTestbench(t)
	on := pruning(b)
	b.put(testGateway("g", 80))
	one, none := []string{"update gateways"}, []string(nil)
	expect := func(what string, want []string) {
		t.Helper()
		if diff := cmp.Diff(want, b.round()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	expect("first", one)
	expect("the informers have seen it", none)
	edit := func() {
		edited := b.gateway("g").DeepCopy()
		edited.Generation++
		b.put(edited)
	}
	edit()
	expect("edited", one)
	expect("edited and seen", none)
	*on = false
	b.put(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: "gateways.gateway.networking.k8s.io", Annotations: map[string]string{consts.BundleVersionAnnotation: "v1.6.3"},
	}})
	expect("other CRDs", one)
	if got := b.gateway("g").Status.Listeners[0].SupportedKinds; len(got) == 0 {
		t.Error("still missing")
	}
	expect("taken over", none)
	*on = true
	edit()
	expect("edited again", one)
	expect("edited again and seen", none)
	b.clock.Step(refusedFor)
	b.put(testService("unrelated"))
	expect("after a while", one)
	expect("after a while and seen", none)
}

// TestOfferKeepsTheBackoff of what fails, unless something else is wanted.
func TestOfferKeepsTheBackoff(t *testing.T) {
	b := newTestbench(t)
	b.client.PrependReactor("update", "gateways", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("never")
	})
	b.put(testGateway("g", 80))
	q := b.writer.open(&term{})
	defer b.writer.close(q)
	drain := func() (keys []string) {
		for q.gateways.Len() > 0 {
			key, _ := q.gateways.Get()
			if key.kind == "Gateway" {
				keys = append(keys, key.Name)
			}
			q.gateways.Done(key)
		}
		return keys
	}
	b.step()
	if got := drain(); len(got) != 1 {
		t.Errorf("new: %v", got)
	}
	for i := range 3 {
		b.put(testService("unrelated" + strconv.Itoa(i)))
		b.step()
	}
	if got := drain(); len(got) > 0 {
		t.Errorf("offered again: %v", got)
	}
	edited := b.gateway("g").DeepCopy()
	edited.Generation++
	b.put(edited)
	b.step()
	if got := drain(); len(got) != 1 {
		t.Errorf("edited: %v", got)
	}
}

// TestOfferedDuringAWrite: a change that came while the same one was written is not
// forgotten.
func TestOfferedDuringAWrite(t *testing.T) {
	b := newTestbench(t)
	q := b.writer.open(&term{})
	defer b.writer.close(q)
	key := objectKey{kind: "Gateway"}
	key.Name = "g"
	to := func(write func()) *change {
		return &change{
			key: key, wants: func(any) bool { return true },
			write: func(context.Context, *writer) (outcome, error) { write(); return outcomeWritten, nil },
		}
	}
	later := to(func() {})
	b.writer.offer(b.writer.presentTerm(), []*change{to(func() { b.writer.offer(b.writer.presentTerm(), []*change{later}) })})
	for range 2 {
		if q.gateways.Len() != 1 {
			t.Fatalf("%d keys are queued", q.gateways.Len())
		}
		got, _ := q.gateways.Get()
		if err := b.writer.process(b.ctx, got); err != nil {
			t.Fatal(err)
		}
		q.gateways.Done(got)
	}
	if len(b.writer.pending) > 0 || q.gateways.Len() > 0 {
		t.Errorf("left: %v", b.writer.pending)
	}
}

// TestFinalizerPatchesNothingElse: the class may have fields that we do not know.
func TestFinalizerPatchesNothingElse(t *testing.T) {
	b := newTestbench(t)
	b.put(testGateway("g", 80))
	b.settleAll()
	var patches []string
	for _, a := range b.client.Actions() {
		if patch, ok := a.(clienttesting.PatchAction); ok {
			patches = append(patches, string(patch.GetPatch()))
		}
		if a.GetVerb() == "update" && a.GetResource().Resource == "gatewayclasses" && a.GetSubresource() == "" {
			t.Error("the whole class is written")
		}
	}
	want := []string{`{"metadata":{"finalizers":["gateway-exists-finalizer.gateway.networking.k8s.io"],"resourceVersion":"1002"}}`}
	if diff := cmp.Diff(want, patches); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f := classFinalizer(clients{})
	last, err := f.patchOf(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: "2", Finalizers: []string{gatewayv1.GatewayClassFinalizerGatewaysExist},
	}}, false)
	if got := string(last); err != nil || got != `{"metadata":{"finalizers":[],"resourceVersion":"2"}}` {
		t.Errorf("%s, %v", got, err)
	}
}
