package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/cluster/clientset"
	"github.com/portway-dev/portway/topology"
)

func newNodesCommand() *cobra.Command {
	var kubeconfig, namespace string
	var wait time.Duration
	command := &cobra.Command{
		Use:   "nodes",
		Short: "Print what the agents say of their nodes; fails where something is wrong",
		Long: "Print what the agents say of their nodes: version, backend, how many Gateways are in the kernel, and what they\n" +
			"found. Exits with 1 when an agent on a ready node is missing, not scheduled, not ready or has Gateways that it could\n" +
			"not program, when no agent runs, or when a GatewayClass of ours is not accepted.",
		Example: "  portwayctl nodes --kubeconfig ~/.kube/config",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			clients, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), wait+readLimit)
			defer cancel()
			deadline := time.Now().Add(wait)
			for {
				f, err := readFleet(ctx, clients, namespace)
				if err == nil && len(f.problems()) == 0 || !time.Now().Before(deadline) {
					if err != nil {
						return err
					}
					return f.print(c.OutOrStdout())
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Second):
				}
			}
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "",
		"file that says how to reach the API server (default: as kubectl does)")
	command.Flags().StringVar(&namespace, "namespace", "portway-system", "namespace of the agents")
	command.Flags().DurationVar(&wait, "wait", 0, "for how long to look again while something is wrong")
	return command
}

// readLimit is what one look at a cluster may take.
const readLimit = 30 * time.Second

// fleet is what the API server has about the nodes.
type fleet struct {
	namespace string
	nodes     []corev1.Node     // by name
	agents    *appsv1.DaemonSet // nil: there is none
	// pods are those of agents, by the node they run on or wait for.
	pods    map[string]*corev1.Pod
	leases  map[string]*coordinationv1.Lease
	reports map[string]*v1alpha1.NodeReport
	classes []gatewayv1.GatewayClass // ours
}

func readFleet(ctx context.Context, c clientset.Clients, namespace string) (*fleet, error) {
	var all metav1.ListOptions
	nodes, err1 := c.Core.CoreV1().Nodes().List(ctx, all)
	pods, err2 := c.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentPods})
	leases, err3 := c.Core.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.AgentLabel})
	reports, err4 := c.NodeReports.List(ctx, all)
	classes, err5 := c.Gateway.GatewayV1().GatewayClasses().List(ctx, all)
	agents, err6 := c.Core.AppsV1().DaemonSets(namespace).Get(ctx, agentName, metav1.GetOptions{})
	if err := errors.Join(err1, err2, err3, err4, ignoreNotFound(err5), ignoreNotFound(err6)); err != nil {
		return nil, fmt.Errorf("read the cluster: %w", err)
	}
	f := &fleet{
		namespace: namespace, nodes: nodes.Items, pods: map[string]*corev1.Pod{},
		leases: map[string]*coordinationv1.Lease{}, reports: map[string]*v1alpha1.NodeReport{},
	}
	slices.SortFunc(f.nodes, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	f.addPods(pods.Items)
	if err6 == nil {
		f.agents = agents
	}
	for i := range leases.Items {
		f.leases[strings.TrimPrefix(leases.Items[i].Name, cluster.AgentLeasePrefix)] = &leases.Items[i]
	}
	for i := range reports.Items {
		f.reports[reports.Items[i].Name] = &reports.Items[i]
	}
	if err5 == nil {
		for _, class := range classes.Items {
			if class.Spec.ControllerName == topology.ControllerName {
				f.classes = append(f.classes, class)
			}
		}
	}
	return f, nil
}

// addPods adds the pods of agents. Those that end do not count, but where a node is not ready
// they do not end before it is, and nothing takes their place.
func (f *fleet) addPods(pods []corev1.Pod) {
	ready := map[string]bool{}
	for i := range f.nodes {
		ready[f.nodes[i].Name] = nodeReady(&f.nodes[i])
	}
	for i := range pods {
		pod := &pods[i]
		if node := nodeOf(pod); pod.DeletionTimestamp == nil || !ready[node] && f.pods[node] == nil {
			f.pods[node] = pod
		}
	}
}

