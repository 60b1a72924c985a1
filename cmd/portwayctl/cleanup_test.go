package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/cluster/clientset"
)

// What cleans up has the agent's rights, flags and volumes, and nothing that would make
// kubelet restart it.
func TestCleanupPatch(t *testing.T) {
	agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: agentName}}
	agents.Spec.Template.Spec.HostNetwork = true
	agents.Spec.Template.Spec.Containers = []corev1.Container{{
		Name: "agent", Image: "portway:v1", Command: []string{"/portway-agent"}, Args: []string{"--backend=iptables"},
		Ports:         []corev1.ContainerPort{{ContainerPort: 9617, HostPort: 9617}},
		LivenessProbe: &corev1.Probe{}, ReadinessProbe: &corev1.Probe{},
		VolumeMounts:    []corev1.VolumeMount{{Name: "xtables-lock", MountPath: "/run/xtables.lock"}},
		SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}},
	}}
	patch, err := cleanupPatch(agents)
	if err != nil {
		t.Fatal(err)
	}
	after, err := fake.NewClientset(agents).AppsV1().DaemonSets("system").Patch(t.Context(), agentName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := after.Spec.Template.Spec
	want := corev1.Container{
		Name: "cleanup", Image: "portway:v1", Command: []string{"/portway-agent"}, Args: []string{"--backend=iptables", "--cleanup"},
		VolumeMounts:    agents.Spec.Template.Spec.Containers[0].VolumeMounts,
		SecurityContext: agents.Spec.Template.Spec.Containers[0].SecurityContext,
	}
	if diff := cmp.Diff([]corev1.Container{want}, spec.InitContainers); diff != "" {
		t.Errorf("init containers: -want +got:\n%s", diff)
	}
	if !spec.HostNetwork || len(spec.Containers) != 1 || len(spec.Containers[0].SecurityContext.Capabilities.Add) != 0 {
		t.Errorf("want the nodes' network and one container without rights, got %+v", spec)
	}
	if all := after.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); all != "100%" {
		t.Errorf("%s of the nodes at once, want all", all)
	}
	if after.Spec.Template.Annotations[cleanupMark] == "" {
		t.Error("the pods are not marked")
	}
	if _, err := cleanupPatch(&appsv1.DaemonSet{}); err == nil {
		t.Error("without a container agent: no error")
	}
}

func TestRelease(t *testing.T) {
	var written string
	write := func(patch []byte) error {
		written = string(patch)
		return nil
	}
	if err := release(&metav1.ObjectMeta{ResourceVersion: "7", Finalizers: []string{"theirs", "ours"}}, "ours", write); err != nil {
		t.Fatal(err)
	}
	if want := `{"metadata":{"finalizers":["theirs"],"resourceVersion":"7"}}`; written != want {
		t.Errorf("wrote %s, want %s", written, want)
	}
	written = ""
	if err := release(&metav1.ObjectMeta{Finalizers: []string{"theirs"}}, "ours", write); err != nil || written != "" {
		t.Errorf("of an object without ours: wrote %q, error %v", written, err)
	}
}

// What hinders is named when time is up.
func TestAwaitNamesWhatIsLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	u := uninstall{pause: time.Nanosecond}
	looks := 0
	err := u.await(ctx, func() ([]string, error) {
		if looks++; looks == 3 {
			cancel()
		}
		return []string{"node a has a NodeReport"}, errors.New("no answer")
	})
	if err == nil || !strings.Contains(err.Error(), "node a has a NodeReport") || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("got %v", err)
	}
}

// reportList is the NodeReports of a cluster.
type reportList struct {
	cluster.NodeReports
	items []v1alpha1.NodeReport
}

func (r reportList) List(context.Context, metav1.ListOptions) (*v1alpha1.NodeReportList, error) {
	return &v1alpha1.NodeReportList{Items: r.items}, nil
}

// A ready node is clean when neither a NodeReport, a Lease nor an agent says otherwise. Nodes
// that are not ready are named, and nobody waits for them.
func TestUncleaned(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	pod := func(name, node, mark string) *corev1.Pod {
		labels := map[string]string{"app.kubernetes.io/name": "portway", "app.kubernetes.io/component": "agent"}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: name, Labels: labels}, Spec: corev1.PodSpec{NodeName: node}}
		if mark != "" {
			p.Annotations = map[string]string{cleanupMark: mark}
		}
		return p
	}
	core := fake.NewClientset(
		node("clean", corev1.ConditionTrue), node("leased", corev1.ConditionTrue), node("reported", corev1.ConditionTrue),
		node("running", corev1.ConditionTrue), node("lost", corev1.ConditionUnknown),
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "agent-leased", Labels: map[string]string{cluster.AgentLabel: "true"}}},
		pod("done", "clean", "true"), pod("agent", "running", ""), pod("gone", "lost", ""),
	)
	u := uninstall{namespace: "system", Clients: clientset.Clients{Core: core, Clients: cluster.Clients{NodeReports: reportList{items: []v1alpha1.NodeReport{
		{ObjectMeta: metav1.ObjectMeta{Name: "reported"}}, {ObjectMeta: metav1.ObjectMeta{Name: "lost"}},
	}}}}}
	left, unready, err := u.uncleaned(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(left)
	want := []string{"node leased has the Lease of an agent", "node reported has a NodeReport", "node running still runs pod agent"}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"lost"}, unready); diff != "" {
		t.Errorf("not ready: -want +got:\n%s", diff)
	}
}
