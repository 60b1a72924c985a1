package netns

import (
	"net/netip"
	"strings"
	"testing"
)

// A stray segment must be invalid to connection tracking, and still a segment to its
// receiver, who answers it with a RST where there is no connection.
func TestStrayIsInvalid(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	loadRules(t, lab.Node, `table inet t {
		chain c { type filter hook forward priority 0; tcp sport 6000 ct state invalid counter; }
	}`)
	loadRules(t, lab.Client, "table inet t { chain c { type filter hook output priority 0; tcp flags rst counter; }; }")
	pod := lab.Pod("pod")
	for _, addrs := range [][2]netip.Addr{{pod.Addr4, ClientAddr4}, {pod.Addr6, ClientAddr6}} {
		server := netip.AddrPortFrom(addrs[0], 6000)
		conn, err := lab.Client.Dial(netip.AddrPort{}, server)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := pod.SendStray(server, conn.Peer); err != nil {
			t.Error(err)
		}
		if err := pod.SendStray(server, netip.AddrPortFrom(addrs[1], 9)); err != nil {
			t.Error(err)
		}
	}
	for n, want := range map[*Namespace]string{lab.Node: "counter packets 4 ", lab.Client: "counter packets 2 "} {
		await(t, func() bool {
			out, err := n.Output("nft", "list", "table", "inet", "t")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(out, want)
		})
	}
}
