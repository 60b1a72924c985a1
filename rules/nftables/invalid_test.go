package nftables

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// segment is the part of an IPv4 TCP segment that the tests look at.
type segment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    byte
	length   uint32 // of the data
}

const flagRST, flagPSH, flagACK = 4, 8, 16

// sniffer receives a copy of every TCP segment that is delivered to a namespace.
type sniffer struct{ fd int }

func sniff(t *testing.T, ns *netns.Namespace) sniffer {
	t.Helper()
	var s sniffer
	if err := ns.Do(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

// drain returns what has come so far.
func (s sniffer) drain(t *testing.T) []segment {
	t.Helper()
	var out []segment
	for {
		var b [2048]byte
		n, _, err := unix.Recvfrom(s.fd, b[:], 0)
		if errors.Is(err, unix.EAGAIN) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		header := int(b[0]&15) * 4
		tcp := b[header:n]
		port := func(at int) uint16 { return binary.BigEndian.Uint16(tcp[at:]) }
		out = append(out, segment{
			from:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), port(0)),
			to:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), port(2)),
			seq:    binary.BigEndian.Uint32(tcp[4:]),
			ack:    binary.BigEndian.Uint32(tcp[8:]),
			flags:  tcp[13],
			length: uint32(len(tcp) - int(tcp[12]>>4)*4),
		})
	}
}

// send puts a segment on the wire as the namespace's own.
func (s segment) send(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	src, dst := s.from.Addr().As4(), s.to.Addr().As4()
	data := []byte("late")
	tcp := binary.BigEndian.AppendUint16(nil, s.from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, s.to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, s.seq)
	tcp = binary.BigEndian.AppendUint32(tcp, s.ack)
	tcp = append(tcp, 5<<4, s.flags, 1, 0, 0, 0, 0, 0) // window, checksum, urgent
	tcp = append(tcp, data...)
	sum := uint32(unix.IPPROTO_TCP + len(tcp))
	for _, b := range [][]byte{src[:], dst[:], tcp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	if err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrInet4{Addr: src}),
			ignore(unix.Sendto(fd, tcp, 0, &unix.SockaddrInet4{Addr: dst}), unix.EPERM), // dropped in output
			unix.Close(fd),
		)
	}); err != nil {
		t.Fatal(err)
	}
}

// An endpoint sends a segment far outside of the window. conntrack finds it INVALID and
// it is not translated back: with our rules it ends there; without them the client, or
// for a remote endpoint the node, resets the endpoint's connection.
func TestInvalidSegmentsOfEndpointsEndHere(t *testing.T) {
	lab := netns.LabForTest(t, netns.PodSpec{Name: "near", Number: 10}, netns.PodSpec{Name: "far", Number: 11, Far: true})
	for _, port := range []uint16{6000, 7000} {
		if err := lab.Serve(port); err != nil {
			t.Fatal(err)
		}
	}
	host := netip.AddrPortFrom(netns.NodeAddr4, 6000)
	server, err := lab.Node.Serve(rules.TCP, host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	near, far := lab.Pod("near"), lab.Pod("far")
	nearAt, farAt := netip.AddrPortFrom(near.Addr4, 6000), netip.AddrPortFrom(far.Addr4, 6000)
	front := netip.AddrPortFrom(netns.NodeAddr4, 80)
	foreign := netip.AddrPortFrom(near.Addr4, 7000)

	c := DefaultConfig()
	c.NetNS = lab.Node.Handle()
	p := newProgrammer(t, c)
	with := func(b rules.Backend) *rules.State {
		b.Ref, b.Weight = "ns/a", 1
		return stateOf(map[rules.FrontendKey]*rules.Frontend{
			{Addr: front.Addr(), Protocol: rules.TCP, Port: front.Port()}: {Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{b}},
		})
	}
	for _, test := range []struct {
		name     string
		endpoint *netns.Namespace
		at, to   netip.AddrPort
		local    bool
		later    *rules.State // once the connection is there
		unruled  bool         // without the rules against it
		client   *netns.Namespace
		seen     bool // by the client
		reset    bool // of the endpoint's connection
	}{
		{name: "local", endpoint: near.Namespace, at: nearAt, to: front, local: true, client: lab.Client},
		{name: "local, unruled", endpoint: near.Namespace, at: nearAt, to: front, local: true, unruled: true, client: lab.Client, seen: true, reset: true},
		{name: "draining", endpoint: near.Namespace, at: nearAt, to: front, local: true, later: with(rules.Backend{Draining: []netip.AddrPort{nearAt}}), client: lab.Client},
		{name: "lingering", endpoint: near.Namespace, at: nearAt, to: front, local: true, later: with(rules.Backend{Lingering: []netip.AddrPort{nearAt}}), client: lab.Client},
		{name: "remote", endpoint: far.Namespace, at: farAt, to: front, client: lab.Client},
		{name: "remote, unruled", endpoint: far.Namespace, at: farAt, to: front, unruled: true, client: lab.Client, reset: true},
		{name: "host network", endpoint: lab.Node, at: host, to: front, local: true, client: lab.Client},
		{name: "host network, unruled", endpoint: lab.Node, at: host, to: front, local: true, unruled: true, client: lab.Client, seen: true, reset: true},
		{name: "client on the node", endpoint: near.Namespace, at: nearAt, to: front, local: true, client: lab.Node},
		{name: "client on the node, unruled", endpoint: near.Namespace, at: nearAt, to: front, local: true, unruled: true, client: lab.Node, seen: true, reset: true},
		{name: "no endpoint of ours", endpoint: near.Namespace, at: foreign, to: foreign, client: lab.Client, seen: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			mustProgram(t, p, with(rules.Backend{Endpoints: []rules.Endpoint{{Addr: nearAt, Local: true}}}))
			if test.at != foreign {
				mustProgram(t, p, with(rules.Backend{Endpoints: []rules.Endpoint{{Addr: test.at, Local: test.local}}}))
			}
			if test.unruled {
				nft(t, lab.Node, "flush", "chain", "inet", "portway", "invalid")
			}
			atClient, atEndpoint := sniff(t, test.client), sniff(t, test.endpoint)
			conn, err := test.client.Dial(netip.AddrPort{}, test.to)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := errors.Join(conn.SetDeadline(time.Now().Add(3*time.Second)), conn.Echo("before")); err != nil {
				t.Fatal(err)
			}
			if test.later != nil {
				mustProgram(t, p, test.later)
			}
			time.Sleep(60 * time.Millisecond) // for the last acknowledgement, delayed by up to 40 ms
			late := segment{from: test.at, to: conn.Peer, flags: flagPSH | flagACK}
			for _, s := range atEndpoint.drain(t) {
				if s.from == late.to && s.to == late.from {
					late.seq, late.ack = s.ack+1<<30, s.seq+s.length
				}
			}
			atClient.drain(t)
			late.send(t, test.endpoint)
			time.Sleep(50 * time.Millisecond)

			seen, reset := false, false
			for _, s := range atClient.drain(t) {
				seen = seen || s.seq == late.seq
			}
			for _, s := range atEndpoint.drain(t) {
				reset = reset || s.flags&flagRST != 0 && s.from == late.to
			}
			if seen != test.seen || reset != test.reset {
				t.Errorf("seen by the client: %t, want %t; the endpoint was reset: %t, want %t", seen, test.seen, reset, test.reset)
			}
			if err := conn.Echo("after"); (err != nil) != test.reset {
				t.Errorf("the connection afterwards: %v", err)
			}
		})
	}
}
