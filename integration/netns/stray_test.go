package netns_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
)

// clientOverhears counts what reaches the client from a pod's own address.
const clientOverhears = `
table inet overhear {
	counter stray { }
	chain prerouting {
		type filter hook prerouting priority raw;
		ip saddr 10.244.0.0/16 meta l4proto tcp counter name stray
		ip6 saddr 2001:db8:244::/48 meta l4proto tcp counter name stray
	}
}
`

// TestStrayNeverReachesTheClient: what connection tracking calls invalid is not
// translated. From an endpoint that sees the client itself it must end at the node,
// or the client would answer with a RST for that endpoint, which ends the connection
// (kubernetes#74839).
func TestStrayNeverReachesTheClient(t *testing.T) { eachBackend(t, testStrayNeverReachesTheClient) }

func testStrayNeverReachesTheClient(on trial) {
	t, b := on.T, on.backend
	t.Parallel()
	for _, network := range bridgedAndRouted {
		t.Run(network.String(), func(t *testing.T) {
			t.Parallel()
			f := newClusterFixture(t, b, network, 2)
			f.serveAll()
			entry := f.Nodes[0]
			for _, client := range []netns.Machine{f.Client, f.target("pod-1b").Machine, f.target("pod-2b").Machine} {
				loadRules(t, client.Namespace, clientOverhears)
				for _, addr := range entry.Addrs() {
					for _, name := range []string{"pod-1a", "pod-2a"} {
						endpoint := f.target(name)
						conn := hold(t, client, netip.AddrPortFrom(addr, f.listener(endpoint)), endpoint)
						server := netip.AddrPortFrom(endpoint.Addr(addr), podPort)
						if err := endpoint.SendStray(server, conn.Peer); err != nil {
							t.Fatal(err)
						}
						// It leaves the endpoint behind the stray one, on the same path.
						if err := conn.Echo("behind it"); err != nil {
							t.Errorf("%s: %v", conn.by, err)
						}
					}
				}
				if out := nftIn(t, client.Namespace, "list", "counter", "inet", "overhear", "stray"); !strings.Contains(out, "packets 0 ") {
					t.Errorf("%s overhears:\n%s", client.Name(), out)
				}
			}
		})
	}
}
