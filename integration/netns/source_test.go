package netns_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

const (
	// answerTimeout is when a flow that should be answered is given up.
	answerTimeout = 2 * time.Second
	// silence is how long to wait for an answer that should not come.
	silence = 300 * time.Millisecond
	// maxUnanswered flows end a test: each takes its time, and a rule that is wrong
	// makes hundreds.
	maxUnanswered = 5
)

// TestSourceAddress sends flows from everybody to every endpoint by way of every
// node and compares whom the endpoint sees with what the State demands.
func TestSourceAddress(t *testing.T) { eachBackend(t, testSourceAddress) }

func testSourceAddress(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	for _, network := range podNetworks {
		t.Run(network.String(), func(t *testing.T) {
			t.Parallel()
			m := &matrix{clusterFixture: newClusterFixture(t, b, network, 3), network: network}
			m.serveAll()
			m.check(t)
		})
	}
}

// strangers is what other programs do to the flows of a node: they set all mark bits
// but ours, and there is a Service as kube-proxy translates it.
const strangers = `
table inet strangers {
	chain prerouting {
		type filter hook prerouting priority mangle;
		ct mark set ct mark | 0xffffefff
	}
	chain output {
		type route hook output priority mangle;
		ct mark set ct mark | 0xffffefff
	}
	chain services {
		type nat hook prerouting priority dstnat;
		ip daddr 10.96.0.1 dnat to 10.244.2.10
		ip6 daddr 2001:db8:96::1 dnat to 2001:db8:244:2::a
	}
}
`

// TestOthersKeepTheirSource: a flow that did not come through a listener of ours is
// not touched, whatever its mark, and marks of others survive on ours.
func TestOthersKeepTheirSource(t *testing.T) { eachBackend(t, testOthersKeepTheirSource) }

func testOthersKeepTheirSource(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	for _, network := range []netns.PodNetwork{{}, {Bridged: true, Filter: true, Hairpin: true}} {
		t.Run(network.String(), func(t *testing.T) {
			t.Parallel()
			m := &matrix{clusterFixture: newClusterFixture(t, b, network, 2), network: network}
			m.serveAll()
			m.checkOthers(t)
			for _, node := range m.Nodes {
				loadRules(t, node.Namespace, strangers)
				forgetFlows(t, node.Namespace)
			}
			m.checkOthers(t)
			for _, addr := range []string{"10.96.0.1", "2001:db8:96::1"} {
				to := netip.AddrPortFrom(netip.MustParseAddr(addr), podPort)
				m.checkKept(t, m.target("pod-1a"), to, "pod-2a")
			}
			m.check(t)
			m.checkMarks(t)
		})
	}
}

// checkOthers sends flows from everybody straight to everybody's server.
func (m *matrix) checkOthers(t *testing.T) {
	t.Helper()
	everybody := append([]target{{Machine: m.Client}}, m.targets...)
	for _, client := range everybody {
		for _, server := range everybody {
			for _, addr := range server.Addrs() {
				m.checkKept(t, client, netip.AddrPortFrom(addr, podPort), server.Name())
			}
		}
	}
}

// checkKept sends a flow of each protocol whose server must see the client itself.
func (m *matrix) checkKept(t *testing.T, client target, to netip.AddrPort, name string) {
	t.Helper()
	for _, protocol := range protocols {
		got, err := client.Ask(protocol, to, answerTimeout)
		if err != nil {
			m.unanswered(t, "%s to %s %s: %v", client.Name(), protocol, to, err)
			continue
		}
		if got.Name != name || got.Peer.Addr() != got.From.Addr() {
			t.Errorf("%s to %s %s: %+v, want an answer from %s and the source kept", client.Name(), protocol, to, got, name)
		}
	}
}

