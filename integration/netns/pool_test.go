package netns_test

import (
	"errors"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// poolAddrs are in the network between the client and the node, and no interface has them.
var poolAddrs = []netip.Addr{netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("2001:db8:c::200")}

// What is for an address of the pool is counted where it leaves the node, by whatever
// interface, and where it comes to the client.
const (
	overheardByNode = `
table inet overhear {
	counter pool { }
	chain leaving {
		type filter hook postrouting priority 300;
		ip daddr 198.51.100.200 counter name pool
		ip6 daddr 2001:db8:c::200 counter name pool
	}
}
`
	overheardByClient = `
table netdev overhear {
	counter pool { }
	counter resets { }
	counter errors { }
	chain coming {
		type filter hook ingress device "eth0" priority 0;
		ip daddr 198.51.100.200 counter name pool
		ip6 daddr 2001:db8:c::200 counter name pool
		ip saddr 198.51.100.200 tcp flags & rst == rst counter name resets
		ip6 saddr 2001:db8:c::200 tcp flags & rst == rst counter name resets
		icmp type { destination-unreachable, time-exceeded, parameter-problem } counter name errors
		icmpv6 type { destination-unreachable, time-exceeded, parameter-problem } counter name errors
	}
}
`
)

// poolLab is a lab in which the client finds the addresses of the pool at the node, as if
// the node had answered for them. The node finds them at the client: what it does not keep
// comes back.
type poolLab struct {
	*netns.Lab
	t  *testing.T
	on backend
	programmer
}

// inEachPool runs a test in a lab of its own for each backend and variant.
func inEachPool(t *testing.T, test func(*poolLab)) {
	t.Helper()
	eachVariant(t, func(on trial) {
		on.Parallel()
		l := newPoolLab(on.T)
		l.on = on.backend
		err := l.Node.Do(func() (err error) {
			l.programmer, err = on.open()
			return err
		})
		if err != nil {
			on.Fatal(err)
		}
		on.Cleanup(func() { _ = l.Close() })
		test(l)
	})
}

func newPoolLab(t *testing.T) *poolLab {
	t.Helper()
	l := &poolLab{Lab: netns.LabForTest(t, guidePods...), t: t}
	err := l.Serve(podPort)
	for _, addr := range poolAddrs {
		if err == nil {
			err = l.leadToNode(addr)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	loadRules(t, l.Node, overheardByNode)
	loadRules(t, l.Client, overheardByClient)
	return l
}

func (l *poolLab) leadToNode(addr netip.Addr) error {
	atNode, err := l.Node.LinkAddress("uplink")
	if err != nil {
		return err
	}
	atClient, err := l.Client.LinkAddress("eth0")
	return errors.Join(err,
		l.Client.AddRoute(netip.PrefixFrom(addr, addr.BitLen()), netip.Addr{}, "eth0"),
		l.Client.AddNeighbour(addr, atNode, "eth0"),
		l.Node.AddNeighbour(addr, atClient, "uplink"),
	)
}

// program brings a State into the kernel of the node.
func (l *poolLab) program(s *rules.State) {
	l.t.Helper()
	var results rules.Results
	err := l.Node.Do(func() (err error) {
		results, err = l.Program(l.t.Context(), s)
		return err
	})
	if err != nil || len(results.Errors) > 0 {
		l.t.Fatalf("%v, errors %v", err, results.Errors)
	}
}

// serving is the State in which a pod serves TCP and UDP at port 80 of the pool's
// addresses; none: nobody does.
func (l *poolLab) serving(pods ...string) *rules.State {
	frontends := map[rules.FrontendKey]*rules.Frontend{}
	for _, addr := range poolAddrs {
		for _, protocol := range protocols {
			f := &rules.Frontend{Owner: rules.Owner{Gateway: gateway, Listener: "listener", Route: "default/route"}}
			if protocol == rules.UDP {
				f.Select = rules.FlowHash
			}
			b := rules.Backend{Ref: "default/service", Weight: 1}
			for _, name := range pods {
				pod := l.Pod(name)
				at := pod.Addr4
				if addr.Is6() {
					at = pod.Addr6
				}
				b.Endpoints = append(b.Endpoints, rules.Endpoint{Addr: netip.AddrPortFrom(at, podPort), Name: name, Local: true})
			}
			f.Backends = []rules.Backend{b}
			if len(pods) > 0 {
				frontends[rules.FrontendKey{Addr: addr, Protocol: protocol, Port: 80}] = f
			}
		}
	}
	return rules.NewState(frontends, map[string]string{gateway: "1:test"})
}

var counted = regexp.MustCompile(`packets (\d+) `)

// overheard is a counter of one of those tables.
func (l *poolLab) overheard(at *netns.Namespace, family, name string) int {
	l.t.Helper()
	out := nftIn(l.t, at, "list", "counter", family, "overhear", name)
	m := counted.FindStringSubmatch(out)
	if m == nil {
		l.t.Fatalf("no counter in:\n%s", out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// left counts the packets for the pool's addresses that left the node since its start, and
// those of them that came to the client.
func (l *poolLab) left() (leaving, coming int) {
	l.t.Helper()
	return l.overheard(l.Node, "inet", "pool"), l.overheard(l.Client, "netdev", "pool")
}

// resets counts the resets of the pool's addresses that came to the client.
func (l *poolLab) resets() int { return l.overheard(l.Client, "netdev", "resets") }

// linkLocal is the address from which the client's kernel asks its neighbours.
func (l *poolLab) linkLocal() netip.Addr {
	l.t.Helper()
	out, err := l.Client.Output("ip", "-6", "-oneline", "address", "show", "dev", "eth0", "scope", "link")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, field := range strings.Fields(out) {
		if prefix, err := netip.ParsePrefix(field); err == nil {
			return prefix.Addr().WithZone("eth0")
		}
	}
	l.t.Fatalf("no address in %q", out)
	return netip.Addr{}
}

// errors counts the errors of ICMP that came to the client.
func (l *poolLab) errors() int { return l.overheard(l.Client, "netdev", "errors") }

// keeps expects that nothing for the pool's addresses leaves the node meanwhile.
func (l *poolLab) keeps(what string, during func()) {
	l.t.Helper()
	leaving, coming := l.left()
	during()
	if a, b := l.left(); a != leaving || b != coming {
		l.t.Errorf("%s: %d packets left the node, %d came to the client", what, a-leaving, b-coming)
	}
}

// loses expects that something does: without, keeps would prove nothing.
func (l *poolLab) loses(what string, during func()) {
	l.t.Helper()
	leaving, coming := l.left()
	during()
	if a, b := l.left(); a == leaving || b == coming {
		l.t.Errorf("%s: %d packets left the node, %d came to the client, want some", what, a-leaving, b-coming)
	}
}
