package firewall

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// hostWith is one whose /proc has these files.
func hostWith(files map[string]string, bridges ...Bridge) *Host {
	proc := fstest.MapFS{}
	for path, content := range files {
		proc[path] = &fstest.MapFile{Data: []byte(content)}
	}
	return &Host{
		Proc: proc, Bridges: func() ([]Bridge, error) { return bridges, nil },
		Published: func() ([]Published, error) { return nil, nil },
	}
}

// one is a State with one Frontend and one local endpoint.
func one(key rules.FrontendKey, endpoint string) Traffic {
	return Traffic{Addresses: []netip.Addr{key.Addr}, State: rules.NewState(map[rules.FrontendKey]*rules.Frontend{key: {
		Owner:    rules.Owner{Gateway: "default/gateway", Listener: "web"},
		Backends: []rules.Backend{{Weight: 1, Endpoints: []rules.Endpoint{{Addr: netip.MustParseAddrPort(endpoint), Local: true}}}},
	}}, nil)}
}

func frontend(addr string, protocol rules.Protocol, port uint16) rules.FrontendKey {
	return rules.FrontendKey{Addr: netip.MustParseAddr(addr), Protocol: protocol, Port: port}
}

const (
	tcpHeader = "  sl  local_address rem_address   st tx_queue rx_queue\n"
	anyTCP    = tcpHeader + "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n"
	anyTCP6   = tcpHeader + "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0\n"
	// 192.0.2.1:8080 to somebody, behind which nothing listens.
	connected = tcpHeader + "   0: 010200C0:1F90 0A6433C6:A001 01 0:0\n   1: 00000000:1F90 00000000:0000 0A 0:0\n"
	boundUDP  = tcpHeader + "  12: 010200C0:1F90 0A6433C6:A001 01 0:0\n  13: 010200C0:0035 00000000:0000 07 0:0\n"
)

