package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SendStray sends a TCP segment that belongs to a connection by its addresses and
// ports, but that connection tracking calls invalid, as it does with late ones. Which
// sequence numbers are late cannot be known from outside; these are flags that no
// connection sends together.
func (n *Namespace) SendStray(from, to netip.AddrPort) error {
	const finSyn = 0x03
	return n.SendSegment(from, to, finSyn)
}

// SendSegment sends a TCP segment without data, with flags as in byte 13 of its header
// (RFC 9293, 3.1), that no socket knows of. It is no error if the namespace's own rules
// drop it.
func (n *Namespace) SendSegment(from, to netip.AddrPort, flags byte) error {
	network := "ip4:tcp"
	if from.Addr().Is6() {
		network = "ip6:tcp"
	}
	var conn *net.IPConn
	err := n.Do(func() (err error) {
		conn, err = net.DialIP(network, &net.IPAddr{IP: from.Addr().AsSlice()}, &net.IPAddr{IP: to.Addr().AsSlice()})
		return err
	})
	if err != nil {
		return fmt.Errorf("send a segment from %s: %w", n.name, err)
	}
	if _, err = conn.Write(segment(from, to, flags)); errors.Is(err, unix.EPERM) {
		err = nil
	}
	return errors.Join(err, conn.Close())
}

func segment(from, to netip.AddrPort, flags byte) []byte {
	const length = 20
	s := make([]byte, length)
	binary.BigEndian.PutUint16(s, from.Port())
	binary.BigEndian.PutUint16(s[2:], to.Port())
	binary.BigEndian.PutUint32(s[4:], 0x12345678)
	s[12], s[13] = length/4<<4, flags
	binary.BigEndian.PutUint16(s[14:], 1024)
	sum := uint32(unix.IPPROTO_TCP + length)
	for _, part := range [][]byte{from.Addr().AsSlice(), to.Addr().AsSlice(), s} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(s[16:], ^uint16(sum))
	return s
}
