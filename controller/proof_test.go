package controller

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

// TestSilentNode: what it proved stands as long as it is what is wanted; it is
// named, its addresses go, and an edit waits for it.
func TestSilentNode(t *testing.T) {
	b := threeNodes(t)
	b.clock.Step(39 * time.Second)
	b.renew("a", "c")
	b.settleAll()
	b.calls()
	b.clock.Step(time.Second)
	b.settleAll()
	if diff := cmp.Diff([]string{"update gateways"}, b.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if got := b.programmed("g"); got != "True/Programmed: every node serves the current configuration; no news from the agent of b, whose rules stand; if a node runs none any more, delete its Lease agent-<node>" {
		t.Error(got)
	}
	if got := addressesOf(b); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.3"}) {
		t.Errorf("addresses %v", got)
	}

	b.edit()
	b.step()
	b.prove("a", "c")
	b.settleAll()
	b.clock.Step(time.Second)
	b.renew("a", "c")
	b.settleAll()
	if got := b.programmed("g"); got != "False/Pending: 2/3 nodes; waiting for b (last error: its agent has been silent for more than 40s; if it runs none any more, delete Lease agent-b)" {
		t.Error(got)
	}
	b.renew("b")
	b.prove("b")
	b.settleAll()
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/Programmed") {
		t.Error(got)
	}
	if got := addressesOf(b); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}) {
		t.Errorf("addresses %v", got)
	}
}

// TestSecondSilentNodeIsNamedLater: its address goes at once.
func TestSecondSilentNodeIsNamedLater(t *testing.T) {
	b := threeNodes(t)
	b.clock.Step(5 * time.Second)
	b.renew("a", "c")
	b.step()
	b.clock.Step(5 * time.Second)
	b.renew("c")
	b.step()
	var seen []string
	for range 14 {
		b.clock.Step(5 * time.Second)
		b.renew("c")
		b.settleAll()
		_, silent, _ := strings.Cut(b.programmed("g"), "agent of ")
		silent, _, _ = strings.Cut(silent, ", whose")
		seen = append(seen, silent+" "+strings.Join(addressesOf(b), " "))
	}
	want := []string{" 10.0.0.1 10.0.0.2 10.0.0.3", "b 10.0.0.1 10.0.0.3", "b 10.0.0.3", "a, b 10.0.0.3"}
	if diff := cmp.Diff(want, slices.Compact(seen)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !b.lagsNext.IsZero() {
		t.Errorf("everything is told, but it looks again at %s", b.lagsNext)
	}
}

func addressesOf(b *testbench) []string {
	b.t.Helper()
	var all []string
	for _, a := range b.gateway("g").Status.Addresses {
		all = append(all, a.Value)
	}
	return all
}

// TestNotReadyNodeIsNotWaitedFor: it leaves the count and the addresses.
func TestNotReadyNodeIsNotWaitedFor(t *testing.T) {
	b := threeNodes(t)
	b.edit()
	b.step()
	b.prove("a", "c")
	b.put(testNode("b", false, "10.0.0.2"))
	b.settleAll()
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/Programmed") || len(addressesOf(b)) != 2 {
		t.Error(got, addressesOf(b))
	}
}

// TestJoiningNodeIsNotWaitedFor until it has committed something or 30 s are over.
func TestJoiningNodeIsNotWaitedFor(t *testing.T) {
	b := threeNodes(t)
	b.join("d", "10.0.0.4")
	b.settleAll()
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/Programmed") || len(addressesOf(b)) != 3 {
		t.Error(got, addressesOf(b))
	}
	b.clock.Step(30 * time.Second)
	b.renew("d")
	b.settleAll()
	b.clock.Step(time.Second)
	b.renew("a", "b", "c", "d")
	b.step()
	b.write()
	if got := b.programmed("g"); got != "False/Pending: 3/4 nodes; waiting for d (last error: its agent has not reported since the node booted)" {
		t.Error(got)
	}
}

// TestReportsInAnyOrder: nothing depends on agents sorting their digests.
func TestReportsInAnyOrder(t *testing.T) {
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	b.put(testGateway("g", 80), testGateway("h", 81), testGateway("i", 82))
	b.step()
	b.prove("a")
	report := b.report("a", slices.Clone(b.store.Next().Fleet.Reports["a"].Report.Committed)...)
	slices.Reverse(report.Report.Committed)
	report.Report.Committed = append(report.Report.Committed, "1:of-another-time")
	b.put(report)
	b.settleAll()
	for _, name := range []string{"g", "h", "i"} {
		if got := b.programmed(name); !strings.HasPrefix(got, "True/") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestProofsAreKept: a report costs the work of one report.
func TestProofsAreKept(t *testing.T) {
	b := threeNodes(t)
	before := b.prover.proofs
	expected := b.prover.expected
	report := b.report("b")
	b.put(report)
	b.step()
	if b.prover.expected != expected || !slices.Equal(keysOf(before), keysOf(b.prover.proofs)) {
		t.Fatal("the expectation changed")
	}
	for name, proof := range b.prover.proofs {
		if same := proof.report == before[name].report; same != (name != "b") {
			t.Errorf("node %s: same %t", name, same)
		}
	}
	if got := b.prover.proofs["a"].result; len(got.Committed) != 1 || len(got.Missing) != 0 {
		t.Errorf("a: %v", got)
	}
}

// TestNodesThatLackTheSameShareIt: what is kept of a node does not grow with the
// Gateways, and goes when no node lacks it any more.
func TestNodesThatLackTheSameShareIt(t *testing.T) {
	b := threeNodes(t)
	b.put(testGateway("h", 81), testGateway("i", 82))
	b.step()
	digest := func(name string) string {
		return b.graph.Gateways[types.NamespacedName{Namespace: "default", Name: name}].Digest
	}
	missing := func(node string) map[types.NamespacedName]bool { return b.prover.proofs[node].result.Missing }
	b.put(b.report("a", digest("g")), b.report("b", digest("g")), b.report("c", digest("i")))
	b.step()
	for node, want := range map[string][]string{"a": {"h", "i"}, "b": {"h", "i"}, "c": {"g", "h"}} {
		var got []string
		for key := range missing(node) {
			got = append(got, key.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s lacks %v, want %v", node, got, want)
		}
	}
	if shared := reflect.ValueOf(missing("a")).Pointer() == reflect.ValueOf(missing("b")).Pointer(); !shared {
		t.Error("a and b lack the same and do not share it")
	}
	if n := len(b.prover.missing); n != 2 {
		t.Errorf("%d sets", n)
	}
	b.prove("a", "b", "c")
	b.step()
	if set, ok := b.prover.missing[""]; len(b.prover.missing) != 1 || !ok || set != nil {
		t.Errorf("nobody lacks anything: %v", b.prover.missing)
	}
}

func keysOf(m map[string]proof) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// TestRenewalsCauseNoEvaluation: a Lease that was renewed is no news.
func TestRenewalsCauseNoEvaluation(t *testing.T) {
	b := threeNodes(t)
	graph, proofs := b.graph, b.prover.proofs
	b.clock.Step(10 * time.Second)
	b.renew("a", "b", "c")
	b.prover.proofs = nil // would be made anew
	b.step()
	if b.graph != graph || b.prover.proofs != nil {
		t.Error("evaluated")
	}
	b.prover.proofs = proofs
}
