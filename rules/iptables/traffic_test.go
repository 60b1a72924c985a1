package iptables

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// lab is a network with a programmer on its node.
type lab struct {
	*netns.Lab
	t *testing.T
	c Config
	p *Programmer
}

const podPort = 6000

// eachLab runs a test on a fresh lab for each variant: two pods on the node, one behind
// another one.
func eachLab(t *testing.T, f func(*lab)) {
	t.Helper()
	for _, v := range []Variant{NFT, Legacy} {
		t.Run(string(v), func(t *testing.T) {
			_, c := inNamespace(t, v)
			l := &lab{t: t, c: c, Lab: netns.LabForTest(t,
				netns.PodSpec{Name: "near-1", Number: 10}, netns.PodSpec{Name: "near-2", Number: 11}, netns.PodSpec{Name: "far", Number: 12, Far: true})}
			if err := l.Serve(podPort); err != nil {
				t.Fatal(err)
			}
			l.c.NetNS = l.Node.Handle()
			l.p = newProgrammer(t, l.c)
			f(l)
		})
	}
}

var nodeAddrs = []netip.Addr{netns.NodeAddr4, netns.NodeAddr6}

// listener is a Frontend on both addresses of the node, port 80; pods by name for each
// backendRef, of the given weights.
func (l *lab) listener(protocol rules.Protocol, weights []uint32, pods ...string) frontends {
	out := make(frontends)
	for _, addr := range nodeAddrs {
		f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r")}
		if protocol == rules.UDP {
			f.Select = rules.FlowHash
		}
		for i, weight := range weights {
			b := rules.Backend{Ref: fmt.Sprint("ns/", i), Weight: weight}
			for _, name := range strings.Fields(pods[i]) {
				pod := l.Pod(name)
				at := pod.Addr6
				if addr.Is4() {
					at = pod.Addr4
				}
				b.Endpoints = append(b.Endpoints, rules.Endpoint{Addr: netip.AddrPortFrom(at, podPort), Name: name, Local: !pod.Far})
			}
			f.Backends = append(f.Backends, b)
		}
		out[rules.FrontendKey{Addr: addr, Protocol: protocol, Port: 80}] = f
	}
	return out
}

func (l *lab) program(of frontends) {
	l.t.Helper()
	mustProgram(l.t, l.p, stateOf(of))
}

func (l *lab) count(from *netns.Namespace, protocol rules.Protocol, addr netip.Addr, n int) netns.Tally {
	l.t.Helper()
	f := from.CountTCP
	if protocol == rules.UDP {
		f = from.CountUDP
	}
	tally, err := f(netip.AddrPortFrom(addr, 80), n)
	if err != nil {
		l.t.Fatal(err)
	}
	return tally
}

// share checks that k of n draws are plausible for a probability: within five
// standard deviations.
func share(t *testing.T, what string, k, n int, p float64) {
	t.Helper()
	if math.Abs(float64(k)-float64(n)*p) > 5*math.Sqrt(float64(n)*p*(1-p)) {
		t.Errorf("%s: %d of %d, want a share of %.4f", what, k, n, p)
	}
}

func TestKernelDrawsTheShares(t *testing.T) {
	eachLab(t, func(l *lab) {
		for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
			l.program(l.listener(protocol, []uint32{5, 2, 3, 0}, "near-1 far", "near-2", "", "near-2"))
			for _, addr := range nodeAddrs {
				const n = 384 // three batches of datagrams
				tally := l.count(l.Client, protocol, addr, n)
				share(l.t, "near-1", tally.Answers["near-1"], n, 0.25)
				share(l.t, "far", tally.Answers["far"], n, 0.25)
				share(l.t, "near-2", tally.Answers["near-2"], n, 0.2)
				refused := tally.Refused // TCP by RST
				if protocol == rules.UDP {
					refused = tally.Silent
				}
				share(l.t, "refused", refused, n, 0.3)
				if tally.Total() != n || tally.Unreachable > 0 || tally.Resent > 0 {
					l.t.Errorf("%s %s: %s", protocol, addr, tally)
				}
			}
		}
	})
}

