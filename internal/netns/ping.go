package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// echo is how a family asks for an answer: the types of ICMP (RFC 792) or ICMPv6
// (RFC 4443) messages, and the network of net.DialIP.
type echo struct {
	network        string
	request, reply byte
}

var (
	echo4 = echo{"ip4:icmp", 8, 0}
	echo6 = echo{"ip6:ipv6-icmp", 128, 129}
)

// pingID tells the answers to this process from others.
const pingID = 0x7077

// Ping sends an ICMP echo request and waits for its answer. Without one the error is
// os.ErrDeadlineExceeded.
func (n *Namespace) Ping(to netip.Addr, timeout time.Duration) error {
	kind := echo4
	if to.Is6() {
		kind = echo6
	}
	var conn *net.IPConn
	err := n.Do(func() (err error) {
		conn, err = net.DialIP(kind.network, nil, &net.IPAddr{IP: to.AsSlice()})
		return err
	})
	if err != nil {
		return fmt.Errorf("ping %s from %s: %w", to, n.name, err)
	}
	defer func() { _ = conn.Close() }() // the answer was all that was wanted
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	message := []byte{kind.request, 0, 0, 0, pingID >> 8, pingID & 0xff, 0, 1}
	if to.Is4() { // for ICMPv6 the kernel does it
		binary.BigEndian.PutUint16(message[2:], ^(uint16(kind.request)<<8 + pingID + 1))
	}
	if _, err := conn.Write(message); err != nil && !errors.Is(err, unix.EPERM) { // dropped in output
		return err
	}
	buffer := make([]byte, 1500)
	for {
		length, from, err := conn.ReadFromIP(buffer)
		if err != nil {
			return fmt.Errorf("ping %s from %s: %w", to, n.name, err)
		}
		source, _ := netip.AddrFromSlice(from.IP)
		got := buffer[:length]
		if len(got) >= 8 && got[0] == kind.reply && binary.BigEndian.Uint16(got[4:]) == pingID && source.Unmap() == to {
			return nil
		}
	}
}

// SendIP sends a packet of any protocol, from any address when from is the zero Addr. It is
// no error if the namespace's own rules drop it.
func (n *Namespace) SendIP(protocol uint8, from, to netip.Addr, payload []byte) error {
	network := "ip4"
	if to.Is6() {
		network = "ip6"
	}
	var source *net.IPAddr
	if from.IsValid() {
		source = &net.IPAddr{IP: from.AsSlice(), Zone: from.Zone()}
	}
	var conn *net.IPConn
	err := n.Do(func() (err error) {
		conn, err = net.DialIP(fmt.Sprintf("%s:%d", network, protocol), source, &net.IPAddr{IP: to.AsSlice()})
		return err
	})
	if err != nil {
		return fmt.Errorf("send protocol %d from %s: %w", protocol, n.name, err)
	}
	if _, err = conn.Write(payload); errors.Is(err, unix.EPERM) {
		err = nil
	}
	return errors.Join(err, conn.Close())
}
