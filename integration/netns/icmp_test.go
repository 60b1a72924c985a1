package netns_test

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// bridgedAndRouted are the networks in which a pod reaches the others of its node.
var bridgedAndRouted = []netns.PodNetwork{{}, {Bridged: true, Filter: true}}

// closedPort is where nobody listens.
const closedPort = 6009

// TestUDPErrorsReachTheClient: an ICMP error about what was sent to an endpoint comes
// back as if the frontend had sent it, about what the client sent to the frontend.
func TestUDPErrorsReachTheClient(t *testing.T) { eachBackend(t, testUDPErrorsReachTheClient) }

func testUDPErrorsReachTheClient(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	portUnreachable := []syscall.Errno{syscall.ECONNREFUSED}
	// A route of type unreachable says so in IPv4 and "no route" in IPv6.
	hostUnreachable := []syscall.Errno{syscall.EHOSTUNREACH, syscall.ENETUNREACH}
	for _, network := range bridgedAndRouted {
		t.Run(network.String(), func(t *testing.T) {
			t.Parallel()
			f := newClusterFixture(t, b, network, 2)
			entry, other := f.Nodes[0], f.Nodes[1]
			frontends := map[rules.FrontendKey]*rules.Frontend{}
			errnos := map[uint16][]syscall.Errno{}
			add := func(to target, want []syscall.Errno) {
				port := firstPort + uint16(len(errnos))
				f.serveOn(frontends, entry, port, to)
				errnos[port] = want
			}
			for _, name := range []string{"pod-1a", "pod-2a", "node-1", "node-2"} {
				to := f.target(name)
				to.port = closedPort
				add(to, portUnreachable)
			}
			add(f.gone(other), hostUnreachable)
			add(f.gone(entry), hostUnreachable)
			last := firstPort + uint16(len(errnos)) - 1
			f.program(entry, frontends)

			clients := []netns.Machine{f.Client, f.target("pod-1b").Machine, f.target("pod-2b").Machine, other.Machine}
			for _, client := range clients {
				for key := range frontends {
					if key.Protocol != rules.UDP {
						continue
					}
					if network.Bridged && key.Addr.Is6() && key.Port == last && client == f.target("pod-1b").Machine {
						// br_netfilter drops what it has translated and finds no route for
						// (br_nf_pre_routing_finish_ipv6).
						continue
					}
					to := netip.AddrPortFrom(key.Addr, key.Port)
					got, err := client.AskRejected(to)
					if err != nil || got.From != key.Addr || got.To != to || !slices.Contains(errnos[key.Port], got.Errno) {
						t.Errorf("%s to %s: %+v (%v), want %v from the frontend", client.Name(), to, got, err, errnos[key.Port])
					}
				}
			}
		})
	}
}

// gone is a pod that a node has no more.
func (f *clusterFixture) gone(node *netns.ClusterNode) target {
	f.t.Helper()
	to := target{netns.Machine{Namespace: node.Namespace}, node, podPort}
	pod := node.Pods[0]
	to.Addr4, to.Addr6 = pod.Addr4, pod.Addr6
	for range 100 {
		to.Addr4, to.Addr6 = to.Addr4.Next(), to.Addr6.Next()
	}
	for _, addr := range to.Addrs() {
		if err := node.AddUnreachable(netip.PrefixFrom(addr, addr.BitLen())); err != nil {
			f.t.Fatal(err)
		}
	}
	return to
}

// TestPathMTU: where a packet is too big for a link, whoever sent it hears of it,
// whichever addresses it had on that link. Each path is narrower than those before,
// as its ends remember what they have learned.
func TestPathMTU(t *testing.T) { eachBackend(t, testPathMTU) }

func testPathMTU(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	const size = 1 << 20
	f := newClusterFixture(t, b, netns.PodNetwork{}, 2)
	entry := f.Nodes[0]
	type path struct {
		target
		mtu int
	}
	var paths []path
	for i, node := range f.Nodes {
		// A router behind the narrow link tells the pod; the node, or a router in
		// front of that link, tells the client.
		for j, links := range []int{2, 3} {
			mtu := 1480 - 40*i - 20*j
			mtus := []int{mtu, 1500}
			if links == 3 {
				mtus = []int{1500, mtu, 1500}
			}
			pod, err := f.AddPodBehind(node, fmt.Sprintf("narrow-%d-%d", i+1, links), mtus...)
			if err == nil {
				err = f.ServeOn(podPort, pod)
			}
			if err != nil {
				t.Fatal(err)
			}
			f.targets = append(f.targets, target{pod, node, podPort})
			paths = append(paths, path{f.targets[len(f.targets)-1], mtu})
		}
	}
	f.serveAll()
	check := func(p path) {
		for _, addr := range entry.Addrs() {
			f.checkBulk(netip.AddrPortFrom(addr, f.listener(p.target)), p.Machine, p.mtu, size)
		}
	}
	for _, p := range paths {
		check(p)
	}
	// Now the answers to the frontend are too big, on the client's side of the node.
	for i, name := range []string{"pod-1a", "pod-2a", "node-1", "node-2"} {
		mtu := 1380 - 20*i
		if err := netns.SetMTU(mtu, f.Edge, "router", f.Router, "edge"); err != nil {
			t.Fatal(err)
		}
		check(path{f.target(name), mtu})
	}
}