func TestPortInUse(t *testing.T) {
	for _, test := range []struct {
		name, file, content string
		key                 rules.FrontendKey
		endpoint            string
		at                  string // empty: no finding
	}{
		{"any address", "tcp", anyTCP, frontend("192.0.2.1", rules.TCP, 8080), "10.0.0.1:80", "0.0.0.0:8080"},
		{"another port", "tcp", anyTCP, frontend("192.0.2.1", rules.TCP, 8081), "10.0.0.1:80", ""},
		{"another protocol", "tcp", anyTCP, frontend("192.0.2.1", rules.UDP, 8080), "10.0.0.1:80", ""},
		{"dual-stack for IPv4", "tcp6", anyTCP6, frontend("192.0.2.1", rules.TCP, 8080), "10.0.0.1:80", "[::]:8080"},
		{"dual-stack for IPv6", "tcp6", anyTCP6, frontend("2001:db8::1", rules.TCP, 8080), "[fd00::1]:80", "[::]:8080"},
		{"IPv4 only", "tcp", anyTCP, frontend("2001:db8::1", rules.TCP, 8080), "[fd00::1]:80", ""},
		{"its own endpoint", "tcp", anyTCP, frontend("192.0.2.1", rules.TCP, 8080), "192.0.2.1:8080", ""},
		{"connections", "tcp", connected, frontend("192.0.2.1", rules.TCP, 8080), "10.0.0.1:80", ""},
		{"UDP", "udp", boundUDP, frontend("192.0.2.1", rules.UDP, 53), "10.0.0.1:53", "192.0.2.1:53"},
		{"UDP with a peer", "udp", boundUDP, frontend("192.0.2.1", rules.UDP, 8080), "10.0.0.1:53", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := hostWith(map[string]string{"thread-self/net/" + test.file: test.content}).Findings(one(test.key, test.endpoint))
			var want []Finding
			if test.at != "" {
				want = []Finding{{
					ReasonPortInUse, test.key.Protocol.String() + " " + netip.AddrPortFrom(test.key.Addr, test.key.Port).String() +
						" is listener web of Gateway default/gateway, and a process of this host listens at " + test.at +
						": what comes to that address goes to the Gateway's endpoints, no longer to the process; give one of the two another port",
					rules.Owner{Gateway: "default/gateway", Listener: "web"},
				}}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Who listens at any address of the host does not at those of pools.
func TestPoolAddressIsNotInUse(t *testing.T) {
	traffic := one(frontend("192.0.2.1", rules.TCP, 8080), "10.0.0.1:80")
	traffic.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	h := hostWith(map[string]string{"thread-self/net/tcp": anyTCP})
	h.Published = func() ([]Published, error) {
		return []Published{{Protocol: rules.TCP, First: 8080, Last: 8080, Where: "chain DOCKER"}}, nil
	}
	if got := h.Findings(traffic); len(got) > 0 {
		t.Errorf("%+v", got)
	}
	h.Published = func() ([]Published, error) {
		return []Published{{Protocol: rules.TCP, First: 8080, Last: 8080, To: netip.MustParseAddr("192.0.2.1")}}, nil
	}
	if got := h.Findings(traffic); len(got) != 1 || got[0].Reason != ReasonHostPort {
		t.Errorf("published at the pool's address: %+v", got)
	}
	h.Published = func() ([]Published, error) { return nil, errors.New("the lock is held") }
	if got := h.Findings(traffic); len(got) != 1 {
		t.Errorf("when nothing new is known: %+v", got)
	}
}

func TestReversePath(t *testing.T) {
	const routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\n" +
		"eth0 00000000 010200C0 0003 0 0 100 00000000 0\neth1 00000000 016433C6 0003 0 0 200 00000000 0\n" +
		"flannel.1 0002F40A 0002F40A 0003 0 0 0 00FFFFFF 0\n"
	for _, test := range []struct{ all, eth0, eth1, want string }{
		{"0", "1", "0", ""},
		{"0", "0", "1", "eth1"},
		{"1", "0", "0", "eth1"},
		{"1", "1", "2", ""}, // the cure
		{"2", "1", "1", ""},
	} {
		got := hostWith(map[string]string{
			"thread-self/net/route":               routes,
			"sys/net/ipv4/conf/all/rp_filter":     test.all + "\n",
			"sys/net/ipv4/conf/eth0/rp_filter":    test.eth0 + "\n",
			"sys/net/ipv4/conf/eth1/rp_filter":    test.eth1 + "\n",
			"sys/net/ipv4/conf/flannel/rp_filter": "1\n",
		}).Findings(Traffic{State: &rules.State{}})
		if found := len(got) == 1; found != (test.want != "") ||
			found && (got[0].Reason != ReasonReversePath || !strings.HasSuffix(got[0].Message, "sysctl -w net.ipv4.conf."+test.want+".rp_filter=2")) {
			t.Errorf("%+v: %+v", test, got)
		}
	}
}

func TestConntrackNearlyFull(t *testing.T) {
	h := hostWith(nil)
	for i, test := range []struct {
		count string
		want  bool
	}{{"900", false}, {"901", true}, {"850", true}, {"950", true}, {"800", false}, {"850", false}} {
		h.Proc = hostWith(map[string]string{
			"sys/net/netfilter/nf_conntrack_count": test.count + "\n", "sys/net/netfilter/nf_conntrack_max": "1000\n",
		}).Proc
		got := h.Findings(Traffic{State: &rules.State{}})
		if len(got) == 1 != test.want || test.want && !strings.Contains(got[0].Message, "nf_conntrack_max=2000") {
			t.Errorf("%d: %s of 1000: %+v", i, test.count, got)
		}
	}
}

// The kernel's own files and links.
func TestHostFindsWhatIsThere(t *testing.T) {
	cluster := netns.ClusterForTest(t, netns.PodNetwork{Bridged: true}, 1, 2)
	node := cluster.Nodes[0]
	server, err := node.Serve(rules.TCP, netip.AddrPortFrom(node.Addr4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	traffic := one(rules.FrontendKey{Addr: node.Addr4, Protocol: rules.TCP, Port: 8080}, netip.AddrPortFrom(node.Pods[0].Addr4, 80).String())
	look := func() []string {
		var reasons []string
		err := node.Do(func() error {
			for _, f := range NewHost("portway").Findings(traffic) {
				t.Log(f.Message)
				reasons = append(reasons, f.Reason)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return reasons
	}
	if diff := cmp.Diff([]string{ReasonBridge, ReasonPortInUse}, look()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := node.FilterBridged(true); err != nil {
		netns.Lacks(t, "br_netfilter", err)
	}
	if diff := cmp.Diff([]string{ReasonPortInUse}, look()); diff != "" {
		t.Errorf("with br_netfilter (-want +got):\n%s", diff)
	}
}
