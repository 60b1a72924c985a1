package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	cleanerName    = "portway-cleanup"
	componentLabel = "app.kubernetes.io/component"
	cleanerLabel   = "cleanup-node"
	controllerPods = "app.kubernetes.io/name=portway," + componentLabel + "=controller"
	agentPods      = "app.kubernetes.io/name=portway," + componentLabel + "=agent"
	cleanerPods    = "app.kubernetes.io/name=portway," + componentLabel + "=" + cleanerLabel
)

// cleanerPatience is how long a node with rules may be without a pod that cleans up there,
// before it is given up: no pod is made where none can be.
const cleanerPatience = time.Minute

func newCleanupCommand() *cobra.Command {
	var kubeconfig string
	var timeout time.Duration
	u := uninstall{pause: time.Second}
	command := &cobra.Command{
		Use:   "cleanup",
		Short: "Take everything of Portway out of the nodes and the cluster, before it is uninstalled",
		Long: "Take everything of Portway out of the nodes and the cluster, before it is uninstalled. The controller and the agents\n" +
			"are deleted; so are Services of Gateways in mode LoadBalancer; DaemonSet portway-cleanup, made of that of the agents,\n" +
			"runs portway-agent --cleanup on each node; then NodeReports, Leases and our finalizers are removed. The API objects\n" +
			"of users and the CRDs stay. It can be run again at any time; what it has deleted so far is brought back by\n" +
			"installing anew. Helm uninstall and deploy/cleanup.yaml do this.",
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
	command.Flags().BoolVar(&u.made, "made", false,
		"DaemonSet portway-cleanup was made for this run already, as helm and deploy/cleanup.yaml do")
	command.Flags().DurationVar(&timeout, "timeout", 4*time.Minute, "how long all of it may take")
	return command
}

// uninstall takes Portway out of a cluster, in an order in which nobody puts back what
// was removed.
type uninstall struct {
	clientset.Clients
	namespace string
	made      bool          // somebody has made the cleaner for this run
	pause     time.Duration // between looks
	out       io.Writer
	told      string // the last thing printed about what is left
}

// run retries each step for as long as there is time: nobody else would.
func (u *uninstall) run(ctx context.Context) error {
	if err := u.check(ctx); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) (left []string, err error)
	}{
		{"prepare DaemonSet " + cleanerName, u.ensureCleaner},
		{"delete the controller", u.deleteController},
		{"delete the Services of Gateways", u.deleteServices},
		{"delete the agents", u.deleteAgents},
		{"clean up the nodes", u.cleanNodes()},
		{"remove NodeReports and Leases", nothingLeft(u.forget)},
		{"remove finalizers", nothingLeft(u.releaseAll)},
		{"delete DaemonSet " + cleanerName, u.deleteCleaner},
	} {
		if err := u.await(ctx, func() ([]string, error) { return step.do(ctx) }); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	fmt.Fprintln(u.out, "Nothing of Portway is left but its installation's other objects, which can be deleted now, and the CRDs")
	return nil
}

func nothingLeft(do func(context.Context) error) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) { return nil, do(ctx) }
}

// check refuses what would take what is said of nodes away and leave their rules.
func (u *uninstall) check(ctx context.Context) error {
	sets := u.Core.AppsV1().DaemonSets(u.namespace)
	for _, name := range []string{agentName, cleanerName} {
		if _, err := sets.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
	}
	reports, err := u.NodeReports.List(ctx, metav1.ListOptions{})
	if err != nil || len(reports.Items) == 0 {
		return ignoreNotFound(err)
	}
	return fmt.Errorf("node %s has a NodeReport, but namespace %s has no DaemonSet %s to clean up with: name the namespace of the agents, or install anew first; "+
		"where no rules are left, delete the NodeReports", reports.Items[0].Name, u.namespace, agentName)
}

// ensureCleaner makes the DaemonSet that cleans up of that of the agents. It waits until the
// agents' is gone. One of a former run has done its work and does no more.
func (u *uninstall) ensureCleaner(ctx context.Context) ([]string, error) {
	sets := u.Core.AppsV1().DaemonSets(u.namespace)
	if u.made {
		_, err := sets.Get(ctx, cleanerName, metav1.GetOptions{})
		return nil, err
	}
	agents, err := sets.Get(ctx, agentName, metav1.GetOptions{})
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	cleaner, err := cleanerOf(agents)
	if err != nil {
		return nil, err
	}
	if _, err := u.deleteCleaner(ctx); err != nil {
		return nil, err
	}
	if left, err := u.running(ctx, cleanerPods); err != nil || len(left) > 0 {
		return left, err
	}
	_, err = sets.Create(ctx, cleaner, metav1.CreateOptions{})
	return nil, err
}

func (u *uninstall) deleteController(ctx context.Context) ([]string, error) {
	err := u.Core.AppsV1().Deployments(u.namespace).Delete(ctx, controllerName, background())
	if ignoreNotFound(err) != nil {
		return nil, err
	}
	return u.running(ctx, controllerPods)
}

func (u *uninstall) deleteAgents(ctx context.Context) ([]string, error) {
	// Those of nodes that are not ready may never go; cleanNodes tells.
	return nil, ignoreNotFound(u.Core.AppsV1().DaemonSets(u.namespace).Delete(ctx, agentName, background()))
}

func (u *uninstall) deleteCleaner(ctx context.Context) ([]string, error) {
	return nil, ignoreNotFound(u.Core.AppsV1().DaemonSets(u.namespace).Delete(ctx, cleanerName, background()))
}

func background() metav1.DeleteOptions {
	return metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
}

