package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// newFleet is three nodes: one well, one that is not ready, and one without an agent.
func newFleet() *fleet {
	node := func(name string, ready corev1.ConditionStatus) corev1.Node {
		return corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
				NodeInfo:   corev1.NodeSystemInfo{BootID: "this"},
			},
		}
	}
	return &fleet{
		nodes: []corev1.Node{node("a", corev1.ConditionTrue), node("b", corev1.ConditionFalse), node("c", corev1.ConditionTrue)},
		pods: map[string]*corev1.Pod{
			"a": {ObjectMeta: metav1.ObjectMeta{Name: "agent-of-a"}, Status: corev1.PodStatus{
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			}},
			"b": {ObjectMeta: metav1.ObjectMeta{Name: "agent-of-b"}},
		},
		leases: map[string]*coordinationv1.Lease{"a": {}},
		reports: map[string]*v1alpha1.NodeReport{"a": {Report: v1alpha1.Report{
			AgentVersion: "v1", Backend: "nftables", BootID: "this", Gateways: 2,
			Findings: []v1alpha1.Finding{{Reason: "ForwardDropped", Message: "a rule drops our flows"}},
		}}},
		classes: []gatewayv1.GatewayClass{{
			ObjectMeta: metav1.ObjectMeta{Name: "portway"},
			Status: gatewayv1.GatewayClassStatus{Conditions: []metav1.Condition{
				{Type: string(gatewayv1.GatewayClassConditionStatusAccepted), Status: metav1.ConditionTrue},
			}},
		}},
	}
}

func TestNodesPrints(t *testing.T) {
	var out strings.Builder
	if err := newFleet().print(&out); err != nil {
		t.Errorf("a cluster that is well: %v", err)
	}
	want := strings.Join([]string{
		"NODE  READY  AGENT  BACKEND   GATEWAYS  FAILING  FINDINGS",
		"a     yes    v1     nftables  2         0        1",
		"b     no     -      -         -         -        -",
		"c     yes    -      -         -         -        -",
		"a: ForwardDropped: a rule drops our flows",
		"",
	}, "\n")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNodesFindsProblems(t *testing.T) {
	for want, breaks := range map[string]func(*fleet){
		"no agent runs":                                         func(f *fleet) { f.pods = nil },
		"node a: pod agent-of-a is not ready":                   func(f *fleet) { f.pods["a"].Status.Conditions = nil },
		"node a: no Lease agent-a":                              func(f *fleet) { f.leases = nil },
		"node a: no NodeReport":                                 func(f *fleet) { f.reports = nil },
		"node a: its NodeReport is from before the node booted": func(f *fleet) { f.reports["a"].Report.BootID = "former" },
		"node a: 2 Gateways are not programmed, infra/dns: no memory": func(f *fleet) {
			f.reports["a"].Report.Failing = 2
			f.reports["a"].Report.Errors = []v1alpha1.GatewayError{{Gateway: "infra/dns", Message: "no memory"}}
		},
		"GatewayClass portway has no status: does the controller run?": func(f *fleet) { f.classes[0].Status.Conditions = nil },
		"GatewayClass portway is not accepted: no parameters": func(f *fleet) {
			f.classes[0].Status.Conditions[0].Status, f.classes[0].Status.Conditions[0].Message = metav1.ConditionFalse, "no parameters"
		},
	} {
		f := newFleet()
		breaks(f)
		if diff := cmp.Diff([]string{want}, f.problems()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}
