package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// newFleet is three nodes: one well, one that is not ready, and one that no agent is meant for.
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
		namespace: "portway-system",
		agents:    &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 2}},
		nodes:     []corev1.Node{node("a", corev1.ConditionTrue), node("b", corev1.ConditionFalse), node("c", corev1.ConditionTrue)},
		pods: map[string]*corev1.Pod{
			"a": {ObjectMeta: metav1.ObjectMeta{Name: "agent-of-a"}, Spec: corev1.PodSpec{NodeName: "a"}, Status: corev1.PodStatus{
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			}},
			"b": {ObjectMeta: metav1.ObjectMeta{Name: "agent-of-b"}, Spec: corev1.PodSpec{NodeName: "b"}},
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

// waiting is a pod as the controller of DaemonSets makes it, before the scheduler gives it its node.
func waiting(node string, conditions ...corev1.PodCondition) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent-of-" + node},
		Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}},
		}}},
		Status: corev1.PodStatus{Conditions: conditions},
	}
}

// TestNodesExpectsNothingOfUnready: whatever a node that is not ready lacks is no problem.
func TestNodesExpectsNothingOfUnready(t *testing.T) {
	ending := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent-of-b", DeletionTimestamp: &metav1.Time{}}, Spec: corev1.PodSpec{NodeName: "b"}}
	for name, pod := range map[string]corev1.Pod{"waiting": waiting("b"), "ending": ending} {
		f := newFleet()
		delete(f.pods, "b")
		f.addPods([]corev1.Pod{pod})
		if diff := cmp.Diff([]string(nil), f.problems()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// TestNodesEndingPod: a pod that ends on a ready node is none: another takes its place.
func TestNodesEndingPod(t *testing.T) {
	f := newFleet()
	ending := *f.pods["a"]
	ending.DeletionTimestamp = &metav1.Time{}
	delete(f.pods, "a")
	f.addPods([]corev1.Pod{ending})
	if problems := f.problems(); len(problems) != 2 || !strings.Contains(problems[0], "wants 2 pods and has 1 fewer; of the ready nodes a, c") {
		t.Errorf("want problems of DaemonSet and node a, got %v", problems)
	}
}

// TestNodesWithoutClass: that no class is ours is no fault, but explains why nothing happens.
func TestNodesWithoutClass(t *testing.T) {
	f := newFleet()
	f.classes = nil
	var out strings.Builder
	if err := f.print(&out); err != nil || !strings.Contains(out.String(), "\nNo GatewayClass is ours") {
		t.Errorf("error %v, output:\n%s", err, out.String())
	}
}

func TestNodesFindsProblems(t *testing.T) {
	const followsNothing = "no agent runs, and its NodeReport is there: its rules stand and follow nothing; " +
		"let DaemonSet portway-agent select the node, or run portway-agent --cleanup there"
	for want, breaks := range map[string]func(*fleet){
		"no agent runs": func(f *fleet) { f.pods, f.reports = nil, nil },
		"DaemonSet portway-system/portway-agent is missing: nobody starts agents": func(f *fleet) { f.agents = nil },
		"DaemonSet portway-system/portway-agent wants 3 pods and has 1 fewer; of the ready nodes c have none; " +
			"kubectl -n portway-system describe daemonset portway-agent says why": func(f *fleet) { f.agents.Status.DesiredNumberScheduled = 3 },
		"node c: " + followsNothing: func(f *fleet) { f.reports["c"] = &v1alpha1.NodeReport{} },
		"node c: pod agent-of-c is not scheduled: 0/3 nodes are available: no free ports": func(f *fleet) {
			f.agents.Status.DesiredNumberScheduled = 3
			f.addPods([]corev1.Pod{waiting("c", corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available: no free ports"})})
		},
		"node c: pod agent-of-c is not scheduled: the scheduler has not looked at it": func(f *fleet) { f.addPods([]corev1.Pod{waiting("c")}) },
		"node a: pod agent-of-a is not ready":                                         func(f *fleet) { f.pods["a"].Status.Conditions = nil },
		"node a: no Lease agent-a":                                                    func(f *fleet) { f.leases = nil },
		"node a: no NodeReport":                                                       func(f *fleet) { f.reports = nil },
		"node a: its NodeReport is from before the node booted":                       func(f *fleet) { f.reports["a"].Report.BootID = "former" },
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
