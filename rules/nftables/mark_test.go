package nftables

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// Another bit than the default one: flows carry it, whatever chain translates them, and by
// it the node knows which ones to masquerade.
func TestFlowsCarryTheConfiguredMark(t *testing.T) {
	lab := netns.LabForTest(t, netns.PodSpec{Name: "far", Number: 10, Far: true})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	far := lab.Pod("far")
	c := DefaultConfig()
	c.NetNS, c.Mark = lab.Node.Handle(), 0x00020000
	p := newProgrammer(t, c)
	for _, f := range []struct {
		node, seen netip.Addr
		endpoint   netip.Addr
		family     string
	}{
		{netns.NodeAddr4, netns.FabricAddr4, far.Addr4, "ipv4"},
		{netns.NodeAddr6, netns.FabricAddr6, far.Addr6, "ipv6"},
	} {
		for _, test := range []struct {
			protocol  rules.Protocol
			selection rules.Selection
		}{{rules.TCP, rules.Random}, {rules.UDP, rules.FlowHash}, {rules.TCP, rules.ClientHash}} {
			t.Run(fmt.Sprint(f.family, " ", test.protocol, " ", test.selection), func(t *testing.T) {
				at := netip.AddrPortFrom(f.node, 80+uint16(test.selection))
				b := rules.Backend{Ref: "ns/a", Weight: 1, Endpoints: []rules.Endpoint{{Addr: netip.AddrPortFrom(f.endpoint, 6000)}}}
				mustProgram(t, p, stateOf(map[rules.FrontendKey]*rules.Frontend{
					{Addr: at.Addr(), Protocol: test.protocol, Port: at.Port()}: {Owner: owner("ns/gw", "l", "ns/r"), Select: test.selection, Backends: []rules.Backend{b}},
				}))
				got, err := lab.Client.Ask(test.protocol, at, time.Second)
				if err != nil || got.Peer.Addr() != f.seen {
					t.Errorf("the endpoint saw %v, want %v: %v", got.Peer, f.seen, err)
				}
				flows, err := lab.Node.Output("conntrack", "-L", "-f", f.family, "-p", test.protocol.String(), "--orig-port-dst", fmt.Sprint(at.Port()))
				if err != nil || !strings.Contains(flows, " mark=131072 ") {
					t.Errorf("flows: %v\n%s", err, flows)
				}
			})
		}
	}
}
