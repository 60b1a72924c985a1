package netns

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/portway-dev/portway/rules"
)

// everyNetwork is what a Cluster can be made of.
var everyNetwork = []PodNetwork{
	{},
	{Bridged: true},
	{Bridged: true, Filter: true},
	{Bridged: true, Filter: true, Hairpin: true},
}

// Everybody must reach everybody without translation, or tests of it would prove
// nothing.
func TestClusterRoutes(t *testing.T) {
	for _, network := range everyNetwork {
		t.Run(network.String(), func(t *testing.T) {
			c := ClusterForTest(t, network, 2, 2)
			if err := c.Serve(6000); err != nil {
				t.Fatal(err)
			}
			all := []Machine{c.Client}
			for _, node := range c.Nodes {
				all = append(append(all, node.Machine), node.Pods...)
			}
			for _, from := range all {
				for _, to := range all {
					for _, addr := range to.Addrs() {
						for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
							got, err := from.Ask(protocol, netip.AddrPortFrom(addr, 6000), connectTimeout)
							if err != nil || got.Name != to.Name() || got.Peer != got.From {
								t.Fatalf("%s to %s %s: %+v (%v)", from.Name(), protocol, addr, got, err)
							}
						}
					}
				}
			}
		})
	}
}

// With br_netfilter the rules of a node see what its pods send each other on the
// bridge, without it they do not.
func TestBridgedPacketsAreFiltered(t *testing.T) {
	for _, network := range everyNetwork[1:3] {
		t.Run(network.String(), func(t *testing.T) {
			c := ClusterForTest(t, network, 1, 2)
			if err := c.Serve(6000); err != nil {
				t.Fatal(err)
			}
			node := c.Nodes[0]
			loadRules(t, node.Namespace, "table inet t { chain c { type filter hook prerouting priority 0; th dport 6000 reject; }; }")
			for _, addr := range node.Pods[1].Addrs() {
				_, err := node.Pods[0].Ask(rules.UDP, netip.AddrPortFrom(addr, 6000), connectTimeout)
				if rejected := err != nil; rejected != network.Filter {
					t.Errorf("%s: %v", addr, err)
				}
			}
		})
	}
}

func TestPodBehindRouters(t *testing.T) {
	c := ClusterForTest(t, PodNetwork{}, 1, 0)
	pod, err := c.AddPodBehind(c.Nodes[0], "behind", 1500, 1300, 1500)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ServeOn(6000, pod); err != nil {
		t.Fatal(err)
	}
	for _, addr := range pod.Addrs() {
		if mtu, err := c.Client.PathMTU(addr); err != nil || mtu != 0 {
			t.Errorf("path MTU to %s before any packet: %d (%v)", addr, mtu, err)
		}
		conn, err := c.Client.Dial(netip.AddrPort{}, netip.AddrPortFrom(addr, 6000))
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Bulk(1 << 16); err != nil {
			t.Error(err)
		}
		if mtu, err := c.Client.PathMTU(addr); err != nil || mtu != 1300 {
			t.Errorf("path MTU to %s: %d (%v), want 1300", addr, mtu, err)
		}
		if mtu, err := pod.PathMTU(c.Client.Addr(addr)); err != nil || mtu != 1300 {
			t.Errorf("path MTU from %s: %d (%v), want 1300", addr, mtu, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.AddPodBehind(c.Nodes[0], "nowhere"); err == nil {
		t.Error("a pod without a link was made")
	}
}

func TestRejectionNamesBothSides(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	for _, addr := range []netip.Addr{lab.Pod("pod").Addr4, lab.Pod("pod").Addr6} {
		to := netip.AddrPortFrom(addr, 9)
		want := Rejection{Errno: syscall.ECONNREFUSED, From: addr, To: to}
		if got, err := lab.Client.AskRejected(to); err != nil || got != want {
			t.Errorf("%+v (%v), want %+v", got, err, want)
		}
	}
}

func TestEchoUDPInFragments(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	pod := lab.Pod("pod")
	for from, to := range map[netip.Addr]netip.Addr{ClientAddr4: pod.Addr4, ClientAddr6: pod.Addr6} {
		from := netip.AddrPortFrom(from, 5000)
		if got, err := lab.Client.EchoUDP(from, netip.AddrPortFrom(to, 6000), 9000); err != nil || got != (Answer{"pod", from}) {
			t.Errorf("%v (%v)", got, err)
		}
	}
}

func TestStreamNeverPauses(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	pod := lab.Pod("pod")
	from := netip.AddrPortFrom(ClientAddr4, 5000)
	stream, err := lab.Client.StartStream(from, netip.AddrPortFrom(pod.Addr4, 6000), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stream.Stop() })
	awaitReplies := func(more int) {
		t.Helper()
		want := stream.Last().Sequence + more
		await(t, func() bool { return stream.Last().Sequence >= want })
	}
	awaitReplies(10)
	// Loss counts, and the stream goes on.
	loadRules(t, pod.Namespace, "table inet t { chain c { type filter hook input priority 0; meta l4proto udp drop; }; }")
	before := stream.Sent()
	await(t, func() bool { return stream.Sent() >= before+10 })
	if _, err := pod.Output("nft", "delete", "table", "inet", "t"); err != nil {
		t.Fatal(err)
	}
	awaitReplies(10)
	got, err := stream.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if got.Lost() < 9 || len(got.By("pod")) != len(got.Replies) || got.Refused != 0 || got.LongestGap() <= 0 {
		t.Errorf("%d lost of %d, %d refused, longest gap %s", got.Lost(), got.Sent, got.Refused, got.LongestGap())
	}
	for i, reply := range got.Replies {
		if reply.Peer != from || i > 0 && reply.Sequence <= got.Replies[i-1].Sequence {
			t.Errorf("reply %d: %+v", i, reply)
		}
	}
}

// await polls for something that takes milliseconds.
func await(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(connectTimeout); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func TestStreamCountsRefusals(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	stream, err := lab.Client.StartStream(netip.AddrPortFrom(ClientAddr6, 5000), netip.AddrPortFrom(lab.Pod("pod").Addr6, 9), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stream.Stop() })
	await(t, func() bool { return stream.Refused() >= 3 })
	got, err := stream.Stop()
	if err != nil || got.Refused < 3 || got.Lost() != got.Sent || stream.Last() != (Reply{}) {
		t.Errorf("%+v (%v), want refusals only", got, err)
	}
}