// checkMarks checks the marks of all flows on all nodes: those to a listener have
// our bit and the strangers', all others the strangers' alone.
func (m *matrix) checkMarks(t *testing.T) {
	t.Helper()
	for _, node := range m.Nodes {
		for _, addr := range node.Addrs() {
			ours, others := 0, 0
			for _, flow := range tracked(t, node.Namespace, addr) {
				want, count := uint32(0xffffefff), &others
				if flow.Forward.DstPort >= firstPort && flow.Forward.DstPort < firstPort+100 && flow.Forward.DstIP.String() == addr.String() {
					want, count = 0xffffffff, &ours
				}
				*count++
				if flow.Mark != want {
					t.Errorf("%s: want mark %#x: %s", node.Name(), want, flow)
				}
			}
			if ours == 0 || others == 0 {
				t.Errorf("%s tracks %d flows of ours by %s and %d others", node.Name(), ours, addr, others)
			}
		}
	}
}

// matrix checks every way from a client by a node to an endpoint.
type matrix struct {
	*clusterFixture
	network                   netns.PodNetwork
	kept, masqueraded, broken int
	lost                      int
	silent                    sync.WaitGroup // flows that wait for an answer in vain
}

func (m *matrix) check(t *testing.T) {
	t.Helper()
	defer m.silent.Wait()
	clients := append([]target{{Machine: m.Client}}, m.targets...)
	for _, entry := range m.Nodes {
		for _, addr := range entry.Addrs() {
			own := addresses(t, entry.Namespace, addr)
			for _, client := range clients {
				for _, endpoint := range m.targets {
					for _, protocol := range protocols {
						m.checkCell(t, client, entry, endpoint, protocol, addr, own)
					}
				}
			}
		}
	}
	t.Logf("client's address kept %d, masqueraded %d, known not to work %d", m.kept, m.masqueraded, m.broken)
}

// checkCell sends one flow; own are the addresses of the entry node.
func (m *matrix) checkCell(t *testing.T, client target, entry *netns.ClusterNode, endpoint target, protocol rules.Protocol, addr netip.Addr, own []netip.Addr) {
	t.Helper()
	to := netip.AddrPortFrom(addr, m.listener(endpoint))
	cell := client.Name() + " by " + entry.Name() + " to " + endpoint.Name()
	if m.bridgeBreaks(client, entry, endpoint) {
		m.broken++
		m.silent.Go(func() {
			if got, err := client.Ask(protocol, to, silence); err == nil {
				t.Errorf("%s %s %s works now: %+v", cell, protocol, to, got)
			}
		})
		return
	}
	got, err := client.Ask(protocol, to, answerTimeout)
	if err != nil {
		m.unanswered(t, "%s %s %s: %v", cell, protocol, to, err)
		return
	}
	want := m.nodes[entry].state.Match(rules.Packet{Protocol: protocol, Src: got.From, Dst: to}).Outcomes[0]
	switch {
	case got.Name != endpoint.Name():
		t.Errorf("%s %s %s: answered by %s", cell, protocol, to, got.Name)
	case want.Masquerade:
		m.masqueraded++
		if !slices.Contains(own, got.Peer.Addr()) {
			t.Errorf("%s %s %s: seen as %s, want one of the node's %s", cell, protocol, to, got.Peer, own)
		}
	default:
		m.kept++
		if got.Peer.Addr() != got.From.Addr() {
			t.Errorf("%s %s %s: seen as %s, want the client's own %s", cell, protocol, to, got.Peer, got.From)
		}
	}
}

// unanswered fails the test, and ends it when that happens too often.
func (m *matrix) unanswered(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
	if m.lost++; m.lost >= maxUnanswered {
		t.FailNow()
	}
}

// bridgeBreaks reports what no rule of ours can help: both ways are between two
// ports of one bridge.
func (m *matrix) bridgeBreaks(client target, entry *netns.ClusterNode, endpoint target) bool {
	isPod := func(at target) bool { return slices.Contains(entry.Pods, at.Machine) }
	switch {
	case !m.network.Bridged || !isPod(client) || !isPod(endpoint):
		return false
	case client == endpoint:
		// br_netfilter translates on the bridge, which then sends nothing back to
		// the port it came from.
		return m.network.Filter && !m.network.Hairpin
	default:
		// Without it the answer goes straight to the client, from an address it
		// never asked.
		return !m.network.Filter
	}
}
