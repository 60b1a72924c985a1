package netns_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// unanswered is how long to wait for an answer that is not to come.
const unanswered = 200 * time.Millisecond

// clients are who may reach an address of the pool: from outside, a pod, and the node.
func (l *poolLab) clients() []*netns.Namespace {
	return []*netns.Namespace{l.Client, l.Pod("foo-1").Namespace, l.Node}
}

// refuses expects that a port of an address is refused at once, over TCP and UDP.
func (l *poolLab) refuses(from *netns.Namespace, to netip.AddrPort) {
	l.t.Helper()
	if tally := count(l.t, from, rules.TCP, to, 5); tally.Refused != 5 || tally.Unreachable+tally.Resent > 0 {
		l.t.Errorf("tcp from %s to %s: %s, want 5 resets", from.Name(), to, tally)
	}
	if from == l.Node { // its datagrams end where they are sent
		if _, err := from.Ask(rules.UDP, to, unanswered); !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ECONNREFUSED) {
			l.t.Errorf("udp from %s to %s: %v, want that it is refused", from.Name(), to, err)
		}
		return
	}
	got, err := from.AskRejected(to)
	if err != nil || got.Errno != syscall.ECONNREFUSED || got.To != to {
		l.t.Errorf("udp from %s to %s: %+v (%v), want port unreachable", from.Name(), to, got, err)
	}
}

// TestUnownedIsRefused: what no listener takes of an exclusive address's packets is
// refused on the node, whoever sends it, and nothing of it leaves the node.
func TestUnownedIsRefused(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-2"))
		for _, addr := range poolAddrs {
			l.loses("not exclusive", func() {
				for _, from := range l.clients() {
					_, _ = from.Ask(rules.UDP, netip.AddrPortFrom(addr, 81), unanswered)
				}
			})
		}
		l.program(l.serving("foo-2").WithExclusive(poolAddrs))
		for _, addr := range poolAddrs {
			for _, from := range l.clients() {
				l.keeps(from.Name(), func() {
					for _, protocol := range protocols {
						if tally := count(t, from, protocol, netip.AddrPortFrom(addr, 80), 5); tally.Answers["foo-2"] != 5 {
							l.t.Errorf("%s from %s to the listener at %s: %s", protocol, from.Name(), addr, tally)
						}
					}
					l.refuses(from, netip.AddrPortFrom(addr, 81))
					if err := from.Ping(addr, 3*time.Second); err != nil {
						l.t.Error(err)
					}
				})
			}
		}
	})
}

// TestExclusiveOutlivesItsListeners: established connections go on, new ones are refused,
// and once the address is nobody's, the node forwards to it as to any other.
func TestExclusiveOutlivesItsListeners(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		var conns []*netns.Conn
		for _, addr := range poolAddrs {
			for _, from := range []*netns.Namespace{l.Client, l.Pod("bar-1").Namespace, l.Node} {
				conn, err := from.Dial(netip.AddrPort{}, netip.AddrPortFrom(addr, 80))
				if err != nil {
					l.t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				if err := conn.SetDeadline(testDeadline()); err != nil {
					l.t.Fatal(err)
				}
				conns = append(conns, conn)
			}
		}
		established := func(when string) {
			for _, conn := range conns {
				if err := conn.Echo(when); err != nil {
					l.t.Errorf("%s to %s, %s: %v", conn.LocalAddr(), conn.RemoteAddr(), when, err)
				}
			}
		}
		l.program(l.serving().WithExclusive(poolAddrs))
		l.keeps("without a listener", func() {
			established("without a listener")
			for _, addr := range poolAddrs {
				for _, from := range l.clients() {
					l.refuses(from, netip.AddrPortFrom(addr, 80))
				}
			}
		})
		l.program(l.serving())
		established("without the address")
		for _, addr := range poolAddrs {
			l.loses("without the address", func() { _, _ = l.Client.Ask(rules.TCP, netip.AddrPortFrom(addr, 80), unanswered) })
		}
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		established("with all of it again")
	})
}

// Segments of TCP, by their flags, and messages of ICMP and ICMPv6.
const (
	flagSYN, flagACK      = 0x02, 0x10
	icmp, icmpv6          = 1, 58
	timestamp             = 13  // RFC 792
	neighbourSolicitation = 135 // RFC 4861
	neighbourAdvert       = 136
)

