package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// threeNodes is a Gateway that three nodes have proven.
func threeNodes(t *testing.T) *testbench {
	t.Helper()
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	b.join("b", "10.0.0.2")
	b.join("c", "10.0.0.3")
	b.put(testGateway("g", 80))
	b.step()
	b.prove("a", "b", "c")
	b.renew("a", "b", "c")
	b.settleAll()
	if got := b.programmed("g"); got != "True/Programmed: every node serves the current configuration" {
		t.Fatal(got)
	}
	b.calls()
	b.events.take()
	return b
}

// edit adds a listener to the Gateway.
func (b *testbench) edit() {
	g := b.gateway("g")
	g.Generation++
	port := int32(80 + len(g.Spec.Listeners))
	g.Spec.Listeners = append(g.Spec.Listeners, testGateway("g", port).Spec.Listeners...)
	b.put(g)
}

// after lets time pass, with all nodes renewing, then passes, writes and syncs.
func (b *testbench) after(d time.Duration) {
	b.t.Helper()
	b.clock.Step(d)
	b.renew("a", "b", "c")
	b.step()
	b.write()
	b.sync()
}

func TestLagHoldsTrueForItsToleranceOnly(t *testing.T) {
	b := threeNodes(t)
	b.edit()
	b.after(0)
	g := b.gateway("g")
	held := condition(g.Status.Conditions, programmed)
	if held.Status != metav1.ConditionTrue || held.ObservedGeneration != 1 {
		t.Errorf("at once: %+v", held)
	}
	if accepted := condition(g.Status.Conditions, "Accepted"); accepted.ObservedGeneration != 2 {
		t.Errorf("Accepted must not wait: %+v", accepted)
	}
	if c := condition(publishedListener(g.Status.Listeners, "p81"), programmed); c.Status != metav1.ConditionFalse {
		t.Errorf("a new listener was never programmed: %+v", c)
	}
	b.after(time.Second - 1)
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/") {
		t.Errorf("just before the tolerance: %s", got)
	}
	b.after(1)
	if got := b.programmed("g"); got != "False/Pending: 0/3 nodes; waiting for a, b, c" {
		t.Errorf("after the tolerance: %s", got)
	}
	if diff := cmp.Diff([]string{"g NodeLagging: 0/3 nodes; waiting for a, b, c"}, b.events.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestStatusesAreComparedAnew: a status that somebody changed decides nothing, but is
// put right.
func TestStatusesAreComparedAnew(t *testing.T) {
	b := threeNodes(t)
	graph := b.graph
	want := b.gateway("g").Status
	g := b.gateway("g").DeepCopy()
	g.Status.Conditions[0].Message = "somebody else's"
	b.put(g)
	b.step()
	if b.graph != graph {
		t.Error("a status led to another decision")
	}
	b.settleAll()
	if diff := cmp.Diff(want, b.gateway("g").Status); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.edit() // what is held is what is published by now
	b.after(0)
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/") {
		t.Error(got)
	}
}

func TestLagAlarm(t *testing.T) {
	b := threeNodes(t)
	b.edit()
	b.step()
	if got := b.lagsNext.Sub(b.clock.Now()); got != time.Second {
		t.Errorf("looks again after %s", got)
	}
}

// TestQuickEditNeverShowsFalse: nodes that prove an edit in time leave no trace but
// the new generation.
func TestQuickEditNeverShowsFalse(t *testing.T) {
	b := threeNodes(t)
	before := condition(b.gateway("g").Status.Conditions, programmed).LastTransitionTime
	b.edit()
	b.after(0)
	b.prove("a", "b", "c")
	b.after(500 * time.Millisecond)
	after := condition(b.gateway("g").Status.Conditions, programmed)
	if after.Status != metav1.ConditionTrue || after.ObservedGeneration != 2 || !after.LastTransitionTime.Equal(&before) {
		t.Errorf("%+v, transition before %s", after, before)
	}
	if got := b.events.take(); len(got) > 0 {
		t.Errorf("events %v", got)
	}
}

