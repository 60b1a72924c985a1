package netns_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// firstPort is the listener of the first target of a clusterFixture, with the next
// on the ports behind it.
const firstPort = 8000

// podNetworks are those in which everything works but what bridgeBreaks names.
var podNetworks = []netns.PodNetwork{
	{},
	{Bridged: true, Filter: true},
	{Bridged: true, Filter: true, Hairpin: true},
	{Bridged: true},
}

// target is a server as an endpoint: a pod, or a node itself (hostNetwork).
type target struct {
	netns.Machine
	node *netns.ClusterNode // where it runs
	port uint16             // where it listens
}

// clusterFixture is a cluster with servers everywhere and a programmer on each node.
type clusterFixture struct {
	*netns.Cluster
	t       *testing.T
	backend backend
	targets []target
	nodes   map[*netns.ClusterNode]*nodeRules
}

type nodeRules struct {
	programmer programmer
	state      *rules.State
}

func newClusterFixture(t *testing.T, b backend, network netns.PodNetwork, nodes int) *clusterFixture {
	t.Helper()
	f := &clusterFixture{
		Cluster: netns.ClusterForTest(t, network, nodes, 2), t: t, backend: b,
		nodes: map[*netns.ClusterNode]*nodeRules{},
	}
	if err := f.Serve(podPort); err != nil {
		t.Fatal(err)
	}
	for _, node := range f.Nodes {
		f.targets = append(f.targets, target{node.Machine, node, podPort})
		for _, pod := range node.Pods {
			f.targets = append(f.targets, target{pod, node, podPort})
		}
		f.start(node)
	}
	// On a node that listens on the listener's own port, nothing is left to translate.
	for _, node := range f.Nodes {
		port := firstPort + uint16(len(f.targets))
		f.targets = append(f.targets, target{node.Machine, node, port})
		if err := f.ServeOn(port, node.Machine); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// start opens a programmer on a node, as a starting agent does.
func (f *clusterFixture) start(node *netns.ClusterNode) {
	f.t.Helper()
	r := &nodeRules{state: &rules.State{}}
	err := node.Do(func() (err error) {
		r.programmer, err = f.backend.open()
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.nodes[node] = r
	f.t.Cleanup(func() {
		if f.t.Failed() {
			f.t.Logf("--- State of %s\n%s", node.Name(), netns.DumpState(r.state))
		}
		if err := r.programmer.Close(); err != nil {
			f.t.Error(err)
		}
	})
}

// listener is the port on which all nodes serve a target after serveAll.
func (f *clusterFixture) listener(to target) uint16 {
	return firstPort + uint16(slices.Index(f.targets, to))
}

// target returns the one of a name.
func (f *clusterFixture) target(name string) target {
	f.t.Helper()
	for _, to := range f.targets {
		if to.Name() == name {
			return to
		}
	}
	f.t.Fatalf("no %s in this cluster", name)
	return target{}
}

// serveAll has every node serve each target on a port of its own, see listener.
func (f *clusterFixture) serveAll() {
	f.t.Helper()
	for _, node := range f.Nodes {
		frontends := map[rules.FrontendKey]*rules.Frontend{}
		for _, to := range f.targets {
			f.serveOn(frontends, node, f.listener(to), to)
		}
		f.program(node, frontends)
	}
}

// serveOn adds Frontends for both addresses of a node and both protocols.
func (f *clusterFixture) serveOn(frontends map[rules.FrontendKey]*rules.Frontend, node *netns.ClusterNode, port uint16, targets ...target) {
	for _, addr := range node.Addrs() {
		for _, protocol := range protocols {
			frontend := &rules.Frontend{Owner: rules.Owner{Gateway: gateway, Listener: "listener", Route: "default/route"}}
			if protocol == rules.UDP {
				frontend.Select = rules.FlowHash
			}
			backend := rules.Backend{Ref: "default/service", Weight: 1}
			for _, to := range targets {
				backend.Endpoints = append(backend.Endpoints, rules.Endpoint{
					Addr: netip.AddrPortFrom(to.Addr(addr), to.port), Name: "default/" + to.Name(), Local: to.node == node,
				})
			}
			frontend.Backends = []rules.Backend{backend}
			frontends[rules.FrontendKey{Addr: addr, Protocol: protocol, Port: port}] = frontend
		}
	}
}

// program brings Frontends, and no others, into the kernel of a node.
func (f *clusterFixture) program(node *netns.ClusterNode, frontends map[rules.FrontendKey]*rules.Frontend) {
	f.t.Helper()
	r := f.nodes[node]
	r.state = rules.NewState(frontends, map[string]string{gateway: "1:test"})
	if err := r.state.Validate(); err != nil {
		f.t.Fatal(err)
	}
	var results rules.Results
	err := node.Do(func() (err error) {
		results, err = r.programmer.Program(f.t.Context(), r.state)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	for gateway, err := range results.Errors {
		f.t.Fatalf("gateway %s: %v", gateway, err)
	}
}

// cleanup removes the rules of a node as --cleanup does.
func (f *clusterFixture) cleanup(node *netns.ClusterNode) {
	f.t.Helper()
	err := node.Do(func() error {
		return f.nodes[node].programmer.Cleanup(context.WithoutCancel(f.t.Context()))
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// addresses are all that a namespace has of a family.
func addresses(t *testing.T, n *netns.Namespace, family netip.Addr) []netip.Addr {
	t.Helper()
	var addrs []netip.Addr
	err := n.Do(func() error {
		id := netlink.FAMILY_V4
		if family.Is6() {
			id = netlink.FAMILY_V6
		}
		list, err := netlink.AddrList(nil, id)
		for _, entry := range list {
			if a, ok := netip.AddrFromSlice(entry.IP); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}

// loadRules has a namespace keep rules of another program.
func loadRules(t *testing.T, n *netns.Namespace, ruleset string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.nft")
	writeFile(t, file, ruleset)
	nftIn(t, n, "-f", file)
}

// tracked are the flows in the connection tracking table of a namespace.
func tracked(t *testing.T, n *netns.Namespace, family netip.Addr) []*netlink.ConntrackFlow {
	t.Helper()
	id := netlink.InetFamily(unix.AF_INET)
	if family.Is6() {
		id = unix.AF_INET6
	}
	var flows []*netlink.ConntrackFlow
	err := n.Do(func() (err error) {
		flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return flows
}
