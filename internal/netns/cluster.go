package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

// PodNetwork is how the pods of a Cluster are attached to their node. Its zero
// value is a point-to-point link per pod (Calico, the cloud providers' own).
type PodNetwork struct {
	// Bridged puts all pods of a node on one bridge (CNI bridge, flannel).
	Bridged bool
	// Filter has bridged packets pass the node's rules (br_netfilter), which
	// Kubernetes asks for of such networks.
	Filter bool
	// Hairpin lets the bridge send a pod's packet back to that pod.
	Hairpin bool
}

// String returns a name for subtests.
func (p PodNetwork) String() string {
	name := "routed"
	if p.Bridged {
		name = "bridged"
	}
	if p.Bridged && !p.Filter {
		name += "-unfiltered"
	}
	if p.Hairpin {
		name += "-hairpin"
	}
	return name
}

// Machine is a namespace with the address of each family it is reached by.
type Machine struct {
	*Namespace
	Addr4, Addr6 netip.Addr
}

// Addr returns the address of the same family as another.
func (m Machine) Addr(family netip.Addr) netip.Addr {
	if family.Is4() {
		return m.Addr4
	}
	return m.Addr6
}

// Addrs returns both addresses.
func (m Machine) Addrs() []netip.Addr { return []netip.Addr{m.Addr4, m.Addr6} }

// ClusterNode is a node of a Cluster and its pods.
type ClusterNode struct {
	Machine
	Pods []Machine

	number byte
	chains byte // pods behind routers
}

// Cluster is a few nodes on one network with pods that reach each other without
// translation, and a client outside. All routes lead to all pods from everywhere:
// an answer that should have passed a node, and did not, arrives with the wrong
// address instead of not at all.
//
//	client ── edge ── router ──┬── node-1 ──┬── pod-1a
//	                           │            └── pod-1b
//	                           ├── node-2 ──┬── …
//	                           └── node-3
type Cluster struct {
	Client Machine
	// Edge and Router lead to the client, over their links "router" and "edge".
	Edge, Router *Namespace
	Nodes        []*ClusterNode

	pods PodNetwork
	lan  *Namespace
	site
}

// Parts of a Cluster's addresses that nobody needs to know.
var (
	routerAddr4, routerAddr6 = netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("2001:db8::fe")
	inner4, inner6           = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:fab::1")
	outer4, outer6           = netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8:fab::2")
	edgeAddr4, edgeAddr6     = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:c::1")
)

// nodeAddrs are those of a node; number 254 is free for the router.
func nodeAddrs(number byte) (netip.Addr, netip.Addr) {
	return netip.AddrFrom4([4]byte{192, 0, 2, number}), netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: number})
}

// podAddrs are those of a pod; number 1 is the node's own among its pods.
func podAddrs(node, number byte) (netip.Addr, netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 244, node, number}),
		netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x02, 0x44, 0, node, 15: number})
}

// NewCluster builds a Cluster of as many nodes, with as many pods on each. Nodes
// are called node-1 and so on, pods pod-1a, pod-1b and so on. The caller closes it.
func NewCluster(network PodNetwork, nodes, pods int) (*Cluster, error) {
	c := &Cluster{pods: network}
	err := c.addOutside()
	for number := 1; number <= nodes && err == nil; number++ {
		err = c.addNode(byte(number), pods)
	}
	if err == nil {
		err = c.addRoutes()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build cluster: %w", err), c.Close())
	}
	return c, nil
}

// ClusterForTest builds a Cluster for a test and closes it at its end. All of it
// is dumped to the test's log when the test failed.
func ClusterForTest(tb testing.TB, network PodNetwork, nodes, pods int) *Cluster {
	tb.Helper()
	Require(tb)
	if network.Filter {
		requireFilter(tb)
	}
	c, err := NewCluster(network, nodes, pods)
	if err != nil {
		tb.Fatal(err)
	}
	c.closeAfter(tb)
	return c
}

