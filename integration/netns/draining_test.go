package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// held is an established connection.
type held struct {
	*netns.Conn
	by string // for messages
}

// hold opens a connection and makes sure that an endpoint answers.
func hold(t *testing.T, client netns.Machine, to netip.AddrPort, endpoint target) held {
	t.Helper()
	conn, err := client.Dial(netip.AddrPort{}, to)
	if err != nil {
		t.Fatalf("%s to %s by %s: %v", client.Name(), endpoint.Name(), to, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if conn.Name != endpoint.Name() {
		t.Fatalf("%s to %s by %s: answered by %s", client.Name(), endpoint.Name(), to, conn.Name)
	}
	if err := conn.SetDeadline(testDeadline()); err != nil {
		t.Fatal(err)
	}
	return held{conn, client.Name() + " to " + endpoint.Name() + " by " + to.String()}
}

// finish ends the sending half and waits for the other side to do the same.
func (h held) finish() error {
	if err := h.Conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, h.Conn.Conn)
	return err
}

// TestDraining: what is established with an endpoint that left goes on until it
// ends, however its addresses are translated, and nothing new gets there.
func TestDraining(t *testing.T) { eachBackend(t, testDraining) }

func testDraining(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	for _, network := range bridgedAndRouted {
		t.Run(network.String(), func(t *testing.T) {
			t.Parallel()
			f := newClusterFixture(t, b, network, 2)
			entry := f.Nodes[0]
			clients := []netns.Machine{f.Client, f.target("pod-1b").Machine, f.target("pod-2b").Machine, entry.Machine}
			f.serveAll()
			var conns []held
			frontends := map[rules.FrontendKey]*rules.Frontend{}
			leaving := []target{f.target("pod-1a"), f.target("pod-2a"), f.target("node-1"), f.target("node-2")}
			for _, endpoint := range leaving {
				for _, client := range clients {
					for _, addr := range entry.Addrs() {
						conns = append(conns, hold(t, client, netip.AddrPortFrom(addr, f.listener(endpoint)), endpoint))
					}
				}
				f.serveOn(frontends, entry, f.listener(endpoint), f.target("pod-2b"))
			}
			f.program(entry, frontends)
			for key := range frontends {
				if tally := count(t, f.Client.Namespace, key.Protocol, netip.AddrPortFrom(key.Addr, key.Port), 20); tally.Answers["pod-2b"] != 20 {
					t.Errorf("%s: %s, want all from pod-2b", key, tally)
				}
			}
			for _, conn := range conns {
				if err := conn.Echo("the endpoint is gone"); err != nil {
					t.Errorf("%s: %v", conn.by, err)
				}
				if err := conn.finish(); err != nil {
					t.Errorf("%s, closing: %v", conn.by, err)
				}
			}
		})
	}
}

// otherChain is all that another program needs to have for the kernel to go on
// translating flows of a family: a chain of type nat, and a rule that makes the kernel
// track connections.
const otherChain = `
table %s other {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ct state invalid return
	}
}
`

// TestCleanupAndEstablished: the kernel translates the packets of an established flow
// only as long as any chain of type nat, and anything that tracks connections, is left
// for their family. Where ours were the
// only ones, cleaning up therefore ends what is established, with the next packet:
// the node's own RST. Until that packet, programming again saves the flow.
func TestCleanupAndEstablished(t *testing.T) { eachBackend(t, testCleanupAndEstablished) }

func testCleanupAndEstablished(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	for _, c := range []struct {
		others         string // the family of another program's chain
		lives4, lives6 bool
	}{
		{"", false, false},
		{"ip", true, false}, // kube-proxy in iptables mode, Docker
		{"ip6", false, true},
		{"inet", true, true},
	} {
		t.Run("beside-"+c.others, func(t *testing.T) {
			t.Parallel()
			f := newClusterFixture(t, b, netns.PodNetwork{}, 2)
			entry := f.Nodes[0]
			if c.others != "" {
				loadRules(t, entry.Namespace, fmt.Sprintf(otherChain, c.others))
			}
			for _, addr := range entry.Addrs() {
				f.serveAll()
				conns := f.holdAll(entry, addr)
				f.cleanup(entry)
				f.serveAll()
				for _, conn := range conns {
					if err := conn.Echo("programmed again"); err != nil {
						t.Errorf("%s, programmed again: %v", conn.by, err)
					}
				}
				f.cleanup(entry)
				for _, conn := range conns {
					err := conn.Echo("cleaned up")
					switch lives := addr.Is4() && c.lives4 || addr.Is6() && c.lives6; {
					case lives && err != nil:
						t.Errorf("%s, cleaned up: %v", conn.by, err)
					case !lives && !errors.Is(err, syscall.ECONNRESET):
						t.Errorf("%s, cleaned up: %v, want a reset", conn.by, err)
					}
				}
			}
		})
	}
}

// holdAll opens connections of all kinds by one address of a node.
func (f *clusterFixture) holdAll(entry *netns.ClusterNode, addr netip.Addr) []held {
	f.t.Helper()
	var conns []held
	for _, client := range []netns.Machine{f.Client, f.target("pod-2b").Machine, entry.Machine} {
		for _, name := range []string{"pod-1a", "pod-2a", "node-1"} {
			endpoint := f.target(name)
			conns = append(conns, hold(f.t, client, netip.AddrPortFrom(addr, f.listener(endpoint)), endpoint))
		}
	}
	return conns
}
