package netns_test

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// onBoth is a listener for TCP and one for UDP with the same pods.
func onBoth(port uint16, pods ...string) []listener {
	services := []service{{"a", 1, pods}}
	return []listener{{rules.TCP, port, services}, {rules.UDP, port, services}}
}

// checkPeer sends flows and checks who answered and whom that server saw.
func checkPeer(t *testing.T, from *netns.Namespace, to netip.AddrPort, name string, peer netip.Addr) {
	t.Helper()
	for _, protocol := range protocols {
		const flows = 20
		tally := count(t, from, protocol, to, flows)
		if tally.Answers[name] != flows || tally.Peers[peer] != flows {
			t.Errorf("%s from %s to %s: %s, clients seen %v; want all from %s, seen as %s",
				protocol, from.Name(), to, tally, tally.Peers, name, peer)
		}
	}
}

func TestLocalEndpointSeesClient(t *testing.T) { eachVariant(t, testLocalEndpointSeesClient) }

func testLocalEndpointSeesClient(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1")...))
	checkPeer(t, f.Client, netip.AddrPortFrom(netns.NodeAddr4, 8080), "foo-1", netns.ClientAddr4)
	checkPeer(t, f.Client, netip.AddrPortFrom(netns.NodeAddr6, 8080), "foo-1", netns.ClientAddr6)
}

func TestFarEndpointIsMasqueraded(t *testing.T) { eachVariant(t, testFarEndpointIsMasqueraded) }

func testFarEndpointIsMasqueraded(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, netns.PodSpec{Name: "far-1", Number: 10, Far: true})
	f.program(f.serving(onBoth(8080, "far-1")...))
	checkPeer(t, f.Client, netip.AddrPortFrom(netns.NodeAddr4, 8080), "far-1", netns.FabricAddr4)
	checkPeer(t, f.Client, netip.AddrPortFrom(netns.NodeAddr6, 8080), "far-1", netns.FabricAddr6)
}

func TestNearAndFarTogether(t *testing.T) { eachVariant(t, testNearAndFarTogether) }

func testNearAndFarTogether(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, netns.PodSpec{Name: "near-1", Number: 10}, netns.PodSpec{Name: "far-1", Number: 10, Far: true})
	f.program(f.serving(onBoth(8080, "near-1", "far-1")...))
	for node, addrs := range map[netip.Addr]struct{ client, fabric netip.Addr }{
		netns.NodeAddr4: {netns.ClientAddr4, netns.FabricAddr4},
		netns.NodeAddr6: {netns.ClientAddr6, netns.FabricAddr6},
	} {
		tally := count(t, f.Client, rules.TCP, netip.AddrPortFrom(node, 8080), 200)
		if err := checkShares(tally, map[string]float64{"near-1": 1, "far-1": 1}); err != nil {
			t.Errorf("%s: %v", node, err)
		}
		if tally.Peers[addrs.client] != tally.Answers["near-1"] || tally.Peers[addrs.fabric] != tally.Answers["far-1"] {
			t.Errorf("%s: %s, clients seen %v", node, tally, tally.Peers)
		}
	}
}

func TestNodeIsClientOfItself(t *testing.T) { eachVariant(t, testNodeIsClientOfItself) }

func testNodeIsClientOfItself(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, netns.PodSpec{Name: "near-1", Number: 10}, netns.PodSpec{Name: "far-1", Number: 10, Far: true})
	f.program(f.serving(append(onBoth(8080, "near-1"), onBoth(8090, "far-1")...)...))
	for _, addr := range nodeAddrs {
		for _, protocol := range protocols {
			for port, name := range map[uint16]string{8080: "near-1", 8090: "far-1"} {
				tally := count(t, f.Node, protocol, netip.AddrPortFrom(addr, port), 20)
				if tally.Answers[name] != 20 {
					t.Errorf("%s %s port %d: %s, want all from %s", addr, protocol, port, tally, name)
				}
			}
		}
		tally := count(t, f.Node, rules.TCP, netip.AddrPortFrom(addr, 8100), 5)
		if tally.Refused != 5 {
			t.Errorf("%s closed port from the node: %s", addr, tally)
		}
	}
}

// A pod that reaches itself through the Gateway must see the node, or it would
// answer itself directly.
func TestHairpin(t *testing.T) { eachVariant(t, testHairpin) }

func testHairpin(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1")...))
	pod := f.Pod("foo-1")
	for _, addr := range nodeAddrs {
		for _, protocol := range protocols {
			tally := count(t, pod.Namespace, protocol, netip.AddrPortFrom(addr, 8080), 20)
			if tally.Answers["foo-1"] != 20 {
				t.Errorf("%s %s: %s, want all from foo-1", addr, protocol, tally)
			}
			for peer := range tally.Peers {
				if peer == pod.Addr4 || peer == pod.Addr6 {
					t.Errorf("%s %s: pod saw itself as client %s", addr, protocol, peer)
				}
			}
		}
	}
}

// A pod that reaches another one of its node keeps its address.
func TestPodToPodKeepsClient(t *testing.T) { eachVariant(t, testPodToPodKeepsClient) }

func testPodToPodKeepsClient(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1")...))
	bar := f.Pod("bar-1")
	checkPeer(t, bar.Namespace, netip.AddrPortFrom(netns.NodeAddr4, 8080), "foo-1", bar.Addr4)
	checkPeer(t, bar.Namespace, netip.AddrPortFrom(netns.NodeAddr6, 8080), "foo-1", bar.Addr6)
}

// Datagrams of one flow reach one backend, also when the kernel has forgotten the
// flow in between.
func TestUDPFlowStaysWithItsBackend(t *testing.T) { eachBackend(t, testUDPFlowStaysWithItsBackend) }

func testUDPFlowStaysWithItsBackend(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1", "foo-2", "bar-1")...))
	for _, c := range []struct{ node, client netip.Addr }{
		{netns.NodeAddr4, netns.ClientAddr4},
		{netns.NodeAddr6, netns.ClientAddr6},
	} {
		first := map[uint16]string{}
		for round := range 3 {
			for port := uint16(5000); port < 5040; port++ {
				answer, err := f.Client.AskUDP(netip.AddrPortFrom(c.client, port), netip.AddrPortFrom(c.node, 8080))
				if err != nil {
					t.Fatalf("from port %d: %v", port, err)
				}
				if round == 0 {
					first[port] = answer.Name
				} else if answer.Name != first[port] {
					t.Errorf("%s, round %d: port %d went to %s, before to %s", c.node, round, port, answer.Name, first[port])
				}
			}
			forgetFlows(t, f.Node)
		}
		backends := map[string]bool{}
		for _, name := range first {
			backends[name] = true
		}
		if len(backends) != 3 {
			t.Errorf("%s: 40 flows used %d of 3 backends", c.node, len(backends))
		}
	}
}

// forgetFlows empties the connection tracking table of a namespace.
func forgetFlows(t *testing.T, n *netns.Namespace) {
	t.Helper()
	err := n.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer handle.Close()
		return handle.ConntrackTableFlush(netlink.ConntrackTable)
	})
	if err != nil {
		t.Fatal(err)
	}
}