// addOutside makes the client, what leads to it, and the network of the nodes.
func (c *Cluster) addOutside() (err error) {
	c.Client.Addr4, c.Client.Addr6 = ClientAddr4, ClientAddr6
	if c.Client.Namespace, err = c.open("client"); err != nil {
		return err
	}
	if c.Edge, err = c.router("edge"); err != nil {
		return err
	}
	if c.Router, err = c.router("router"); err != nil {
		return err
	}
	if c.lan, err = c.open("lan"); err != nil {
		return err
	}
	return errors.Join(
		attachRouted(c.Edge, "client", c.Client, edgeAddr4, edgeAddr6),
		Connect(c.Edge, "router", c.Router, "edge"),
		c.Router.AddAddress("edge", netip.PrefixFrom(inner4, 24), netip.PrefixFrom(inner6, 64)),
		c.Edge.AddAddress("router", netip.PrefixFrom(outer4, 24), netip.PrefixFrom(outer6, 64)),
		c.Edge.AddRoute(everything4, inner4, "router"),
		c.Edge.AddRoute(everything6, inner6, "router"),
		c.Router.AddRoute(clientNet4, outer4, "edge"),
		c.Router.AddRoute(clientNet6, outer6, "edge"),
		Connect(c.Router, "eth0", c.lan, "router"),
		c.lan.FilterBridged(false),
		c.lan.AddBridge("lan", "router"),
		c.Router.AddAddress("eth0", netip.PrefixFrom(routerAddr4, 24), netip.PrefixFrom(routerAddr6, 64)),
	)
}

// bridge is the name of the bridge of a node's pods.
const bridge = "cni0"

func (c *Cluster) addNode(number byte, pods int) error {
	n, err := c.router(fmt.Sprintf("node-%d", number))
	if err != nil {
		return err
	}
	node := &ClusterNode{number: number}
	node.Namespace = n
	node.Addr4, node.Addr6 = nodeAddrs(number)
	c.Nodes = append(c.Nodes, node)
	err = errors.Join(
		Connect(n, "eth0", c.lan, n.name),
		c.lan.attach(n.name, "lan", false),
		n.AddAddress("eth0", netip.PrefixFrom(node.Addr4, 24), netip.PrefixFrom(node.Addr6, 64)),
		n.AddRoute(everything4, routerAddr4, "eth0"),
		n.AddRoute(everything6, routerAddr6, "eth0"),
	)
	if err == nil && c.pods.Bridged {
		gateway4, gateway6 := podAddrs(number, 1)
		err = errors.Join(
			n.FilterBridged(c.pods.Filter),
			n.AddBridge(bridge),
			n.AddAddress(bridge, netip.PrefixFrom(gateway4, 24), netip.PrefixFrom(gateway6, 64)),
		)
	}
	for i := 0; i < pods && err == nil; i++ {
		err = c.addPod(node, byte(i))
	}
	return err
}

func (c *Cluster) addPod(node *ClusterNode, index byte) error {
	n, err := c.open(fmt.Sprintf("pod-%d%c", node.number, 'a'+index))
	if err != nil {
		return err
	}
	pod := Machine{Namespace: n}
	pod.Addr4, pod.Addr6 = podAddrs(node.number, 10+index)
	node.Pods = append(node.Pods, pod)
	gateway4, gateway6 := podAddrs(node.number, 1)
	if !c.pods.Bridged {
		return attachRouted(node.Namespace, n.name, pod, gateway4, gateway6)
	}
	return errors.Join(
		Connect(n, "eth0", node.Namespace, n.name),
		node.attach(n.name, bridge, c.pods.Hairpin),
		n.AddAddress("eth0", netip.PrefixFrom(pod.Addr4, 24), netip.PrefixFrom(pod.Addr6, 64)),
		n.AddRoute(everything4, gateway4, "eth0"),
		n.AddRoute(everything6, gateway6, "eth0"),
	)
}

