package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

// Addresses of a Lab. The documentation prefixes of RFC 5737 and RFC 3849 keep
// them apart from anything that could be reached.
var (
	NodeAddr4   = netip.MustParseAddr("192.0.2.1")
	NodeAddr6   = netip.MustParseAddr("2001:db8::1")
	ClientAddr4 = netip.MustParseAddr("198.51.100.10")
	ClientAddr6 = netip.MustParseAddr("2001:db8:c::10")
	// FabricAddr4 and FabricAddr6 are the node's own on the link to the far node:
	// what a far endpoint sees of masqueraded flows.
	FabricAddr4 = netip.MustParseAddr("203.0.113.1")
	FabricAddr6 = netip.MustParseAddr("2001:db8:fab::1")
)

var (
	clientNet4, clientNet6 = netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:c::/64")
	farAddr4, farAddr6     = netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8:fab::2")
	farPods4, farPods6     = netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("2001:db8:244:2::/64")
	everything4            = netip.MustParsePrefix("0.0.0.0/0")
	everything6            = netip.MustParsePrefix("::/0")
)

// PodSpec asks for one backend namespace.
type PodSpec struct {
	Name   string
	Number uint8 // the last part of its addresses, 2 … 255
	Far    bool  // behind the far node instead of the node
}

// Pod is one backend namespace.
type Pod struct {
	*Namespace
	Addr4, Addr6 netip.Addr
	Far          bool
}

// Lab is a client, a node and backends, with links and routes between them but no
// rules. The client reaches the node's addresses NodeAddr4 and NodeAddr6; every
// pod is routed by the node over a link of its own. Replies of a far pod come
// back only when the node masqueraded the flow: the far node has no route to the
// client.
type Lab struct {
	Client, Node *Namespace
	Pods         []*Pod

	far *Namespace // nil without far pods
	site
}

// NewLab builds a Lab. The caller closes it.
func NewLab(pods ...PodSpec) (*Lab, error) {
	lab := &Lab{}
	if err := lab.build(pods); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab: %w", err), lab.Close())
	}
	return lab, nil
}

func (l *Lab) build(pods []PodSpec) (err error) {
	if l.Node, err = l.router("node"); err != nil {
		return err
	}
	if err := l.addClient(); err != nil {
		return err
	}
	for _, spec := range pods {
		router := l.Node
		if spec.Far {
			if err := l.addFarNode(); err != nil {
				return err
			}
			router = l.far
		}
		if err := l.addPod(router, spec); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) addClient() (err error) {
	if l.Client, err = l.open("client"); err != nil {
		return err
	}
	return errors.Join(
		Connect(l.Client, "eth0", l.Node, "uplink"),
		l.Node.AddAddress("uplink", host(NodeAddr4), host(NodeAddr6)),
		l.Node.AddRoute(clientNet4, netip.Addr{}, "uplink"),
		l.Node.AddRoute(clientNet6, netip.Addr{}, "uplink"),
		l.Client.AddAddress("eth0", host(ClientAddr4), host(ClientAddr6)),
		defaultRoutes(l.Client, NodeAddr4, NodeAddr6),
	)
}

// defaultRoutes sends everything from eth0 to a router that is on that link but
// in no prefix of it, as point-to-point CNI plugins do.
func defaultRoutes(n *Namespace, router4, router6 netip.Addr) error {
	return errors.Join(
		n.AddRoute(host(router4), netip.Addr{}, "eth0"),
		n.AddRoute(host(router6), netip.Addr{}, "eth0"),
		n.AddRoute(everything4, router4, "eth0"),
		n.AddRoute(everything6, router6, "eth0"),
	)
}

func (l *Lab) addFarNode() (err error) {
	if l.far != nil {
		return nil
	}
	if l.far, err = l.router("far-node"); err != nil {
		return err
	}
	return errors.Join(
		Connect(l.Node, "fabric", l.far, "fabric"),
		l.Node.AddAddress("fabric", netip.PrefixFrom(FabricAddr4, 24), netip.PrefixFrom(FabricAddr6, 64)),
		l.far.AddAddress("fabric", netip.PrefixFrom(farAddr4, 24), netip.PrefixFrom(farAddr6, 64)),
		l.Node.AddRoute(farPods4, farAddr4, "fabric"),
		l.Node.AddRoute(farPods6, farAddr6, "fabric"),
	)
}

func (l *Lab) addPod(router *Namespace, spec PodSpec) error {
	subnet := byte(1)
	if spec.Far {
		subnet = 2
	}
	addr4 := func(number byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, subnet, number}) }
	addr6 := func(number byte) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x02, 0x44, 0, subnet, 15: number})
	}
	n, err := l.open(spec.Name)
	if err != nil {
		return err
	}
	pod := &Pod{Namespace: n, Addr4: addr4(spec.Number), Addr6: addr6(spec.Number), Far: spec.Far}
	l.Pods = append(l.Pods, pod)
	link := fmt.Sprintf("pod%d", spec.Number)
	return attachRouted(router, link, Machine{n, pod.Addr4, pod.Addr6}, addr4(1), addr6(1))
}

// Serve starts a TCP and a UDP server on a port of every pod, for both families.
// They answer with the name of the pod and end with Close.
func (l *Lab) Serve(port uint16) error {
	for _, pod := range l.Pods {
		if err := l.serve(pod.Namespace, port, pod.Addr4, pod.Addr6); err != nil {
			return err
		}
	}
	return nil
}

// Pod returns the pod of a name, nil when there is none.
func (l *Lab) Pod(name string) *Pod {
	for _, pod := range l.Pods {
		if pod.name == name {
			return pod
		}
	}
	return nil
}

// LabForTest builds a Lab for a test and closes it at its end. All of it is
// dumped to the test's log when the test failed.
func LabForTest(tb testing.TB, pods ...PodSpec) *Lab {
	tb.Helper()
	Require(tb)
	lab, err := NewLab(pods...)
	if err != nil {
		tb.Fatal(err)
	}
	lab.closeAfter(tb)
	return lab
}