// running names the pods that have not ended. Those of nodes that are not ready may never be
// seen to: nobody waits for them.
func (u *uninstall) running(ctx context.Context, selector string) (left []string, err error) {
	nodes, err1 := u.Core.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	pods, err2 := u.Core.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for i := range nodes.Items {
		ready[nodes.Items[i].Name] = nodeReady(&nodes.Items[i])
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && ready[pod.Spec.NodeName] {
			left = append(left, "pod "+pod.Name+" runs")
		}
	}
	return left, nil
}

func (u *uninstall) deleteServices(ctx context.Context) ([]string, error) {
	services, err := u.Core.CoreV1().Services(u.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: v1alpha1.GatewayNamespaceLabel + "," + v1alpha1.GatewayNameLabel,
	})
	if err != nil {
		return nil, err
	}
	for i := range services.Items {
		err := u.Core.CoreV1().Services(u.namespace).Delete(ctx, services.Items[i].Name, metav1.DeleteOptions{})
		if ignoreNotFound(err) != nil {
			return nil, err
		}
		fmt.Fprintf(u.out, "Deleted Service %s/%s\n", u.namespace, services.Items[i].Name)
	}
	return nil, nil
}

// cleanNodes waits until no ready node says any more that it has rules. Nodes that nothing
// can be done on are named, and not waited for.
func (u *uninstall) cleanNodes() func(context.Context) ([]string, error) {
	var began time.Time
	return func(ctx context.Context) ([]string, error) {
		if began.IsZero() {
			began = time.Now()
		}
		nodes, err := u.uncleaned(ctx, time.Since(began) > cleanerPatience)
		if err != nil || len(nodes.left) > 0 {
			return nodes.left, err
		}
		for _, reason := range nodes.givenUp {
			fmt.Fprintf(u.out, "%s: its rules stay until it boots, or portway-agent --cleanup runs there\n", reason)
		}
		return nil, nil
	}
}

// uncleaned is the nodes with rules: what is left of those that are being cleaned, and why
// others are not.
type uncleaned struct{ left, givenUp []string }

// uncleaned looks at all nodes. With impatience those that no pod cleans are given up.
func (u *uninstall) uncleaned(ctx context.Context, impatient bool) (result uncleaned, err error) {
	var all metav1.ListOptions
	nodes, err1 := u.Core.CoreV1().Nodes().List(ctx, all)
	reports, err2 := u.NodeReports.List(ctx, all)
	leases, err3 := u.Core.CoordinationV1().Leases(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.AgentLabel})
	agents, err4 := u.Core.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: agentPods})
	cleaners, err5 := u.Core.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: cleanerPods})
	if err := errors.Join(err1, ignoreNotFound(err2), err3, err4, err5); err != nil {
		return result, err
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
	for i := range agents.Items {
		if pod := &agents.Items[i]; pod.Spec.NodeName != "" {
			says[pod.Spec.NodeName] = "still runs pod " + pod.Name
		}
	}
	cleaned := map[string]bool{} // by a pod that is there
	for i := range cleaners.Items {
		cleaned[cleaners.Items[i].Spec.NodeName] = true
	}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		why, dirty := says[node.Name]
		switch {
		case !dirty:
		case !nodeReady(node):
			result.givenUp = append(result.givenUp, "Node "+node.Name+" is not ready")
		case impatient && !cleaned[node.Name]:
			result.givenUp = append(result.givenUp, "Node "+node.Name+" takes no pod of DaemonSet "+cleanerName)
		default:
			result.left = append(result.left, "node "+node.Name+" "+why)
		}
	}
	return result, nil
}

// cleanerOf makes of the agents' DaemonSet one that cleans up after them: with their rights,
// flags, volumes and image, on the same nodes.
func cleanerOf(agents *appsv1.DaemonSet) (*appsv1.DaemonSet, error) {
	i := slices.IndexFunc(agents.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == "agent" })
	if i < 0 {
		return nil, fmt.Errorf("DaemonSet %s/%s has no container agent", agents.Namespace, agents.Name)
	}
	template := agents.Spec.Template.DeepCopy()
	labels := map[string]string{"app.kubernetes.io/name": "portway", componentLabel: cleanerLabel}
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	maps.Copy(template.Labels, labels) // policies of the cluster may want the others
	cleanup := template.Spec.Containers[i]
	cleanup.Name = "cleanup"
	cleanup.Args = append(cleanup.Args, "--cleanup", "--cleanup-after="+agentName)
	cleanup.Ports, cleanup.ReadinessProbe, cleanup.LivenessProbe, cleanup.StartupProbe = nil, nil, nil, nil
	template.Spec.InitContainers = []corev1.Container{cleanup}
	template.Spec.Containers = []corev1.Container{{
		Name: "done", Image: cleanup.Image, ImagePullPolicy: cleanup.ImagePullPolicy, Command: []string{"/portwayctl", idleName},
		Resources: cleanup.Resources,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: agents.Namespace, Name: cleanerName, Labels: labels},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: *template},
	}, nil
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

// await looks until nothing is left, and says what is whenever that changes.
func (u *uninstall) await(ctx context.Context, look func() (left []string, err error)) error {
	for {
		left, err := look()
		if err == nil && len(left) == 0 {
			return nil
		}
		waiting := strings.Join(left, "; ")
		if err != nil {
			waiting = strings.TrimPrefix(waiting+"; "+err.Error(), "; ")
		}
		if waiting != u.told && ctx.Err() == nil {
			u.told = waiting
			fmt.Fprintln(u.out, "Waiting: "+waiting)
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("not done in time: "+u.told), ctx.Err())
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