// TestNothingLateLeaves: nor does what no nat chain sees, as conntrack finds it invalid or
// does not look at it, nor what has no ports. A connection is not ended by it. So it goes
// with what neighbours send to an address that a packet socket answers for: the kernel
// takes it for something to forward, or to complain about.
func TestNothingLateLeaves(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		client := map[bool]netip.Addr{true: netns.ClientAddr4, false: netns.ClientAddr6}
		for _, addr := range poolAddrs {
			from := netip.AddrPortFrom(client[addr.Is4()], 30000)
			listener, closed := netip.AddrPortFrom(addr, 80), netip.AddrPortFrom(addr, 81)
			conn, err := l.Client.Dial(netip.AddrPort{}, listener)
			if err != nil {
				l.t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.SetDeadline(testDeadline()); err != nil {
				l.t.Fatal(err)
			}
			segment := func(from, to netip.AddrPort, flags byte) func() error {
				return func() error { return l.Client.SendSegment(from, to, flags) }
			}
			messageFrom := func(from netip.Addr, protocol uint8, payload ...byte) func() error {
				return func() error { return l.Client.SendIP(protocol, from, addr, append(payload, make([]byte, 28)...)) }
			}
			message := func(protocol uint8, payload ...byte) func() error {
				return messageFrom(netip.Addr{}, protocol, payload...)
			}
			type kind struct {
				send  func() error
				reset int
			}
			kinds := map[string]kind{
				"invalid, of the connection":         {segment(conn.Peer, listener, 0x03), 0},
				"invalid, to a listener":             {segment(from, listener, 0x03), 0},
				"invalid, to no listener":            {segment(from, closed, 0x03), 0},
				"of a connection that nobody has":    {segment(from, closed, flagACK), 1},
				"SCTP":                               {message(132, 0, 1, 0, 80), 0},
				"a protocol that does not exist":     {message(253), 0},
				"another message of ICMP than pings": {message(icmp, timestamp), 0},
			}
			if addr.Is6() {
				kinds["another message of ICMP than pings"] = kinds["SCTP"]
				own := l.linkLocal()
				for name, number := range map[string]byte{
					"a solicitation of a neighbour that knows us": neighbourSolicitation, "an advertisement for us alone": neighbourAdvert,
				} {
					kinds[name] = kind{message(icmpv6, number), 0}
					kinds[name+", from its link-local address"] = kind{messageFrom(own, icmpv6, number), 0}
				}
			}
			for name, kind := range kinds {
				before, errors := l.resets(), l.errors()
				l.keeps(name, func() {
					if err := kind.send(); err != nil {
						l.t.Errorf("%s: %v", name, err)
					}
					if err := conn.Echo(name); err != nil { // behind it, on the same path
						l.t.Errorf("%s, %s: %v", addr, name, err)
					}
				})
				if got := l.resets() - before; got != kind.reset {
					l.t.Errorf("%s, %s: answered by %d resets, want %d", addr, name, got, kind.reset)
				}
				if got := l.errors() - errors; got != 0 {
					l.t.Errorf("%s, %s: answered by %d errors of ICMP", addr, name, got)
				}
			}
		}
	})
}

// TestUntrackedIsRefused: somebody else keeps conntrack from looking at the packets.
func TestUntrackedIsRefused(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		loadRules(l.t, l.Node, `
			table inet others {
				chain p { type filter hook prerouting priority raw; th dport 81 notrack; }
				chain o { type filter hook output priority raw; th dport 81 notrack; }
			}`)
		for _, addr := range poolAddrs {
			for _, from := range l.clients() {
				l.keeps(from.Name(), func() { l.refuses(from, netip.AddrPortFrom(addr, 81)) })
			}
		}
	})
}