// checkBulk transfers data in both directions and checks what both ends have then
// learned of the path between them.
func (f *clusterFixture) checkBulk(to netip.AddrPort, server netns.Machine, mtu, size int) {
	f.t.Helper()
	conn, err := f.Client.Dial(netip.AddrPort{}, to)
	if err != nil {
		f.t.Errorf("%s by %s: %v", server.Name(), to, err)
		return
	}
	defer func() { _ = conn.Close() }() // all is said
	if err := conn.Bulk(size); err != nil {
		f.t.Errorf("%s by %s: %v", server.Name(), to, err)
	}
	if got, err := f.Client.PathMTU(to.Addr()); err != nil || got != mtu {
		f.t.Errorf("%s by %s: the client knows MTU %d (%v), want %d", server.Name(), to, got, err, mtu)
	}
	if got, err := server.PathMTU(conn.Peer.Addr()); err != nil || got != mtu {
		f.t.Errorf("%s by %s: the server knows MTU %d (%v), want %d", server.Name(), to, got, err, mtu)
	}
}

// TestFragmentsReachOneEndpoint: a datagram in many packets, of which only the first
// has ports, arrives whole, and so does its answer. All datagrams of a client's port
// reach the same endpoint.
func TestFragmentsReachOneEndpoint(t *testing.T) {
	eachBackend(t, func(on trial) { testFragments(on, false) })
}

// TestForgottenFragmentsReachOneEndpoint: also when the node has forgotten the flow.
func TestForgottenFragmentsReachOneEndpoint(t *testing.T) {
	eachBackend(t, func(on trial) { testFragments(on, true) })
}

func testFragments(on trial, forget bool) {
	t, b := on.T, on.backend
	t.Parallel()
	for _, network := range bridgedAndRouted {
		t.Run(network.String(), func(t *testing.T) {
			t.Parallel()
			f := newClusterFixture(t, b, network, 2)
			entry := f.Nodes[0]
			endpoints := []target{f.target("pod-1a"), f.target("pod-2a"), f.target("node-2")}
			frontends := map[rules.FrontendKey]*rules.Frontend{}
			f.serveOn(frontends, entry, firstPort, endpoints...)
			f.program(entry, frontends)
			for _, client := range []netns.Machine{f.Client, f.target("pod-1b").Machine, entry.Machine} {
				for _, addr := range entry.Addrs() {
					f.checkFragments(client, netip.AddrPortFrom(addr, firstPort), endpoints, forget)
				}
			}
		})
	}
}

// checkFragments sends datagrams of several sizes from several ports, and may have the node
// forget the flows in between.
func (f *clusterFixture) checkFragments(client netns.Machine, to netip.AddrPort, endpoints []target, forget bool) {
	f.t.Helper()
	first := map[uint16]string{}
	for round, size := range []int{100, 2000, 9000, 60000} {
		for port := uint16(5000); port < 5020; port++ {
			from := netip.AddrPortFrom(client.Addr(to.Addr()), port)
			answer, err := client.EchoUDP(from, to, size)
			switch {
			case err != nil:
				f.t.Errorf("%d bytes from %s to %s: %v", size, from, to, err)
			case round == 0:
				first[port] = answer.Name
			case answer.Name != first[port]:
				f.t.Errorf("%d bytes from %s to %s: answered by %s, before by %s", size, from, to, answer.Name, first[port])
			}
		}
		if forget && round%2 == 1 {
			forgetFlows(f.t, f.Nodes[0].Namespace)
		}
	}
	used := map[string]bool{}
	for _, name := range first {
		used[name] = true
	}
	want := 2 // of three: they may be drawn
	if forget {
		want = len(endpoints)
	}
	if len(used) < want {
		f.t.Errorf("%s to %s: 20 flows used %d of %d endpoints", client.Name(), to, len(used), len(endpoints))
	}
}
