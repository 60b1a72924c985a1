package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// bulkTimeout bounds a transfer of a few MiB.
const bulkTimeout = 10 * time.Second

// Exchange is one flow to a Server.
type Exchange struct {
	Answer
	From netip.AddrPort // the client as it sees itself
}

// Ask opens one flow to a Server, from any port, and waits for its answer.
func (n *Namespace) Ask(protocol rules.Protocol, to netip.AddrPort, timeout time.Duration) (Exchange, error) {
	deadline := time.Now().Add(timeout)
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = (&net.Dialer{Deadline: deadline}).Dial(protocol.String(), to.String())
		return err
	})
	if err != nil {
		return Exchange{}, err
	}
	defer func() { _ = conn.Close() }() // the answer was all that was wanted
	if protocol == rules.UDP {
		if _, err := conn.Write([]byte("ping")); err != nil {
			return Exchange{}, err
		}
	}
	from, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return Exchange{}, err
	}
	answer, err := readAnswer(conn, deadline)
	return Exchange{Answer: answer, From: from}, err
}

// Rejection is an ICMP error as the client of a UDP flow gets it.
type Rejection struct {
	Errno syscall.Errno
	From  netip.Addr     // who rejects
	To    netip.AddrPort // what was rejected
}

// AskRejected sends one datagram, from any port, and waits for the ICMP error that
// answers it.
func (n *Namespace) AskRejected(to netip.AddrPort) (Rejection, error) {
	var conn *net.UDPConn
	err := n.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		return Rejection{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is pending on a datagram socket
	if err := conn.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return Rejection{}, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return Rejection{}, err
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	if err = errors.Join(err, failed); err != nil {
		return Rejection{}, err
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		return Rejection{}, err
	}
	return readRejection(raw)
}

// readRejection waits for something in the error queue of a socket, see ip(7).
func readRejection(raw syscall.RawConn) (Rejection, error) {
	var rejection Rejection
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		control := make([]byte, 512)
		_, length, _, target, err := unix.Recvmsg(int(fd), make([]byte, 512), control, unix.MSG_ERRQUEUE)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err == nil {
			rejection, err = parseRejection(control[:length], target)
		}
		failed = err
		return true
	})
	return rejection, errors.Join(err, failed)
}

func parseRejection(control []byte, target unix.Sockaddr) (Rejection, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return Rejection{}, err
	}
	r := Rejection{}
	switch a := target.(type) {
	case *unix.SockaddrInet4:
		r.To = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		r.To = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	const fixed = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	for _, m := range messages {
		isError := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		// Behind the error is the sockaddr of who sent it; its address is at 4 in
		// sockaddr_in and at 8 in sockaddr_in6.
		switch {
		case !isError || len(m.Data) < fixed+8:
			continue
		case m.Header.Level == unix.IPPROTO_IP:
			r.From, _ = netip.AddrFromSlice(m.Data[fixed+4:][:4])
		case len(m.Data) >= fixed+24:
			r.From, _ = netip.AddrFromSlice(m.Data[fixed+8:][:16])
		}
		r.Errno = syscall.Errno((*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0])).Errno)
		return r, nil
	}
	return r, fmt.Errorf("no error of the network in the error queue: %v", messages)
}

// EchoUDP sends a datagram of a size from an address and port, and returns who
// answered it. It is an error when the datagram did not come back whole.
func (n *Namespace) EchoUDP(from, to netip.AddrPort, size int) (Answer, error) {
	conn, err := n.dialUDP(from, to)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is pending on a datagram socket
	// No two places of the datagram look alike, so that parts of it cannot have
	// changed places.
	var text strings.Builder
	for text.Len() < size {
		fmt.Fprintf(&text, "%d,", text.Len())
	}
	sent := text.String()[:size]
	if _, err := io.WriteString(conn, sent); err != nil {
		return Answer{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return Answer{}, err
	}
	buffer := make([]byte, maxDatagram)
	length, err := conn.Read(buffer)
	if err != nil {
		return Answer{}, err
	}
	got := string(buffer[:length])
	if !strings.HasSuffix(got, " "+sent) {
		return Answer{}, fmt.Errorf("sent %d bytes, got back %d others", size, length)
	}
	return parseAnswer(got)
}

// Bulk sends as many bytes as asked for over a connection to a Server and, at the
// same time, reads them back.
func (c *Conn) Bulk(size int) error {
	if err := c.SetDeadline(time.Now().Add(bulkTimeout)); err != nil {
		return err
	}
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i >> 8)
	}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		written <- err
	}()
	got := make([]byte, size)
	_, err := io.ReadFull(c.lines, got)
	if err = errors.Join(err, <-written); err == nil && !bytes.Equal(sent, got) {
		err = fmt.Errorf("sent %d bytes, got back others", size)
	}
	return err
}