// TestFlowsOlderThanTheAddress: those that nobody has answered are refused, and those that
// somebody else answers go on.
func TestFlowsOlderThanTheAddress(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-1"))
		for _, addr := range poolAddrs {
			from := netip.AddrPortFrom(netns.ClientAddr4, 30001)
			if addr.Is6() {
				from = netip.AddrPortFrom(netns.ClientAddr6, 30001)
			}
			stream, err := l.Client.StartStream(from, netip.AddrPortFrom(addr, 81), 10*time.Millisecond)
			if err != nil {
				l.t.Fatal(err)
			}
			defer func() { _, _ = stream.Stop() }()
			syn := func() {
				if err := l.Client.SendSegment(from, netip.AddrPortFrom(addr, 81), flagSYN); err != nil {
					l.t.Fatal(err)
				}
			}
			l.loses("not exclusive", func() {
				syn()
				poll(l.t, "a stream flows", func() bool { return stream.Sent() > 5 })
			})
			l.program(l.serving("foo-1").WithExclusive(poolAddrs))
			before := l.resets()
			l.keeps("exclusive", func() {
				syn()
				poll(l.t, "the stream is refused", func() bool { return stream.Refused() > 0 })
				poll(l.t, "the old connection is refused", func() bool { return l.resets() > before })
			})
			l.program(l.serving("foo-1"))
		}

		pod, to := l.Pod("bar-1"), netip.AddrPortFrom(poolAddrs[0], podPort)
		if err := l.Client.AddAddress("lo", netip.PrefixFrom(to.Addr(), 32)); err != nil {
			l.t.Fatal(err)
		}
		server, err := l.Client.Serve(rules.TCP, to)
		if err != nil {
			l.t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
		conn, err := pod.Dial(netip.AddrPort{}, to)
		if err != nil {
			l.t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		if err := errors.Join(conn.SetDeadline(testDeadline()), conn.Echo("still there")); err != nil {
			l.t.Errorf("answered by somebody else: %v", err)
		}
		l.refuses(pod.Namespace, to)
	})
}

// TestAddressOfAnInterface: what listens at an exclusive address that the node has all the
// same is reached.
func TestAddressOfAnInterface(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		for _, addr := range poolAddrs {
			at := netip.AddrPortFrom(addr, 81)
			l.refuses(l.Client, at)
			if err := l.Node.AddAddress("lo", netip.PrefixFrom(addr, addr.BitLen())); err != nil {
				l.t.Fatal(err)
			}
			for _, protocol := range protocols {
				server, err := l.Node.Serve(protocol, at)
				if err != nil {
					l.t.Fatal(err)
				}
				defer func() { _ = server.Close() }()
				poll(l.t, "the address is the node's", func() bool {
					_, err := l.Node.Ask(protocol, at, unanswered)
					return err == nil
				})
				for _, from := range l.clients() {
					if got, err := from.Ask(protocol, at, 3*time.Second); err != nil || got.Name != "node" {
						l.t.Errorf("%s from %s to %s: %+v, %v", protocol, from.Name(), at, got, err)
					}
				}
			}
			if got, err := l.Client.Ask(rules.TCP, netip.AddrPortFrom(addr, 80), 3*time.Second); err != nil || got.Name != "foo-1" {
				l.t.Errorf("the listener at %s: %+v, %v", addr, got, err)
			}
		}
	})
}

// TestOthersTranslateNothing: an exclusive address that is also one of somebody's Service,
// which he translates behind us, as kube-proxy does.
func TestOthersTranslateNothing(t *testing.T) {
	t.Parallel()
	inEachPool(t, func(l *poolLab) {
		l.program(l.serving("foo-1"))
		others := `
			table inet others {
				chain p { type nat hook prerouting priority dstnat; ip daddr 198.51.100.200 tcp dport 81 dnat ip to 10.244.1.11:6000; }
				chain o { type nat hook output priority -100; ip daddr 198.51.100.200 tcp dport 81 dnat ip to 10.244.1.11:6000; }
			}`
		if l.on.variant == "" {
			loadRules(l.t, l.Node, others)
		} else {
			for _, chain := range []string{"PREROUTING", "OUTPUT"} {
				if out, err := l.Node.Output("iptables-"+l.on.variant, "-t", "nat", "-A", chain,
					"-d", "198.51.100.200", "-p", "tcp", "--dport", "81", "-j", "DNAT", "--to-destination", "10.244.1.11:6000"); err != nil {
					l.t.Fatal(err, out)
				}
			}
		}
		to := netip.AddrPortFrom(poolAddrs[0], 81)
		for _, from := range l.clients() {
			if got, err := from.Ask(rules.TCP, to, 3*time.Second); err != nil || got.Name != "foo-2" {
				l.t.Errorf("%s, not exclusive: %+v, %v", from.Name(), got, err)
			}
		}
		l.program(l.serving("foo-1").WithExclusive(poolAddrs))
		for _, from := range l.clients() {
			l.keeps(from.Name(), func() { l.refuses(from, to) })
		}
	})
}
