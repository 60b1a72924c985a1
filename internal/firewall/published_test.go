package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// What publishers of ports write, as iptables -S prints it.
func TestPublishedByIPTables(t *testing.T) {
	tcp := func(ports ...uint16) (out []Published) {
		for _, port := range ports {
			out = append(out, Published{Protocol: rules.TCP, First: port, Last: port})
		}
		return out
	}
	for line, want := range map[string][]Published{
		`-N CNI-HOSTPORT-DNAT`: nil,
		`-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"17\"" -m multiport --dports 8080,8443 -j CNI-DN-1`: tcp(8080, 8443),
		`-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "-p tcp --dport 1" -m multiport --dports 53 -j CNI-DN-2`:                      {{Protocol: rules.UDP, First: 53, Last: 53}},
		`-A CNI-HOSTPORT-DNAT -p sctp -m multiport --dports 53 -j CNI-DN-3`:                                                             nil,
		`-A DOCKER -i docker0 -j RETURN`: nil,
		`-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80`:                             tcp(8080),
		`-A DOCKER -d 192.0.2.7/32 ! -i docker0 -p tcp -m tcp --dport 9000:9010 -j DNAT --to-destination 172.17.0.2:9000`:      {{Protocol: rules.TCP, First: 9000, Last: 9010, To: netip.MustParseAddr("192.0.2.7")}},
		`-A DOCKER -d 192.0.2.0/24 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80`:                            nil,
		`-A KUBE-HOSTPORTS -p tcp -m comment --comment "pod_ns hostport 8080" -m tcp --dport 8080 -j KUBE-HP-1`:                tcp(8080),
		`-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport 8080 -m comment --comment "dnat name: podman id: 1" -j NETAVARK-DN-1`: tcp(8080),
		`-A DOCKER -p tcp -m tcp ! --dport 80 -j DNAT --to-destination 172.17.0.2:80`:                                          nil,
	} {
		if diff := cmp.Diff(want, parsePublished(line), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

// publishing are commands that publish port 8080 of TCP as somebody does, and where a
// Finding has to say that it is.
var publishing = map[string]struct{ script, where string }{
	"portmap with iptables-nft": {
		`
iptables-nft -t nat -N CNI-HOSTPORT-DNAT
iptables-nft -t nat -N CNI-DN-1
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables-nft -t nat -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment 'dnat name: "cbr0"' -m multiport --dports 8080 -j CNI-DN-1
iptables-nft -t nat -A CNI-DN-1 -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.9:80`,
		"chain CNI-HOSTPORT-DNAT of table nat (iptables-nft)",
	},
	"Docker with iptables-legacy": {
		`
iptables-legacy -t nat -N DOCKER
iptables-legacy -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables-legacy -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.9:80`,
		"chain DOCKER of table nat (iptables-legacy)",
	},
	"portmap with nft": {
		`
nft -f - <<N
table ip cni_hostport {
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports; }
	chain hostports { tcp dport 8080 dnat to 10.0.0.9:80; }
}
N`,
		"chain hostports of table ip cni_hostport (nft)",
	},
	"Podman with nft": {
		`
nft -f - <<N
table inet netavark {
	chain nv_1_dnat { tcp dport 8080 dnat ip to 10.0.0.9:80; }
	chain ports { ip daddr 192.0.2.1 tcp dport 8080 goto nv_1_dnat; }
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump ports; }
}
N`,
		"chain nv_1_dnat of table inet netavark (nft)",
	},
}

// harmless are rules that publish no port.
const harmless = `
nft -f - <<N
table inet fw {
	chain pre { type nat hook prerouting priority dstnat; }
	chain ratelimit { limit rate over 10/second drop; }
	chain input { type filter hook input priority 0; tcp dport 8080 jump ratelimit; }
	chain post { type nat hook postrouting priority srcnat; tcp dport 8080 masquerade; }
}
N`

// In every way of publishing, the listener is told, and its neighbours are not; and to
// look makes no table.
func TestHostPortIsNamed(t *testing.T) {
	for name, p := range publishing {
		t.Run(name, func(t *testing.T) {
			ns := netns.ForTest(t, "node")
			look := func() []Finding {
				t.Helper()
				traffic := map[rules.FrontendKey]*rules.Frontend{}
				for port := range uint16(3) {
					traffic[frontend("192.0.2.1", rules.TCP, 8079+port)] = &rules.Frontend{
						Owner: rules.Owner{Gateway: "default/gateway", Listener: fmt.Sprint(8079 + port), Route: "default/route"},
					}
				}
				traffic[frontend("192.0.2.1", rules.UDP, 8080)] = &rules.Frontend{}
				var found []Finding
				if err := ns.Do(func() error {
					found = NewHost("portway").Findings(Traffic{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, State: rules.NewState(traffic, nil)})
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return found
			}
			tables := func() string {
				t.Helper()
				out, err := ns.Output("sh", "-c", "nft list ruleset; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null || true")
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			if found := look(); len(found) > 0 || tables() != "" {
				t.Fatalf("on an empty host: %+v, and then there is\n%s", found, tables())
			}
			if out, err := ns.Output("sh", "-ec", harmless); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if found := look(); len(found) > 0 {
				t.Fatalf("of rules that publish nothing: %+v", found)
			}
			if out, err := ns.Output("sh", "-ec", p.script); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			before := tables()
			found := look()
			want := rules.Owner{Gateway: "default/gateway", Listener: "8080"}
			if len(found) != 1 || found[0].Reason != ReasonHostPort || found[0].Owner != want || !strings.Contains(found[0].Message, p.where) {
				t.Errorf("%+v, want one of %+v that names %s", found, want, p.where)
			}
			if after := tables(); after != before {
				t.Errorf("to look changed\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestLoopbackNeedsASetting(t *testing.T) {
	for _, test := range []struct {
		addr, localnet string
		want           bool
	}{{"127.0.0.1", "0", true}, {"127.0.0.1", "1", false}, {"192.0.2.1", "0", false}} {
		got := hostWith(map[string]string{"sys/net/ipv4/conf/all/route_localnet": test.localnet + "\n"}).
			Findings(one(frontend(test.addr, rules.TCP, 80), "10.0.0.1:80"))
		if len(got) == 1 != test.want || test.want && (got[0].Reason != ReasonLoopback || !strings.HasSuffix(got[0].Message, "route_localnet=1")) {
			t.Errorf("%+v: %+v", test, got)
		}
	}
}

func TestManyInvalidPackets(t *testing.T) {
	h := hostWith(nil)
	for i, test := range []struct {
		packets uint32 // since the kernel started
		liberal string
		want    bool
	}{
		{50_000, "0", false}, // when, nobody knows
		{53_000, "0", false},
		{56_001, "0", true},
		{56_302, "0", true}, // still many
		{56_400, "0", false},
		{58_000, "0", false},
		{70_000, "0", true},
		{90_000, "1", false}, // the cure
		{95_000, "0", true},
		{10, "0", false}, // counted anew
	} {
		h.Proc = hostWith(map[string]string{
			"sys/net/netfilter/nf_conntrack_tcp_be_liberal": test.liberal + "\n",
			"thread-self/net/stat/nf_conntrack": fmt.Sprintf("entries  clashres found new invalid ignore\n"+
				"00000002  00000001 00000001 00000000 %08x 00000009\n00000002  00000001 00000001 00000000 00000004 00000009\n", test.packets-4),
		}).Proc
		got := h.Findings(Traffic{State: &rules.State{}})
		if len(got) == 1 != test.want || test.want && (got[0].Reason != ReasonInvalid || !strings.HasSuffix(got[0].Message, "nf_conntrack_tcp_be_liberal=1")) {
			t.Errorf("%d: %+v: %+v", i, test, got)
		}
	}
}
