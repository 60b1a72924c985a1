package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// TestEventsOfOneWriteAreJoined: the API's series would keep the first note only. A
// later write is told by an Event of its own.
func TestEventsOfOneWriteAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ctx := ktesting.NewTestContext(t)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		core := kubefake.NewClientset()
		recorder, stop, err := newRecorder(ctx, core)
		if err != nil {
			t.Fatal(err)
		}
		w := newWriter(clients{}, clock.RealClock{}, recorder, 2)
		g := testGateway("g", 80)
		tell := func(version string, events ...event) {
			g = g.DeepCopy()
			g.ResourceVersion = version
			w.emit(g, events)
			time.Sleep(time.Second)
		}
		tell("1", event{"ProtocolConflict", actionAccept, "a"}, event{"ProtocolConflict", actionAccept, "b"})
		tell("1", event{"PortUnavailable", actionAccept, "c"})
		tell("2", event{reasonNodeLagging, actionProgram, "waiting for x"})
		tell("3", event{reasonNodeLagging, actionProgram, "waiting for y"})
		list, err := core.EventsV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, e := range list.Items {
			got[e.Reason+": "+e.Note]++
		}
		want := map[string]int{"ProtocolConflict: a | b": 1, "PortUnavailable: c": 1, "NodeLagging: waiting for x": 1, "NodeLagging: waiting for y": 1}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		stop()
	})
}

// TestGatewayThatIsNeverProgrammedIsTold once, when a node has had its time.
func TestGatewayThatIsNeverProgrammedIsTold(t *testing.T) {
	b := newTestbench(t)
	q := b.writer.open(&term{})
	defer func() { b.writer.close(q) }()
	b.join("a", "10.0.0.1")
	b.join("broken", "10.0.0.2")
	b.put(testGateway("g", 80))
	after := func(d time.Duration) (told []string) {
		b.clock.Step(d)
		b.renew("a", "broken")
		b.settleAll()
		if err := b.pass(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		for _, e := range b.events.take() {
			if strings.Contains(e, reasonNodeLagging) {
				told = append(told, e)
			}
		}
		return told
	}
	after(0)
	b.prove("a")
	if got := after(30 * time.Second); len(got) > 0 {
		t.Errorf("too early: %q", got)
	}
	want := []string{"g NodeLagging: " + strings.TrimPrefix(b.programmed("g"), "False/Pending: ")}
	if diff := cmp.Diff(want, after(time.Second)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := after(time.Hour); len(got) > 0 {
		t.Errorf("again: %q", got)
	}
}

// TestNoMoreParentsThanTheAPITakes: entries of others stay, ours are left out, which
// is told once.
func TestNoMoreParentsThanTheAPITakes(t *testing.T) {
	b := newTestbench(t)
	r := testRoute("r", "g0")
	r.Spec.ParentRefs = nil
	for i := range 3 {
		name := fmt.Sprint("g", i)
		b.put(testGateway(name, int32(80+i)))
		r.Spec.ParentRefs = append(r.Spec.ParentRefs, gatewayv1.ParentReference{Name: gatewayv1.ObjectName(name)})
	}
	for i := range maxParents - 2 {
		r.Status.Parents = append(r.Status.Parents, parentOf(foreign, fmt.Sprint("other", i)))
	}
	b.put(r)
	b.settleAll()
	own := func() int {
		status := b.route("r").Status
		if len(status.Parents) != maxParents {
			t.Errorf("%d entries", len(status.Parents))
		}
		return ownParents(&status.RouteStatus, topology.ControllerName)
	}
	told := func() (n int) {
		for _, e := range b.events.take() {
			if strings.HasPrefix(e, "r StatusFull: status.parents holds 32 entries at most and 30 are of other controllers: it shows 2 of the 3") {
				n++
			}
		}
		return n
	}
	if n, events := own(), told(); n != 2 || events != 1 {
		t.Errorf("%d entries of ours, told %d times", n, events)
	}
	edited := b.route("r").DeepCopy()
	edited.Generation++
	b.put(edited)
	b.settleAll()
	if n, events := own(), told(); n != 2 || events != 0 {
		t.Errorf("edited: %d entries of ours, told %d times", n, events)
	}
	if keys := b.step(); len(keys) > 0 {
		t.Errorf("to write: %v", keys)
	}
}

// TestNodeLaggingIsToldOnce: a Gateway that was programmed is told of with the write
// that takes that away, and not again.
func TestNodeLaggingIsToldOnce(t *testing.T) {
	b := newTestbench(t)
	q := b.writer.open(&term{})
	defer func() { b.writer.close(q) }()
	b.join("a", "10.0.0.1")
	b.put(testGateway("g", 80))
	b.settleAll()
	b.prove("a")
	b.clock.Step(2 * time.Second)
	b.settleAll()
	b.events.take()
	b.put(b.report("a")) // the node lost the rules, which decides nothing
	told := 0
	for range 50 {
		b.clock.Step(time.Second)
		b.renew("a")
		b.settleAll()
		for _, e := range b.events.take() {
			if strings.Contains(e, reasonNodeLagging) {
				told++
			}
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
