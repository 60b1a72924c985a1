package rulestest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// Site is a node to program a random State on, with its endpoints behind it and with
// clients outside. Not safe for concurrent use.
type Site struct {
	Node    *netns.Namespace
	client  *netns.Namespace
	servers map[kind][]server // the last one of UDP is no endpoint
	flows   int               // that were opened
}

type kind struct {
	ipv6     bool
	protocol rules.Protocol
}

type server struct {
	fd int
	at netip.AddrPort
}

// Origin is where flows come from. Each has prefixes of its own, of 16 bits.
type Origin struct {
	Name   string
	node   bool
	v4, v6 netip.Prefix
}

// The origins: a client that the node forwards, and the node itself. Their IPv6 addresses
// differ in the first 32 bits, as iptables hashes no more of them.
var (
	Outside = Origin{"outside", false, netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("fc00::/16")}
	Inside  = Origin{"inside", true, netip.MustParsePrefix("198.19.0.0/16"), netip.MustParsePrefix("fc80::/16")}
)

// SiteForTest makes a Site and closes it at the end of the test.
func SiteForTest(tb testing.TB) *Site {
	tb.Helper()
	netns.Require(tb)
	lab, err := netns.NewLab(netns.PodSpec{Name: "pods", Number: 10})
	if err != nil {
		tb.Fatal(err)
	}
	s := &Site{Node: lab.Node, client: lab.Client, servers: make(map[kind][]server)}
	pods := lab.Pod("pods")
	tb.Cleanup(func() {
		for _, list := range s.servers {
			for _, server := range list {
				_ = unix.Close(server.fd) // all that it can tell is that there is no such descriptor
			}
		}
		if err := lab.Close(); err != nil {
			tb.Error(err)
		}
	})
	err = errors.Join(
		whole(pods.Namespace, "10.0.0.0/16", "fd00::/64"),
		whole(s.client, Outside.v4.String(), Outside.v6.String()),
		whole(s.Node, Inside.v4.String(), Inside.v6.String()),
		s.Node.AddRoute(netip.MustParsePrefix("10.0.0.0/16"), pods.Addr4, "pod10"),
		s.Node.AddRoute(netip.MustParsePrefix("fd00::/64"), pods.Addr6, "pod10"),
		s.Node.AddRoute(Outside.v4, netns.ClientAddr4, "uplink"),
		s.Node.AddRoute(Outside.v6, netns.ClientAddr6, "uplink"),
		whole(s.Node, Addresses[1].String()), // the others are the lab's
		pods.Do(s.serve),
	)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// whole makes all addresses of prefixes the namespace's own.
func whole(n *netns.Namespace, prefixes ...string) error {
	// For IPv6 a local route alone does not let a socket have the address.
	errs := []error{n.SetSysctl("net/ipv6/ip_nonlocal_bind", "1")}
	for _, prefix := range prefixes {
		_, err := n.Output("ip", "route", "add", "local", prefix, "dev", "lo")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Site) serve() error {
	for _, k := range []kind{{false, rules.TCP}, {false, rules.UDP}, {true, rules.TCP}, {true, rules.UDP}} {
		var addrs []netip.Addr
		for i := range byte(12) {
			addrs = append(addrs, Endpoint(k.ipv6, i%2, i/2))
		}
		for _, addr := range append(addrs, Endpoint(k.ipv6, 9, 9)) {
			at := netip.AddrPortFrom(addr, endpointPort)
			fd, err := k.open(at)
			if err == nil && k.protocol == rules.TCP {
				err = unix.Listen(fd, 8)
			}
			if err != nil {
				return fmt.Errorf("serve %s %s: %w", k.protocol, at, err)
			}
			s.servers[k] = append(s.servers[k], server{fd, at})
		}
	}
	return nil
}

// open opens a socket at an address.
func (k kind) open(at netip.AddrPort) (int, error) {
	family, how := unix.AF_INET, unix.SOCK_STREAM
	if k.ipv6 {
		family = unix.AF_INET6
	}
	if k.protocol == rules.UDP {
		how = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, how|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// sampled is how many flows of one origin to one Frontend are opened.
const sampled = 500

// Compare opens flows to every Frontend of a State that is programmed on the node, each
// from another client, and says where what becomes of them is not plausible for their
// Fate. None of these clients is an endpoint.
func (s *Site) Compare(state *rules.State, r *rand.Rand, fate func(Origin, rules.Packet) *Fate) error {
	var errs []error
	for _, from := range []Origin{Outside, Inside} {
		for _, key := range state.Keys() {
			counts, err := s.sample(from, key, r)
			if err == nil {
				p := rules.Packet{Protocol: key.Protocol, Src: s.newClient(from, key.Addr.Is6(), r), Dst: netip.AddrPortFrom(key.Addr, key.Port)}
				err = Plausible(counts, fate(from, p).Outcomes)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("from %s to %s: %w", from.Name, key, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Site) sample(from Origin, key rules.FrontendKey, r *rand.Rand) (map[rules.Outcome]int, error) {
	home := s.client
	if from.node {
		home = s.Node
	}
	counts := make(map[rules.Outcome]int)
	err := home.Do(func() error {
		return pinned(func() error {
			for range sampled {
				o, err := s.flow(key, s.newClient(from, key.Addr.Is6(), r))
				if err != nil {
					return err
				}
				counts[o]++
			}
			return nil
		})
	})
	return counts, err
}

// pinned runs f on one processor, where packets overtake each other nowhere. The caller
// has locked its thread.
func pinned(f func() error) error {
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	return errors.Join(f(), unix.SchedSetaffinity(0, &all))
}

// newClient returns a random one. The port is not used again soon.
func (s *Site) newClient(from Origin, ipv6 bool, r *rand.Rand) netip.AddrPort {
	prefix := from.v4
	if ipv6 {
		prefix = from.v6
	}
	bytes := prefix.Addr().AsSlice()
	for i := prefix.Bits() / 8; i < len(bytes); i++ {
		bytes[i] = byte(1 + r.IntN(254))
	}
	addr, _ := netip.AddrFromSlice(bytes)
	s.flows++
	return netip.AddrPortFrom(addr, uint16(10_000+s.flows%50_000))
}

func (s *Site) flow(key rules.FrontendKey, client netip.AddrPort) (o rules.Outcome, err error) {
	k := kind{key.Addr.Is6(), key.Protocol}
	fd, err := k.open(client)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	to := sockaddr(netip.AddrPortFrom(key.Addr, key.Port))
	var arrived int
	if k.protocol == rules.TCP {
		arrived, err = s.connect(k, fd, to)
	} else {
		arrived, err = s.send(k, fd, to)
	}
	if err != nil || arrived < 0 {
		return o, err
	}
	at, peer, err := s.servers[k][arrived].accept(k)
	switch {
	case err != nil:
		return o, err
	case peer != client && peer.Addr() == client.Addr():
		return o, fmt.Errorf("%s saw it as %s", at, peer)
	}
	return rules.Outcome{Endpoint: at, Masquerade: peer != client}, nil
}

// connect opens a connection and returns which server it arrived at, -1 where it was
// refused. It is reset when it is closed, so that ports do not run out.
func (s *Site) connect(k kind, fd int, to unix.Sockaddr) (int, error) {
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	err := unix.Connect(fd, to)
	if errors.Is(err, unix.EINPROGRESS) {
		if _, err := await(patience, unix.POLLOUT, fd); err != nil {
			return 0, err
		}
		var code int
		if code, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			err = unix.Errno(code)
		}
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	return await(patience, unix.POLLIN, s.listening(k)...)
}

// send sends a datagram and returns which server it arrived at, -1 for none. One that
// follows it on the same way tells when to look.
func (s *Site) send(k kind, fd int, to unix.Sockaddr) (int, error) {
	err := unix.Sendto(fd, []byte("x"), 0, to)
	if err != nil && !errors.Is(err, unix.EPERM) { // which is what the node has for its own
		return 0, err
	}
	last := len(s.servers[k]) - 1
	follower := s.servers[k][last]
	if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(follower.at)); err != nil {
		return 0, err
	}
	if _, err := await(patience, unix.POLLIN, follower.fd); err != nil {
		return 0, err
	}
	if _, _, err := follower.accept(k); err != nil {
		return 0, err
	}
	i, err := await(0, unix.POLLIN, s.listening(k)...)
	if errors.Is(err, errNothing) {
		return -1, nil
	}
	return i, err
}

func (s *Site) listening(k kind) []int {
	var fds []int
	for _, server := range s.servers[k] {
		fds = append(fds, server.fd)
	}
	return fds
}

// accept returns where a flow arrived, and from whom as it is seen there.
func (s server) accept(k kind) (at, peer netip.AddrPort, err error) {
	var from unix.Sockaddr
	if k.protocol == rules.TCP {
		var fd int
		if fd, from, err = unix.Accept4(s.fd, unix.SOCK_CLOEXEC); err == nil {
			err = unix.Close(fd)
		}
	} else {
		_, from, err = unix.Recvfrom(s.fd, make([]byte, 8), 0)
	}
	return s.at, addrPort(from), err
}

const patience = 5000 // milliseconds

var errNothing = errors.New("nothing arrived")

// await returns the first of some sockets that is ready, after so many milliseconds at
// most.
func await(timeout int, events int16, fds ...int) (int, error) {
	polled := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		polled[i] = unix.PollFd{Fd: int32(fd), Events: events}
	}
	for {
		n, err := unix.Poll(polled, timeout)
		switch {
		case errors.Is(err, unix.EINTR): // Go's own signals; tells nothing
		case err != nil:
			return 0, err
		case n == 0:
			return 0, errNothing
		default:
			return slices.IndexFunc(polled, func(p unix.PollFd) bool { return p.Revents != 0 }), nil
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr), uint16(s.Port))
	}
	return netip.AddrPort{}
}
