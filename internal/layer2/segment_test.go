package layer2

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

// patience bounds waiting for what takes milliseconds on an idle machine.
const patience = 20 * time.Second

// vip4 and vip6 are addresses on the network of a segment that nobody has; far4 and far6
// are on no network of it.
var (
	vip4, vip6 = netip.MustParseAddr("198.51.100.100"), netip.MustParseAddr("2001:db8:5::100")
	far4, far6 = netip.MustParseAddr("203.0.113.100"), netip.MustParseAddr("2001:db8:f::100")
	vips       = []netip.Addr{vip4, vip6}
)

// host is a namespace on a segment.
type host struct {
	*netns.Namespace
	addr4, addr6 netip.Addr
}

// segment is a bridge with hosts, each at its interface eth0; the bridge's ports have the
// hosts' names.
type segment struct {
	*netns.Namespace
	hosts []*host
}

func newSegment(tb testing.TB, names ...string) *segment {
	tb.Helper()
	s := &segment{Namespace: netns.ForTest(tb, "segment")}
	if err := s.FilterBridged(false); err != nil {
		tb.Fatal(err)
	}
	if err := s.AddBridge("lan"); err != nil {
		tb.Fatal(err)
	}
	for i, name := range names {
		h := &host{Namespace: netns.ForTest(tb, name)}
		h.addr4 = netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})
		h.addr6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 5, 15: byte(i + 1)})
		s.hosts = append(s.hosts, h)
		if err := netns.Connect(h.Namespace, "eth0", s.Namespace, name); err != nil {
			tb.Fatal(err)
		}
		s.run(tb, "ip link set "+name+" master lan")
		err := h.AddAddress("eth0", netip.PrefixFrom(h.addr4, 24), netip.PrefixFrom(h.addr6, 64))
		if err != nil {
			tb.Fatal(err)
		}
		h.awaitLinkLocal(tb, "eth0")
		for _, key := range []string{"net/ipv4/neigh/eth0/retrans_time_ms", "net/ipv6/neigh/eth0/retrans_time_ms"} {
			if err := h.SetSysctl(key, "100"); err != nil { // nobody is far away here
				tb.Fatal(err)
			}
		}
	}
	return s
}

// run runs a shell command on the bridge's side.
func (s *segment) run(tb testing.TB, command string) {
	tb.Helper()
	run(tb, s.Namespace, command)
}

func (h *host) run(tb testing.TB, command string) {
	tb.Helper()
	run(tb, h.Namespace, command)
}

func run(tb testing.TB, n *netns.Namespace, command string) {
	tb.Helper()
	if _, err := n.Output("sh", "-ec", command); err != nil {
		tb.Fatal(err)
	}
}

// awaitLinkLocal waits until an interface has a link-local address that is usable.
func (h *host) awaitLinkLocal(tb testing.TB, link string) {
	tb.Helper()
	eventually(tb, h.Name()+"/"+link+" has a link-local address", func() bool {
		usable := false
		h.do(tb, func() error {
			ls, err := listLinks(nil)
			if err == nil {
				for _, l := range ls.match([]string{link}) {
					usable = l.linkLocal.IsValid()
				}
			}
			return err
		})
		return usable
	})
}

func (h *host) do(tb testing.TB, f func() error) {
	tb.Helper()
	if err := h.Do(f); err != nil {
		tb.Fatal(err)
	}
}

// mac of an interface.
func (h *host) mac(tb testing.TB, link string) MAC {
	tb.Helper()
	var mac MAC
	h.do(tb, func() error {
		l, err := netlink.LinkByName(link)
		if err == nil {
			mac = MAC(l.Attrs().HardwareAddr)
		}
		return err
	})
	return mac
}

// neighbour returns what the kernel knows of a neighbour.
func (h *host) neighbour(tb testing.TB, address netip.Addr) (mac MAC, state int) {
	tb.Helper()
	h.do(tb, func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range list {
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == address {
				state = n.State
				if len(n.HardwareAddr) == len(mac) {
					mac = MAC(n.HardwareAddr)
				}
			}
		}
		return err
	})
	return mac, state
}

// ask sends a datagram, so that the kernel has to find out who has the address.
func (h *host) ask(tb testing.TB, address netip.Addr) {
	tb.Helper()
	h.do(tb, func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(address, 9).String())
		if err != nil {
			return err
		}
		_, _ = conn.Write([]byte("?")) // refused when the address is nobody's
		return conn.Close()
	})
}

// awaitNeighbour asks until the kernel has learned that an address is at a MAC.
func (h *host) awaitNeighbour(tb testing.TB, address netip.Addr, want MAC) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%s learns that %s is at %s", h.Name(), address, want), func() bool {
		h.ask(tb, address)
		mac, _ := h.neighbour(tb, address)
		return mac == want
	})
}

// flushNeighbours forgets.
func (h *host) flushNeighbours(tb testing.TB) {
	tb.Helper()
	h.run(tb, "ip neigh flush all")
}

// respond runs a Responder on a host until the test ends.
func (h *host) respond(tb testing.TB, config Config) *Responder {
	tb.Helper()
	r, err := New(config)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Do(func() error { return r.Run(ctx) }) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return r
}

// quick is a Config whose waiting is short.
func quick() Config {
	c := DefaultConfig()
	c.ProbeInterval, c.ProbeWait = 20*time.Millisecond, 100*time.Millisecond
	c.Announcements = []time.Duration{20 * time.Millisecond, 100 * time.Millisecond}
	c.Recheck, c.Verify = 200*time.Millisecond, 200*time.Millisecond
	return c
}

func await(tb testing.TB, r *Responder, address netip.Addr, want State) Status {
	tb.Helper()
	var got Status
	eventually(tb, fmt.Sprintf("%s is %s", address, want), func() bool {
		got = r.Statuses()[address]
		return got.State == want && !got.Since.IsZero()
	})
	return got
}

func eventually(tb testing.TB, what string, f func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// own has a Responder answer for addresses.
func own(r *Responder, probe bool, addresses ...netip.Addr) {
	set := map[netip.Addr]Address{}
	for _, a := range addresses {
		set[a] = Address{Probe: probe}
	}
	r.Set(set)
}

// reachable are the states of a neighbour that has been confirmed lately.
const reachable = unix.NUD_REACHABLE
