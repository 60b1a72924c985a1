package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	k8stesting "k8s.io/client-go/testing"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/cluster/clientset"
)

// What cleans up has the agent's rights, flags and volumes, and nothing that would make
// kubelet restart it.
func TestCleanerOf(t *testing.T) {
	agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: agentName}}
	agents.Spec.Template.Labels = map[string]string{componentLabel: "agent", "team": "edge"}
	agents.Spec.Template.Spec.HostNetwork = true
	agents.Spec.Template.Spec.Containers = []corev1.Container{{
		Name: "agent", Image: "portway:v1", Command: []string{"/portway-agent"}, Args: []string{"--backend=iptables"},
		Ports:         []corev1.ContainerPort{{ContainerPort: 9617, HostPort: 9617}},
		LivenessProbe: &corev1.Probe{}, ReadinessProbe: &corev1.Probe{},
		Resources:       corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")}},
		VolumeMounts:    []corev1.VolumeMount{{Name: "xtables-lock", MountPath: "/run/xtables.lock"}},
		SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}},
	}}
	made, err := cleanerOf(agents)
	if err != nil {
		t.Fatal(err)
	}
	agent, spec := agents.Spec.Template.Spec.Containers[0], made.Spec.Template.Spec
	want := corev1.Container{
		Name: "cleanup", Image: "portway:v1", Command: []string{"/portway-agent"}, Args: []string{"--backend=iptables", "--cleanup", "--cleanup-after=portway-agent"},
		Resources: agent.Resources, VolumeMounts: agent.VolumeMounts, SecurityContext: agent.SecurityContext,
	}
	if diff := cmp.Diff([]corev1.Container{want}, spec.InitContainers); diff != "" {
		t.Errorf("init containers: -want +got:\n%s", diff)
	}
	if !spec.HostNetwork || len(spec.Containers) != 1 || len(spec.Containers[0].SecurityContext.Capabilities.Add) != 0 {
		t.Errorf("want the nodes' network and one container without rights, got %+v", spec)
	}
	if diff := cmp.Diff(agent.Resources, spec.Containers[0].Resources); diff != "" {
		t.Errorf("a quota would refuse what waits: -want +got:\n%s", diff)
	}
	selector, err := labels.Parse(cleanerPods)
	if err != nil {
		t.Fatal(err)
	}
	if !selector.Matches(labels.Set(made.Spec.Template.Labels)) || made.Spec.Template.Labels["team"] != "edge" || len(made.Spec.Selector.MatchLabels) != 2 {
		t.Errorf("labels %v, selector %v", made.Spec.Template.Labels, made.Spec.Selector)
	}
	if _, err := cleanerOf(&appsv1.DaemonSet{}); err == nil {
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
	var out strings.Builder
	u := uninstall{pause: time.Nanosecond, out: &out}
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
	if want := "Waiting: node a has a NodeReport; no answer\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
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
// that are not ready are named, and nobody waits for them; nor, after a while, for those that
// no pod cleans.
func TestUncleaned(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	pod := func(component, name, node string) *corev1.Pod {
		labels := map[string]string{"app.kubernetes.io/name": "portway", componentLabel: component}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: name, Labels: labels}, Spec: corev1.PodSpec{NodeName: node}}
	}
	core := fake.NewClientset(
		node("clean", corev1.ConditionTrue), node("leased", corev1.ConditionTrue), node("reported", corev1.ConditionTrue),
		node("running", corev1.ConditionTrue), node("lost", corev1.ConditionUnknown),
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "agent-leased", Labels: map[string]string{cluster.AgentLabel: "true"}}},
		pod(cleanerLabel, "done", "clean"), pod("agent", "agent", "running"), pod("agent", "gone", "lost"),
		pod(cleanerLabel, "cleans", "running"), pod(cleanerLabel, "fails", "leased"), pod(cleanerLabel, "pending", ""),
	)
	u := uninstall{namespace: "system", Clients: clientset.Clients{Core: core, Clients: cluster.Clients{NodeReports: reportList{items: []v1alpha1.NodeReport{
		{ObjectMeta: metav1.ObjectMeta{Name: "reported"}}, {ObjectMeta: metav1.ObjectMeta{Name: "lost"}},
	}}}}}
	for _, test := range []struct {
		impatient     bool
		left, givenUp []string
	}{
		{false, []string{"node leased has the Lease of an agent", "node reported has a NodeReport", "node running still runs pod agent"}, []string{"Node lost is not ready"}},
		{
			true,
			[]string{"node leased has the Lease of an agent", "node running still runs pod agent"},
			[]string{"Node lost is not ready", "Node reported takes no pod of DaemonSet portway-cleanup"},
		},
	} {
		got, err := u.uncleaned(t.Context(), test.impatient)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got.left)
		slices.Sort(got.givenUp)
		if diff := cmp.Diff(test.left, got.left); diff != "" {
			t.Errorf("impatient %t, left: -want +got:\n%s", test.impatient, diff)
		}
		if diff := cmp.Diff(test.givenUp, got.givenUp); diff != "" {
			t.Errorf("impatient %t, given up: -want +got:\n%s", test.impatient, diff)
		}
	}
}

// TestUninstall: whatever is there, is gone in the end, and once more changes nothing. Who
// calls it without helm has the DaemonSet that cleans up made of the agents', in place of that of a
// former run; and nobody waits for a pod on a node that is lost.
func TestUninstall(t *testing.T) {
	agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: agentName}}
	agents.Spec.Template.Spec.Containers = []corev1.Container{{Name: "agent", Image: "portway:v1"}}
	lost := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lost"}}
	stuck := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "stuck", Labels: map[string]string{"app.kubernetes.io/name": "portway", componentLabel: "controller"}},
		Spec:       corev1.PodSpec{NodeName: "lost"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	core := fake.NewClientset(agents, lost, stuck,
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: cleanerName}},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: controllerName}})
	var made []string
	core.PrependReactor("create", "daemonsets", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if create, ok := action.(k8stesting.CreateAction); ok {
			if set, ok := create.GetObject().(*appsv1.DaemonSet); ok {
				made = append(made, set.Name)
			}
		}
		return false, nil, nil
	})
	u := uninstall{namespace: "system", pause: time.Nanosecond, out: io.Discard, Clients: clientset.Clients{
		Core: core, Gateway: gatewayfake.NewClientset(),
		Clients: cluster.Clients{NodeReports: reportList{}, AddressPools: noPools{}, Metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())},
	}}
	for range 2 {
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		if err := u.run(ctx); err != nil {
			t.Fatal(err)
		}
		sets, err := core.AppsV1().DaemonSets("system").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(sets.Items) > 0 {
			t.Errorf("DaemonSets are left: %v, %v", sets, err)
		}
		deployments, err := core.AppsV1().Deployments("system").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(deployments.Items) > 0 {
			t.Errorf("Deployments are left: %v, %v", deployments, err)
		}
	}
	if diff := cmp.Diff([]string{cleanerName}, made); diff != "" {
		t.Errorf("DaemonSets made: -want +got:\n%s", diff)
	}
	// Nodes say that they have rules, and there is nothing to clean them up with.
	u.NodeReports = reportList{items: []v1alpha1.NodeReport{{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}}}
	if err := u.run(t.Context()); err == nil || !strings.Contains(err.Error(), "node elsewhere has a NodeReport, but namespace system has no DaemonSet") {
		t.Errorf("in another namespace: %v", err)
	}
}

type noPools struct{ cluster.AddressPools }

func (noPools) List(context.Context, metav1.ListOptions) (*v1alpha1.AddressPoolList, error) {
	return &v1alpha1.AddressPoolList{}, nil
}
