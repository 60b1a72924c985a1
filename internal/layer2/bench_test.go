package layer2

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// BenchmarkAnswer is one ARP request and its answer, as a client sees it.
func BenchmarkAnswer(b *testing.B) {
	s := newSegment(b, "node-1", "client")
	node, client := s.hosts[0], s.hosts[1]
	r := node.respond(b, DefaultConfig())
	own(r, false, vip4)
	await(b, r, vip4, Answering)
	var conn *packet.Conn
	client.do(b, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err = packet.Listen(i, packet.Raw, unix.ETH_P_ARP, &packet.Config{Filter: assemble(arpFilter([]netip.Addr{vip4}))})
		return err
	})
	defer func() { _ = conn.Close() }()
	mac := client.mac(b, "eth0")
	request := arp(1, broadcast, mac, client.addr4, MAC{}, vip4)
	buffer := make([]byte, accept)
	for b.Loop() {
		if _, err := conn.WriteTo(request.data, &packet.Addr{HardwareAddr: broadcast[:]}); err != nil {
			b.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			b.Fatal(err)
		}
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				b.Fatal(err)
			}
			if n >= 42 && buffer[21] == 2 && MAC(buffer[:6]) == mac { // no announcement
				break
			}
		}
	}
}

// BenchmarkFilter is one UDP datagram over IPv6 to a node that answers for an IPv6 address,
// and to one that does for none: all it costs both ends, on one core. Both take turns, as
// other load on the machine changes more than the filter does; the least is told. Run
// it with -benchtime 40x.
func BenchmarkFilter(b *testing.B) {
	const batch = 5000
	s := newSegment(b, "node-1", "client")
	node, client := s.hosts[0], s.hosts[1]
	r := node.respond(b, DefaultConfig())
	var sink, conn net.Conn
	node.do(b, func() (err error) {
		sink, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(node.addr6, 9)))
		return err
	})
	defer func() { _ = sink.Close() }()
	client.do(b, func() (err error) {
		conn, err = net.Dial("udp", netip.AddrPortFrom(node.addr6, 9).String())
		return err
	})
	defer func() { _ = conn.Close() }()
	payload := make([]byte, 64)
	least := map[bool]time.Duration{}
	for b.Loop() {
		for _, listening := range []bool{false, true} {
			r.Set(nil)
			eventually(b, "no socket is open", func() bool { return r.open() == 0 })
			if listening {
				own(r, false, vip6)
				await(b, r, vip6, Answering)
			}
			start := time.Now()
			for range batch {
				if _, err := conn.Write(payload); err != nil {
					b.Fatal(err)
				}
			}
			if took := time.Since(start) / batch; least[listening] == 0 || took < least[listening] {
				least[listening] = took
			}
		}
	}
	b.ReportMetric(float64(least[false]), "ns/none")
	b.ReportMetric(float64(least[true]), "ns/listening")
}

// open is how many interfaces have sockets.
func (r *Responder) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ports)
}
