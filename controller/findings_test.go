package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// TestFindingsReachStatuses: what a node finds is in the statuses of whom it concerns,
// with one Event, and gone from there once it is gone from the node.
func TestFindingsReachStatuses(t *testing.T) {
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	b.put(testGateway("g", 80, 81))
	b.step()
	b.prove("a")
	b.settleAll()
	b.events.take()
	find := func(findings ...v1alpha1.Finding) {
		report := b.report("a", b.graph.Gateways[types.NamespacedName{Namespace: "default", Name: "g"}].Digest)
		report.Report.Findings = findings
		b.put(report)
		b.settleAll()
	}
	told := func() (conditions []string) {
		note := func(where string, list []metav1.Condition) {
			for _, c := range list {
				if c.Type == topology.ConditionImpaired || c.Type == topology.ConditionPortContended {
					conditions = append(conditions, where+" "+c.Type+" "+string(c.Status)+" "+c.Reason+": "+c.Message)
				}
			}
		}
		status := b.gateway("g").Status
		note("gateway", status.Conditions)
		for _, l := range status.Listeners {
			note(string(l.Name), l.Conditions)
		}
		return conditions
	}

	find(
		v1alpha1.Finding{Reason: v1alpha1.FindingFirewallDrops, Message: "table guard"},
		v1alpha1.Finding{Reason: v1alpha1.FindingPortInUse, Message: "a process", Gateway: "default/g", Listener: "p81"},
		v1alpha1.Finding{Reason: "KernelLimitation", Message: "for the NodeReport only"},
	)
	want := []string{
		"gateway portway.dev/Impaired True FirewallDrops: flows through some nodes fail: a: table guard",
		"p81 portway.dev/PortContended True PortInUse: a: a process",
	}
	if diff := cmp.Diff(want, told()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"g FirewallDrops: flows through some nodes fail: a: table guard", "g PortInUse: a: a process"}, b.events.take()); diff != "" {
		t.Errorf("Events (-want +got):\n%s", diff)
	}
	if got := b.programmed("g"); got != "True/Programmed: every node serves the current configuration" {
		t.Error(got)
	}
	find()
	if got := told(); len(got) > 0 {
		t.Errorf("when nothing is found any more: %v", got)
	}
	if got := b.events.take(); len(got) > 0 {
		t.Errorf("Events when nothing is found any more: %v", got)
	}
}
