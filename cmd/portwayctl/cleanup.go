package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/cluster/clientset"
	"github.com/portway-dev/portway/controller"
	"github.com/portway-dev/portway/topology"
)

// What deploy/chart calls things.
const (
	controllerName = "portway-controller"
	agentName      = "portway-agent"
	controllerPods = "app.kubernetes.io/name=portway,app.kubernetes.io/component=controller"
	agentPods      = "app.kubernetes.io/name=portway,app.kubernetes.io/component=agent"
	// cleanupMark is the annotation of the pods that clean up in the agents' place.
	cleanupMark = v1alpha1.GroupName + "/cleanup"
)

func newCleanupCommand() *cobra.Command {
	var kubeconfig string
	var timeout time.Duration
	u := uninstall{pause: time.Second}
	command := &cobra.Command{
		Use:   "cleanup",
		Short: "Take everything of Portway out of the nodes and the cluster, before it is uninstalled",
		Long: "Take everything of Portway out of the nodes and the cluster, before it is uninstalled. The controller is stopped;\n" +
			"Services of Gateways in mode LoadBalancer are deleted; the DaemonSet of the agents becomes one that runs\n" +
			"portway-agent --cleanup on each node; then NodeReports, Leases and our finalizers are removed. The API objects of\n" +
			"users and the CRDs stay. All of it can be run again. Helm uninstall and deploy/cleanup.yaml do this.",
		Example: "  portwayctl cleanup --kubeconfig ~/.kube/config",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if u.Clients, err = connect(kubeconfig); err != nil {
				return err
			}
			u.out = c.OutOrStdout()
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			return u.run(ctx)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "",
		"file that says how to reach the API server (default: as kubectl does)")
	command.Flags().StringVar(&u.namespace, "namespace", "portway-system", "namespace of the controller and the agents")
	command.Flags().DurationVar(&timeout, "timeout", 4*time.Minute, "how long all of it may take")
	return command
}

// uninstall takes Portway out of a cluster, in an order in which nobody puts back what
// was removed.
type uninstall struct {
	clientset.Clients
	namespace string
	pause     time.Duration // between looks
	out       io.Writer
}

func (u *uninstall) run(ctx context.Context) error {
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"stop the controller", u.stopController},
		{"delete the Services of Gateways", u.deleteServices},
		{"clean up the nodes", u.cleanNodes},
		{"remove NodeReports and Leases", u.forget},
		{"remove finalizers", u.releaseAll},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	fmt.Fprintln(u.out, "Nothing of Portway is left but its programs, which can be deleted now, and the CRDs")
	return nil
}

func (u *uninstall) stopController(ctx context.Context) error {
	_, err := u.Core.AppsV1().Deployments(u.namespace).Patch(ctx, controllerName, types.MergePatchType,
		[]byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return u.await(ctx, func() ([]string, error) {
		pods, err := u.Core.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: controllerPods})
		if err != nil {
			return nil, err
		}
		var left []string
		for i := range pods.Items {
			if phase := pods.Items[i].Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
				left = append(left, "pod "+pods.Items[i].Name+" runs")
			}
		}
		return left, nil
	})
}

func (u *uninstall) deleteServices(ctx context.Context) error {
	services, err := u.Core.CoreV1().Services(u.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: v1alpha1.GatewayNamespaceLabel + "," + v1alpha1.GatewayNameLabel,
	})
	if err != nil {
		return err
	}
	for i := range services.Items {
		err := u.Core.CoreV1().Services(u.namespace).Delete(ctx, services.Items[i].Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		fmt.Fprintf(u.out, "Deleted Service %s/%s\n", u.namespace, services.Items[i].Name)
	}
	return nil
}

// cleanNodes replaces the agents by what cleans up after them, and waits until no ready
// node says any more that it has rules.
func (u *uninstall) cleanNodes(ctx context.Context) error {
	agents, err := u.Core.AppsV1().DaemonSets(u.namespace).Get(ctx, agentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fmt.Fprintf(u.out, "There is no DaemonSet %s/%s: nodes are not cleaned up; portway-agent --cleanup does it on each\n", u.namespace, agentName)
		return nil
	}
	if err != nil {
		return err
	}
	if agents.Spec.Template.Annotations[cleanupMark] == "" {
		patch, err := cleanupPatch(agents)
		if err != nil {
			return err
		}
		if _, err := u.Core.AppsV1().DaemonSets(u.namespace).Patch(ctx, agentName, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	var unready []string
	err = u.await(ctx, func() (left []string, err error) {
		left, unready, err = u.uncleaned(ctx)
		return left, err
	})
	for _, node := range unready {
		fmt.Fprintf(u.out, "Node %s is not ready: its rules stay until it boots, or portway-agent --cleanup runs there\n", node)
	}
	return err
}

// uncleaned returns what of ready nodes is not clean yet, and the others.
func (u *uninstall) uncleaned(ctx context.Context) (left, unready []string, err error) {
	var all metav1.ListOptions
	nodes, err1 := u.Core.CoreV1().Nodes().List(ctx, all)
	reports, err2 := u.NodeReports.List(ctx, all)
	leases, err3 := u.Core.CoordinationV1().Leases(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.AgentLabel})
	pods, err4 := u.Core.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: agentPods})
	if err := errors.Join(err1, ignoreNotFound(err2), err3, err4); err != nil {
		return nil, nil, err
	}
	says := map[string]string{} // of each node, why it is not clean
	if err2 == nil {
		for i := range reports.Items {
			says[reports.Items[i].Name] = "has a NodeReport"
		}
	}
	for i := range leases.Items {
		says[strings.TrimPrefix(leases.Items[i].Name, cluster.AgentLeasePrefix)] = "has the Lease of an agent"
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; pod.Annotations[cleanupMark] == "" && pod.Spec.NodeName != "" {
			says[pod.Spec.NodeName] = "still runs pod " + pod.Name
		}
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		why, ok := says[node.Name]
		switch {
		case !ok:
		case nodeReady(node):
			left = append(left, "node "+node.Name+" "+why)
		default:
			unready = append(unready, node.Name)
		}
	}
	return left, unready, nil
}