// addRoutes tells everybody on the network of the nodes where whose pods are.
func (c *Cluster) addRoutes() error {
	var errs []error
	for _, node := range c.Nodes {
		pod4, pod6 := podAddrs(node.number, 0)
		pods4, pods6 := netip.PrefixFrom(pod4, 24), netip.PrefixFrom(pod6, 64)
		errs = append(errs, c.Router.AddRoute(pods4, node.Addr4, "eth0"), c.Router.AddRoute(pods6, node.Addr6, "eth0"))
		for _, other := range c.Nodes {
			if other != node {
				errs = append(errs, other.AddRoute(pods4, node.Addr4, "eth0"), other.AddRoute(pods6, node.Addr6, "eth0"))
			}
		}
	}
	return errors.Join(errs...)
}

// attachRouted connects a machine's eth0 to a router by a link of its own, with
// host routes and no prefix in common, as point-to-point CNI plugins do. The
// router's addresses on that link are given.
func attachRouted(router *Namespace, link string, m Machine, router4, router6 netip.Addr) error {
	return errors.Join(
		Connect(m.Namespace, "eth0", router, link),
		router.AddAddress(link, host(router4), host(router6)),
		router.AddRoute(host(m.Addr4), netip.Addr{}, link),
		router.AddRoute(host(m.Addr6), netip.Addr{}, link),
		m.AddAddress("eth0", host(m.Addr4), host(m.Addr6)),
		defaultRoutes(m.Namespace, router4, router6),
	)
}

// AddPodBehind adds a pod that is behind as many routers as there are MTUs but one;
// each is the MTU of one link on the way from the node to the pod. It is no
// neighbour of the node's other pods, whatever their network.
func (c *Cluster) AddPodBehind(node *ClusterNode, name string, mtus ...int) (Machine, error) {
	node.chains++
	n, err := c.open(name)
	if err != nil {
		return Machine{}, err
	}
	pod := Machine{Namespace: n}
	pod.Addr4, pod.Addr6 = podAddrs(node.number, 100+node.chains)
	left := node.Namespace
	for i, mtu := range mtus {
		// The two ends of a link have neighbouring addresses.
		chain, end := node.number<<4|node.chains, byte(2*i+2)
		near4 := netip.AddrFrom4([4]byte{10, 245, chain, end})
		near6 := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x02, 0x45, 0, chain, 15: end})
		link := fmt.Sprintf("down%d", node.chains)
		if i == len(mtus)-1 {
			err := errors.Join(attachRouted(left, link, pod, near4, near6), SetMTU(mtu, left, link, n, "eth0"))
			return pod, err
		}
		right, err := c.router(fmt.Sprintf("%s-router-%d", name, i+1))
		if err != nil {
			return Machine{}, err
		}
		hop := Machine{right, near4.Next(), near6.Next()}
		err = errors.Join(
			attachRouted(left, link, hop, near4, near6),
			SetMTU(mtu, left, link, right, "eth0"),
			left.AddRoute(host(pod.Addr4), hop.Addr4, link),
			left.AddRoute(host(pod.Addr6), hop.Addr6, link),
		)
		if err != nil {
			return Machine{}, err
		}
		left = right
	}
	return Machine{}, fmt.Errorf("add pod %s: no links", name)
}

// Serve starts a TCP and a UDP server on a port of every node and pod there is, and
// of the client, for both families. They answer with the name of the namespace.
func (c *Cluster) Serve(port uint16) error {
	machines := []Machine{c.Client}
	for _, node := range c.Nodes {
		machines = append(append(machines, node.Machine), node.Pods...)
	}
	return c.ServeOn(port, machines...)
}

// ServeOn does what Serve does, on the machines given.
func (c *Cluster) ServeOn(port uint16, machines ...Machine) error {
	for _, m := range machines {
		if err := c.serve(m.Namespace, port, m.Addrs()...); err != nil {
			return err
		}
	}
	return nil
}