// A listener without endpoints refuses everybody: who is forwarded, and the node itself.
func TestAllIsRefused(t *testing.T) {
	eachLab(t, func(l *lab) {
		for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
			l.program(l.listener(protocol, nil))
			for _, addr := range nodeAddrs {
				tally := l.count(l.Client, protocol, addr, 10)
				refused := tally.Refused
				if protocol == rules.UDP {
					refused = tally.Silent
				}
				if refused != 10 || tally.Unreachable > 0 || tally.Resent > 0 {
					l.t.Errorf("%s %s: %s", protocol, addr, tally)
				}
			}
			_, err := l.Node.Ask(protocol, netip.AddrPortFrom(netns.NodeAddr4, 80), 200*time.Millisecond)
			if protocol == rules.TCP && !errors.Is(err, syscall.ECONNREFUSED) || err == nil {
				l.t.Errorf("%s from the node itself: %v", protocol, err)
			}
		}
	})
}

// Who the endpoint sees: the client where it runs on this node, the node where it runs
// elsewhere, and the node where it is the client itself.
func TestMasquerade(t *testing.T) {
	eachLab(t, func(l *lab) {
		for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
			for _, test := range []struct {
				pod  string
				from *netns.Namespace
				peer [2]netip.Addr
			}{
				{"near-1", l.Client, [2]netip.Addr{netns.ClientAddr4, netns.ClientAddr6}},
				{"far", l.Client, [2]netip.Addr{netns.FabricAddr4, netns.FabricAddr6}},
				{"near-1", l.Pod("near-2").Namespace, [2]netip.Addr{l.Pod("near-2").Addr4, l.Pod("near-2").Addr6}},
			} {
				l.program(l.listener(protocol, []uint32{1}, test.pod))
				for i, addr := range nodeAddrs {
					if tally := l.count(test.from, protocol, addr, 5); tally.Peers[test.peer[i]] != 5 {
						l.t.Errorf("%s of %s by %s: %s, seen as %v", test.pod, test.from.Name(), addr, tally, tally.Peers)
					}
				}
			}
			l.program(l.listener(protocol, []uint32{1}, "near-1"))
			for _, addr := range nodeAddrs {
				pod := l.Pod("near-1")
				tally := l.count(pod.Namespace, protocol, addr, 5)
				if tally.Answered() != 5 || tally.Peers[pod.Addr4]+tally.Peers[pod.Addr6] != 0 {
					l.t.Errorf("hairpin by %s %s: %s, seen as %v", protocol, addr, tally, tally.Peers)
				}
			}
		}
	})
}

// Connections while the rules change, the process restarts and others change theirs:
// none is refused, and none is sent twice.
func TestUpdatesRefuseNothing(t *testing.T) {
	eachLab(t, func(l *lab) {
		r := rand.New(rand.NewPCG(1, 2))
		names := []string{"near-1", "near-2", "far"}
		update := func() {
			first, second := names[r.IntN(3)], names[r.IntN(3)]
			of := l.listener(rules.TCP, []uint32{uint32(1 + r.IntN(3)), uint32(1 + r.IntN(3))}, first, second)
			for port := range uint16(r.IntN(20)) {
				of[rules.FrontendKey{Addr: netns.NodeAddr4, Protocol: rules.TCP, Port: 1000 + port}] = of[rules.FrontendKey{Addr: netns.NodeAddr4, Protocol: rules.TCP, Port: 80}]
			}
			l.program(of)
		}
		update()
		load := l.Client.StartLoad(netip.AddrPortFrom(netns.NodeAddr4, 80))
		updates := 0
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); updates++ {
			if updates%4 == 3 {
				l.p = newProgrammer(l.t, l.c)
			}
			update()
		}
		tally, err := load.Stop()
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Logf("%d updates, %s", updates, tally)
		if tally.Answered() != tally.Total() || tally.Resent > 0 || tally.Total() < 100 {
			l.t.Errorf("during %d updates: %s", updates, tally)
		}
	})
}