// TestEditsInARowDoNotExtendTheTolerance: whoever edits all the time is told the
// truth all the same.
func TestEditsInARowDoNotExtendTheTolerance(t *testing.T) {
	b := threeNodes(t)
	for range 5 {
		b.edit()
		b.after(300 * time.Millisecond)
	}
	if got := b.programmed("g"); !strings.HasPrefix(got, "False/Pending") {
		t.Errorf("got %s", got)
	}
}

func TestLastErrorIsTold(t *testing.T) {
	b := threeNodes(t)
	b.edit()
	b.step()
	b.prove("a", "c")
	report := b.report("b", "1:old")
	report.Report.Failing = 1
	report.Report.Errors = []v1alpha1.GatewayError{{Gateway: "default/g", Message: "no space"}}
	b.put(report)
	b.after(0)
	b.after(time.Second)
	if got := b.programmed("g"); got != "False/Pending: 2/3 nodes; waiting for b (last error: no space)" {
		t.Errorf("got %s", got)
	}
	if diff := cmp.Diff([]string{"g NodeLagging: 2/3 nodes; waiting for b (last error: no space)"}, b.events.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestProgressIsToldOnceASecond: nodes that prove one after the other cause no
// write each, but the last one does at once.
func TestProgressIsToldOnceASecond(t *testing.T) {
	b := threeNodes(t)
	b.edit()
	b.after(0)
	b.after(time.Second)
	b.calls()
	var seen []string
	for _, node := range []string{"a", "b"} {
		b.prove(node)
		b.after(400 * time.Millisecond)
		seen = append(seen, b.programmed("g"))
	}
	b.after(400 * time.Millisecond)
	seen = append(seen, b.programmed("g"))
	b.prove("c")
	b.after(time.Millisecond)
	seen = append(seen, b.programmed("g"))
	want := []string{
		"False/Pending: 0/3 nodes; waiting for a, b, c",
		"False/Pending: 0/3 nodes; waiting for a, b, c",
		"False/Pending: 2/3 nodes; waiting for c",
		"True/Programmed: every node serves the current configuration",
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestProgressOfManyIsToldSeldom: many Gateways wait for many nodes, which prove one after the
// other. What is only progress costs a number of writes a second and not one of every Gateway;
// each Gateway has its turn; and what there is to conclude does not wait.
func TestProgressOfManyIsToldSeldom(t *testing.T) {
	const gateways, nodes = 100, 60
	b := newTestbench(t)
	var names []string
	for i := range nodes {
		names = append(names, fmt.Sprintf("n%02d", i))
		b.join(names[i], fmt.Sprintf("10.0.0.%d", i+1))
	}
	for i := range gateways {
		b.put(testGateway(fmt.Sprintf("g%02d", i), int32(1000+i)))
	}
	b.settleAll()
	if got := b.programmed("g00"); !strings.HasPrefix(got, "False/Pending: 0/60 nodes") {
		t.Fatal(got)
	}
	second := func() int {
		b.calls()
		b.clock.Step(time.Second)
		b.renew(names...)
		b.step()
		b.write()
		b.sync()
		return len(b.calls())
	}
	second() // agents report addresses
	writes, told := 0, map[string]int{}
	for i := range nodes - 1 {
		b.prove(names[i])
		n := second()
		if writes += n; n > progressRate {
			t.Errorf("%d writes in a second in which one of %d nodes has proven", n, nodes)
		}
		if got := b.programmed("g42"); told[got] == 0 {
			told[got] = i
		}
	}
	if len(told) < 5 {
		t.Errorf("Gateway g42 is told in %d s no more than %v", nodes, told)
	}
	t.Logf("%d writes of %d Gateways while %d nodes prove", writes, gateways, nodes)
	b.prove(names[nodes-1])
	if n := second(); n != gateways {
		t.Errorf("%d writes when all nodes have proven all of %d Gateways", n, gateways)
	}
	if got := b.programmed("g42"); !strings.HasPrefix(got, "True/") {
		t.Error(got)
	}
}

// TestErrorsWaitForNobodysProgress: while the progress of 100 Gateways takes its turns, the error of
// one, and what becomes of an edit, are told within a second.
func TestErrorsWaitForNobodysProgress(t *testing.T) {
	b := newTestbench(t)
	var names []string
	for i := range 6 {
		names = append(names, fmt.Sprintf("n%d", i))
		b.join(names[i], fmt.Sprintf("10.0.0.%d", i+1))
	}
	for i := range 100 {
		b.put(testGateway(fmt.Sprintf("g%02d", i), int32(1000+i)))
	}
	b.settleAll()
	second := func() {
		b.clock.Step(time.Second)
		b.renew(names...)
		b.step()
		b.write()
		b.sync()
	}
	for _, name := range names {
		b.put(b.report(name, "1:old"))
	}
	b.settleAll()
	second()
	b.prove("n0", "n1", "n2", "n3")
	edited := b.gateway("g98")
	edited.Generation++
	edited.Spec.Listeners = append(edited.Spec.Listeners, testGateway("g98", 2000).Spec.Listeners...)
	b.put(edited)
	report := b.report("n4", "1:old")
	report.Report.Failing = 1
	report.Report.Errors = []v1alpha1.GatewayError{{Gateway: "default/g99", Message: "no space"}}
	b.put(report)
	second()
	if got := b.programmed("g99"); got != "False/Pending: 4/6 nodes; waiting for n4 (last error: no space), n5" {
		t.Errorf("the error: got %s", got)
	}
	if got := b.programmed("g98"); got != "False/Pending: 0/6 nodes; waiting for n0, n1, n2 and 3 more" {
		t.Errorf("the edit: got %s", got)
	}
	if c := condition(b.gateway("g98").Status.Conditions, programmed); c.ObservedGeneration != 2 {
		t.Errorf("the edit: %+v", c)
	}
	second()
	late := 0
	for i := range 98 {
		if !strings.HasPrefix(b.programmed(fmt.Sprintf("g%02d", i)), "False/Pending: 4/6") {
			late++
		}
	}
	if late == 0 {
		t.Error("nobody's progress had to wait")
	}
}

// TestSilenceIsToldOnceInAWhile: agents that are lost one after the other cause two
// writes of a Gateway for their names, however many they are.
func TestSilenceIsToldOnceInAWhile(t *testing.T) {
	var s silence
	var told []string
	at := func(after time.Duration, silent ...string) {
		next := s.tell(epoch.Add(after), silent)
		text := fmt.Sprintf("%s %v", after, s.told)
		if !next.IsZero() {
			text += fmt.Sprintf(" until %s", next.Sub(epoch))
		}
		told = append(told, text)
	}
	at(0)
	at(1*time.Second, "b")
	at(5*time.Second, "a", "b")
	at(30*time.Second, "a", "b", "c")
	at(31*time.Second, "a", "b", "c")
	at(40*time.Second, "c")
	at(41 * time.Second)
	want := []string{
		"0s []", "1s [b]", "5s [b] until 31s", "30s [b] until 31s", "31s [a b c]", "40s [a b c] until 1m1s", "41s []",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestListenerSetLagsWithItsGateway: a set says of its Gateway what that says.
func TestListenerSetLagsWithItsGateway(t *testing.T) {
	b := threeNodes(t)
	g := b.gateway("g")
	g.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: ptr.To(gatewayv1.NamespacesFromAll)}}
	b.put(g)
	set := &gatewayv1.ListenerSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s", Generation: 1}}
	set.Spec.ParentRef.Name = "g"
	set.Spec.Listeners = []gatewayv1.ListenerEntry{{Name: "extra", Port: 90, Protocol: gatewayv1.TCPProtocolType}}
	b.put(set)
	b.step()
	b.prove("a", "b", "c")
	b.settleAll()
	read := func() string {
		s, err := b.client.GatewayV1().ListenerSets("default").Get(b.ctx, "s", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c, l := condition(s.Status.Conditions, programmed), condition(s.Status.Listeners[0].Conditions, programmed)
		return fmt.Sprintf("%s/%s %s/%s", c.Status, c.Reason, l.Status, l.Reason)
	}
	seen := []string{read()}
	b.edit()
	b.after(0)
	seen = append(seen, read())
	b.after(time.Second)
	seen = append(seen, read())
	want := []string{"True/Programmed True/Programmed", "True/Programmed True/Programmed", "False/ParentNotProgrammed False/Pending"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