// cleanupPatch makes of the agents' DaemonSet one that cleans up: with the rights, flags
// and image of the agents, on all nodes at once.
func cleanupPatch(agents *appsv1.DaemonSet) ([]byte, error) {
	i := slices.IndexFunc(agents.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == "agent" })
	if i < 0 {
		return nil, fmt.Errorf("DaemonSet %s/%s has no container agent", agents.Namespace, agents.Name)
	}
	cleanup := agents.Spec.Template.Spec.Containers[i].DeepCopy()
	cleanup.Name = "cleanup"
	cleanup.Args = append(cleanup.Args, "--cleanup")
	cleanup.Ports, cleanup.ReadinessProbe, cleanup.LivenessProbe, cleanup.StartupProbe = nil, nil, nil, nil
	done := corev1.Container{
		Name: "done", Image: cleanup.Image, ImagePullPolicy: cleanup.ImagePullPolicy, Command: []string{"/portwayctl", idleName},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	return json.Marshal(map[string]any{"spec": map[string]any{
		"updateStrategy": map[string]any{"type": appsv1.RollingUpdateDaemonSetStrategyType, "rollingUpdate": map[string]any{"maxUnavailable": "100%", "maxSurge": 0}},
		"template": map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{cleanupMark: "true"}},
			"spec":     map[string]any{"initContainers": []*corev1.Container{cleanup}, "containers": []corev1.Container{done}},
		},
	}})
}

// forget removes what nodes said that could not say otherwise, and the leader's Lease.
func (u *uninstall) forget(ctx context.Context) error {
	reports, err := u.NodeReports.List(ctx, metav1.ListOptions{})
	if ignoreNotFound(err) != nil {
		return err
	}
	var errs []error
	if err == nil {
		resource := u.Metadata.Resource(v1alpha1.GroupVersion.WithResource("nodereports"))
		for i := range reports.Items {
			errs = append(errs, ignoreNotFound(resource.Delete(ctx, reports.Items[i].Name, metav1.DeleteOptions{})))
		}
	}
	leases := u.Core.CoordinationV1().Leases(u.namespace)
	ofAgents, err := leases.List(ctx, metav1.ListOptions{LabelSelector: cluster.AgentLabel})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	names := []string{controller.DefaultLeaderElection().Name}
	for i := range ofAgents.Items {
		names = append(names, ofAgents.Items[i].Name)
	}
	for _, name := range names {
		errs = append(errs, ignoreNotFound(leases.Delete(ctx, name, metav1.DeleteOptions{})))
	}
	return errors.Join(errs...)
}

// releaseAll removes our finalizers, which nobody would any more.
func (u *uninstall) releaseAll(ctx context.Context) error {
	classes, err := u.Gateway.GatewayV1().GatewayClasses().List(ctx, metav1.ListOptions{})
	if ignoreNotFound(err) != nil {
		return err
	}
	var errs []error
	if err == nil {
		for i := range classes.Items {
			class := &classes.Items[i]
			if class.Spec.ControllerName != topology.ControllerName {
				continue
			}
			errs = append(errs, release(&class.ObjectMeta, gatewayv1.GatewayClassFinalizerGatewaysExist, func(patch []byte) error {
				_, err := u.Gateway.GatewayV1().GatewayClasses().Patch(ctx, class.Name, types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			}))
		}
	}
	pools, err := u.AddressPools.List(ctx, metav1.ListOptions{})
	if ignoreNotFound(err) != nil {
		return errors.Join(append(errs, err)...)
	}
	if err == nil {
		for i := range pools.Items {
			pool := &pools.Items[i]
			errs = append(errs, release(&pool.ObjectMeta, v1alpha1.AddressPoolFinalizer, func(patch []byte) error {
				_, err := u.AddressPools.Patch(ctx, pool.Name, types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			}))
		}
	}
	return errors.Join(errs...)
}

// release takes a finalizer off an object. The patch replaces the list, so it is good for
// this version of the object only.
func release(o *metav1.ObjectMeta, finalizer string, write func([]byte) error) error {
	if !slices.Contains(o.Finalizers, finalizer) {
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(o.Finalizers), func(name string) bool { return name == finalizer })
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": o.ResourceVersion, "finalizers": kept}})
	if err != nil {
		return err
	}
	return ignoreNotFound(write(patch))
}

// await looks until nothing is left.
func (u *uninstall) await(ctx context.Context, look func() (left []string, err error)) error {
	for {
		left, err := look()
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("not done in time: %s", strings.Join(left, "; ")), err)
		case <-time.After(u.pause):
		}
	}
}

// ignoreNotFound is for what is gone, and for kinds that the cluster does not know.
func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