// A packet that only looks as if it were to be refused passes: others may use the bit.
func TestMarkOfOthersRefusesNothing(t *testing.T) {
	eachLab(t, func(l *lab) {
		l.program(l.listener(rules.TCP, []uint32{1}, "near-1 far"))
		for _, table := range []string{"iptables-", "ip6tables-"} {
			command(l.t, l.Node, fmt.Sprintf("%s%s -t mangle -A PREROUTING -j MARK --set-xmark %#x", table, l.c.Variant, l.c.PacketMark))
		}
		if tally := l.count(l.Client, rules.TCP, netns.NodeAddr4, 20); tally.Answered() != 20 {
			l.t.Errorf("to the listener: %s", tally)
		}
		if a, err := l.Client.Ask(rules.TCP, netip.AddrPortFrom(l.Pod("near-1").Addr4, podPort), time.Second); err != nil {
			l.t.Errorf("to the pod itself: %v, %v", a, err)
		}
	})
}

// A client goes to one endpoint, from whatever port, and stays when another one goes.
// Endpoints have as many clients as the Layout gives them.
func TestClientsStay(t *testing.T) {
	eachLab(t, func(l *lab) {
		const clients = 200
		addrs := make([]netip.Addr, clients)
		for i := range addrs {
			addrs[i] = netip.AddrFrom4([4]byte{198, 51, 100, byte(20 + i)})
			if err := l.Client.AddAddress("eth0", netip.PrefixFrom(addrs[i], 32)); err != nil {
				l.t.Fatal(err)
			}
		}
		port := uint16(5000)
		who := func(pods string) (names []string) {
			l.t.Helper()
			of := l.listener(rules.UDP, []uint32{1}, pods)
			for _, f := range of {
				f.Select = rules.ClientHash
			}
			l.program(of)
			port++
			for _, addr := range addrs {
				answer, err := l.Client.AskUDP(netip.AddrPortFrom(addr, port), netip.AddrPortFrom(netns.NodeAddr4, 80))
				if err != nil {
					l.t.Fatal(err)
				}
				names = append(names, answer.Name)
			}
			return names
		}
		first := who("near-1 near-2 far")
		counts := make(map[string]int)
		for _, name := range first {
			counts[name]++
		}
		for _, name := range []string{"near-1", "near-2", "far"} {
			share(l.t, name, counts[name], clients, 1.0/3)
		}
		for i, name := range who("far near-2 near-1") {
			if name != first[i] {
				l.t.Errorf("%s went to %s and then to %s", addrs[i], first[i], name)
			}
		}
		moved := 0
		for i, name := range who("near-1 far") {
			if name != first[i] && first[i] != "near-2" {
				moved++
			}
		}
		if moved > clients/20 { // less than 2 % of all, by rules.Layout, and what chance adds
			l.t.Errorf("%d clients moved whose endpoint stayed", moved)
		}
	})
}

// Cleanup ends no established connection as long as a rule of others has the kernel track
// connections, in the family: without any, as on a node with nothing but ours, it stops
// doing so, and with that to translate (nf_ct_netns_put).
func TestCleanupKeepsWhatIsEstablished(t *testing.T) {
	eachLab(t, func(l *lab) {
		l.program(l.listener(rules.TCP, []uint32{1}, "near-1 near-2 far"))
		for _, addr := range nodeAddrs {
			conn, err := l.Client.Dial(netip.AddrPort{}, netip.AddrPortFrom(addr, 80))
			if err != nil {
				l.t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			command(l.t, l.Node, fmt.Sprintf("%s-%s -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", family(addr.Is6()), l.c.Variant))
			if err := l.p.Cleanup(l.t.Context()); err != nil {
				l.t.Fatal(err)
			}
			if err := conn.Echo("after"); err != nil {
				l.t.Errorf("%s: %v", addr, err)
			}
			l.program(l.listener(rules.TCP, []uint32{1}, "near-1"))
			if err := conn.Echo("programmed again"); err != nil {
				l.t.Errorf("%s, programmed again: %v", addr, err)
			}
		}
	})
}