// problem returns what is wrong with a node, empty if nothing is.
func (f *fleet) problem(node *corev1.Node) string {
	pod, report := f.pods[node.Name], f.reports[node.Name]
	switch {
	case !nodeReady(node): // nothing is expected of it
		return ""
	case pod == nil && report == nil: // nor of one that no agent was ever meant for
		return ""
	case pod == nil:
		return "no agent runs, and its NodeReport is there: its rules stand and follow nothing; let DaemonSet " + agentName +
			" select the node, or run portway-agent --cleanup there"
	case pod.Spec.NodeName == "":
		return "pod " + pod.Name + " is not scheduled: " + unscheduled(pod)
	case !podReady(pod):
		return "pod " + pod.Name + " is not ready"
	case f.leases[node.Name] == nil:
		return "no Lease " + cluster.AgentLeasePrefix + node.Name
	case report == nil:
		return "no NodeReport"
	case report.Report.BootID != node.Status.NodeInfo.BootID:
		return "its NodeReport is from before the node booted"
	case report.Report.Failing > 0:
		text := fmt.Sprintf("%d Gateways are not programmed", report.Report.Failing)
		if len(report.Report.Errors) > 0 {
			text += fmt.Sprintf(", %s: %s", report.Report.Errors[0].Gateway, report.Report.Errors[0].Message)
		}
		return text
	}
	return ""
}

// agentsMissing returns what the DaemonSet of the agents has not come to.
func (f *fleet) agentsMissing() []string {
	if f.agents == nil {
		return []string{"DaemonSet " + f.namespace + "/" + agentName + " is missing: nobody starts agents"}
	}
	if len(f.pods) == 0 {
		return []string{"no agent runs"}
	}
	var without []string
	missing := int(f.agents.Status.DesiredNumberScheduled)
	for i := range f.nodes {
		switch node := &f.nodes[i]; {
		case f.pods[node.Name] != nil:
			missing--
		case nodeReady(node):
			without = append(without, node.Name)
		}
	}
	if missing > 0 && len(without) > 0 {
		return []string{fmt.Sprintf("DaemonSet %s/%s wants %d pods and has %d fewer; of the ready nodes %s have none; kubectl -n %s describe daemonset %s says why",
			f.namespace, agentName, f.agents.Status.DesiredNumberScheduled, missing, strings.Join(without, ", "), f.namespace, agentName)}
	}
	return nil
}

// problems returns everything that is wrong.
func (f *fleet) problems() []string {
	problems := f.agentsMissing()
	for i := range f.nodes {
		if problem := f.problem(&f.nodes[i]); problem != "" {
			problems = append(problems, "node "+f.nodes[i].Name+": "+problem)
		}
	}
	for i := range f.classes {
		accepted := meta.FindStatusCondition(f.classes[i].Status.Conditions, string(gatewayv1.GatewayClassConditionStatusAccepted))
		switch {
		case accepted == nil:
			problems = append(problems, "GatewayClass "+f.classes[i].Name+" has no status: does the controller run?")
		case accepted.Status != metav1.ConditionTrue:
			problems = append(problems, "GatewayClass "+f.classes[i].Name+" is not accepted: "+accepted.Message)
		}
	}
	return problems
}

// print prints a table of the nodes, and below it what their agents found. It returns
// what is wrong.
func (f *fleet) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := []string{"NODE\tREADY\tAGENT\tBACKEND\tGATEWAYS\tFAILING\tFINDINGS"}
	var findings []string
	for i := range f.nodes {
		node := &f.nodes[i]
		ready := "no"
		if nodeReady(node) {
			ready = "yes"
		}
		report := f.reports[node.Name]
		if report == nil {
			rows = append(rows, fmt.Sprintf("%s\t%s\t-\t-\t-\t-\t-", node.Name, ready))
			continue
		}
		r := &report.Report
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%d\t%d", node.Name, ready, r.AgentVersion, r.Backend, r.Gateways, r.Failing, len(r.Findings)))
		for _, finding := range r.Findings {
			findings = append(findings, fmt.Sprintf("%s: %s: %s", node.Name, finding.Reason, finding.Message))
		}
	}
	if _, err := fmt.Fprintln(w, strings.Join(rows, "\n")); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, finding := range findings {
		fmt.Fprintln(out, finding)
	}
	if len(f.classes) == 0 {
		fmt.Fprintln(out, "No GatewayClass is ours: no Gateway will be, until one has spec.controllerName "+topology.ControllerName)
	}
	if problems := f.problems(); len(problems) > 0 {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// nodeOf returns the node that a pod of a DaemonSet runs on, or else the one it is meant for.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return pod.Spec.NodeName
	}
	required := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// unscheduled returns what the scheduler says of a pod.
func unscheduled(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	return "the scheduler has not looked at it"
}
