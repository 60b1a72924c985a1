package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/tools/clientcmd"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/cluster/clientset"
	"github.com/portway-dev/portway/topology"
)

func newAddressesCommand() *cobra.Command {
	var kubeconfig string
	command := &cobra.Command{
		Use:   "addresses",
		Short: "Print what of AddressPools is in use, and which node announces it since when",
		Long: "Print the AddressPools of a cluster, the addresses that Gateways have of them, and for those that\n" +
			"nodes announce on their network (announcement Layer2) which node does, and since when. Needs the right to\n" +
			"list gatewayclasses and gateways, and addresspools, gatewayparameters and nodereports of portway.dev.",
		Example: "  portwayctl addresses --kubeconfig ~/.kube/config",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			clients, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			s, reports, err := listAddresses(c.Context(), clients)
			if err != nil {
				return err
			}
			return printAddresses(c.OutOrStdout(), s, reports, time.Now())
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "",
		"file that says how to reach the API server (default: as kubectl does)")
	return command
}

// connect returns clients for the cluster that kubectl would talk to.
func connect(kubeconfig string) (clientset.Clients, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return clientset.Clients{}, fmt.Errorf("find a cluster: %w; name one with --kubeconfig", err)
	}
	config.UserAgent = "portwayctl/" + version
	config.QPS, config.Burst = 50, 100 // a person waits for it
	return clientset.New(config)
}

// listAddresses reads everything that says who has which address.
func listAddresses(ctx context.Context, c clientset.Clients) (topology.Snapshot, []v1alpha1.NodeReport, error) {
	s := topology.Snapshot{
		GatewayClasses: map[string]*gatewayv1.GatewayClass{}, Gateways: map[types.NamespacedName]*gatewayv1.Gateway{},
		AddressPools: map[string]*v1alpha1.AddressPool{}, GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{},
	}
	var all metav1.ListOptions
	classes, err1 := c.Gateway.GatewayV1().GatewayClasses().List(ctx, all)
	gateways, err2 := c.Gateway.GatewayV1().Gateways(metav1.NamespaceAll).List(ctx, all)
	pools, err3 := c.AddressPools.List(ctx, all)
	parameters, err4 := c.GatewayParameters.List(ctx, all)
	reports, err5 := c.NodeReports.List(ctx, all)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return s, nil, fmt.Errorf("read the cluster: %w", err)
	}
	for i := range classes.Items {
		s.GatewayClasses[classes.Items[i].Name] = &classes.Items[i]
	}
	for i := range gateways.Items {
		s.Gateways[types.NamespacedName{Namespace: gateways.Items[i].Namespace, Name: gateways.Items[i].Name}] = &gateways.Items[i]
	}
	for i := range pools.Items {
		s.AddressPools[pools.Items[i].Name] = &pools.Items[i]
	}
	for i := range parameters.Items {
		s.GatewayParameters[types.NamespacedName{Namespace: parameters.Items[i].Namespace, Name: parameters.Items[i].Name}] = &parameters.Items[i]
	}
	return s, reports.Items, nil
}

// announcer is a node that says it answers for an address.
type announcer struct {
	node  string
	since time.Time
}

// printAddresses prints a table of the pools and one of the addresses in use.
func printAddresses(out io.Writer, s topology.Snapshot, reports []v1alpha1.NodeReport, now time.Time) error {
	resolution := topology.Resolve(s, topology.DefaultConfig())
	graph := resolution.Build(cluster.Assigned(resolution))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := []string{"POOL\tADDRESSES\tANNOUNCED\tASSIGNED\tAVAILABLE\tACCEPTED"}
	for _, name := range slices.Sorted(maps.Keys(graph.Pools)) {
		rows = append(rows, poolRow(graph.Pools[name], len(graph.Uses[name].Assigned)))
	}
	rows = append(rows, "", "ADDRESS\tGATEWAY\tPOOL\tNODE\tSINCE")
	holders := map[netip.Addr][]string{}
	for key, gateway := range graph.Gateways {
		for _, addr := range gateway.Assignment.Addresses {
			holders[addr] = append(holders[addr], key.String())
		}
	}
	nodes := announcersOf(reports)
	for _, name := range slices.Sorted(maps.Keys(graph.Pools)) {
		for _, addr := range graph.Uses[name].Assigned {
			slices.Sort(holders[addr])
			pool := name
			if slices.Contains(graph.Uses[name].Retained, addr) {
				pool += " (retained)"
			}
			rows = append(rows, addressRow(addr, holders[addr], pool, graph.Pools[name].Announced.Layer2, nodes[addr], now))
		}
	}
	if _, err := fmt.Fprintln(w, strings.Join(rows, "\n")); err != nil {
		return err
	}
	return w.Flush()
}

func poolRow(pool *topology.Pool, assigned int) string {
	announced := "by others"
	if pool.Announced.Layer2 {
		announced = "Layer2"
	}
	accepted := string(pool.Conditions[0].Status)
	if !pool.Accepted {
		accepted += " (" + pool.Conditions[0].Reason + ")"
	}
	texts := make([]string, 0, len(pool.Source.Spec.Addresses))
	for _, entry := range pool.Source.Spec.Addresses {
		texts = append(texts, string(entry))
	}
	return fmt.Sprintf("%s\t%s\t%s\t%d\t%s\t%s", pool.Name, strings.Join(texts, ","), announced, assigned, pool.Source.Status.Available, accepted)
}

func addressRow(addr netip.Addr, gateways []string, pool string, announced bool, by []announcer, now time.Time) string {
	nodes, since := "-", "-"
	switch {
	case len(by) > 0: // several while the network is split
		var names, ages []string
		for _, a := range by {
			names, ages = append(names, a.node), append(ages, duration.HumanDuration(now.Sub(a.since)))
		}
		nodes, since = strings.Join(names, ","), strings.Join(ages, ",")
	case !announced:
		nodes = "all"
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", addr, strings.Join(gateways, ","), pool, nodes, since)
}

// announcersOf returns who announces each address, by the node's name.
func announcersOf(reports []v1alpha1.NodeReport) map[netip.Addr][]announcer {
	out := map[netip.Addr][]announcer{}
	slices.SortFunc(reports, func(a, b v1alpha1.NodeReport) int { return strings.Compare(a.Name, b.Name) })
	for i := range reports {
		for _, group := range reports[i].Report.Announcing {
			for _, text := range group.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil {
					out[addr] = append(out[addr], announcer{reports[i].Name, group.Since.Time})
				}
			}
		}
	}
	return out
}
