package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// Datagrams sends the shortest UDP packets that Ethernet has, every one a flow of its own until
// the flows are forgotten. They are written to the client's link as frames, without a socket each, and
// return when the backend has got them.
type Datagrams struct {
	socket   int
	frames   [][]byte
	messages []message
	next     int
}

// message is struct mmsghdr.
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

const (
	ethernet, ipv4, udp = 14, 20, 8
	payload             = 18 // 64 bytes on a wire, with the checksum of the frame
)

// NewDatagrams prepares a number of packets for a Site, to all listeners in turn. routed goes
// to the endpoints themselves. The caller closes it.
func NewDatagrams(s *Site, count int, routed bool) (*Datagrams, error) {
	return newDatagrams(s, count, s.Listeners, routed)
}

// newDatagrams goes to the first few listeners only.
func newDatagrams(s *Site, count, listeners int, routed bool) (*Datagrams, error) {
	listeners = min(listeners, s.Listeners)
	from, err := s.Client.LinkAddress(clientLink)
	if err != nil {
		return nil, err
	}
	to, err := s.Node.LinkAddress(nodeLink)
	if err != nil {
		return nil, err
	}
	d := &Datagrams{socket: -1, messages: make([]message, count)}
	for n := range count {
		source := clients.Addr().As4()
		source[3] = byte(10 + n%200)
		client := netip.AddrPortFrom(netip.AddrFrom4(source), uint16(1024+n/200))
		d.frames = append(d.frames, frame(from, to, client, s.destination(n, listeners, routed)))
	}
	for n, f := range d.frames {
		vector := &unix.Iovec{Base: &f[0]}
		vector.SetLen(len(f))
		d.messages[n].header.Iov = vector
		d.messages[n].header.SetIovlen(1)
	}
	return d, d.open(s.Client)
}

func (d *Datagrams) open(client *netns.Namespace) error {
	return client.Do(func() (err error) {
		// Protocol 0: it receives nothing.
		if d.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		link, err := net.InterfaceByName(clientLink)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(d.socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
			unix.Bind(d.socket, &unix.SockaddrLinklayer{Ifindex: link.Index}),
		)
	})
}

// Rewind starts over with the first packet.
func (d *Datagrams) Rewind() { d.next = 0 }

// Send sends the next packets.
func (d *Datagrams) Send(count int) error {
	if d.next+count > len(d.messages) {
		return fmt.Errorf("%d packets prepared, %d asked for", len(d.messages), d.next+count)
	}
	for count > 0 {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(d.socket),
			uintptr(unsafe.Pointer(&d.messages[d.next])), uintptr(count), 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("send frames: %w", errno)
		}
		d.next += int(n)
		count -= int(n)
	}
	return nil
}

// Close closes the socket.
func (d *Datagrams) Close() error { return unix.Close(d.socket) }

// frame is a UDP packet over IPv4 over Ethernet.
func frame(from, to net.HardwareAddr, source, destination netip.AddrPort) []byte {
	f := make([]byte, ethernet+ipv4+udp+payload)
	copy(f, to)
	copy(f[6:], from)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip, datagram := f[ethernet:ethernet+ipv4], f[ethernet+ipv4:]
	ip[0], ip[8], ip[9] = 4<<4|ipv4/4, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], ipv4+udp+payload)
	copy(ip[12:], source.Addr().AsSlice())
	copy(ip[16:], destination.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	binary.BigEndian.PutUint16(datagram, source.Port())
	binary.BigEndian.PutUint16(datagram[2:], destination.Port())
	binary.BigEndian.PutUint16(datagram[4:], udp+payload)
	pseudo := append([]byte{0, unix.IPPROTO_UDP, 0, udp + payload}, ip[12:]...)
	binary.BigEndian.PutUint16(datagram[6:], ^sum(sum(0, pseudo), datagram))
	return f
}

// sum is the sum of 16-bit words in one's complement (RFC 1071), of an even number of bytes.
func sum(start uint16, data []byte) uint16 {
	total := uint32(start)
	for i := 0; i < len(data); i += 2 {
		total += uint32(binary.BigEndian.Uint16(data[i:]))
		total = total&0xffff + total>>16
	}
	return uint16(total)
}
