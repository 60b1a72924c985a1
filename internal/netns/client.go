package netns

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// connectTimeout bounds one connection and its answer.
	connectTimeout = 3 * time.Second
	// maxSilent connections without an answer end a count: nobody expects one.
	maxSilent = 3
	// countTimeout ends a count that crawls because every SYN is sent twice.
	countTimeout = 20 * time.Second
	// udpWait is how long a batch of datagrams may stay without answers. Answers
	// take microseconds here; the rest is for busy machines.
	udpWait = 500 * time.Millisecond
	// udpBatch datagrams fit into the default socket buffer of one server.
	udpBatch = 128
)

// Tally counts what became of a number of flows.
type Tally struct {
	Answers map[string]int     // per server name
	Peers   map[netip.Addr]int // the client's addresses as the servers saw them
	Refused int                // ECONNREFUSED: a RST, or an ICMP error, see Unreachable
	Silent  int                // no answer in time
	Failed  []error            // anything else
	// Unreachable counts the ICMP destination-unreachable messages that arrived
	// meanwhile. Refused flows beyond them were refused by RST.
	Unreachable int
	// Resent counts the SYNs that were sent again meanwhile: a dropped one is
	// followed by another after 1 s (RFC 6298), and the connection still succeeds.
	Resent int
}

func newTally() Tally { return Tally{Answers: map[string]int{}, Peers: map[netip.Addr]int{}} }

// Answered is the number of flows that were answered by anyone.
func (t Tally) Answered() int {
	n := 0
	for _, count := range t.Answers {
		n += count
	}
	return n
}

// Total is the number of flows counted.
func (t Tally) Total() int { return t.Answered() + t.Refused + t.Silent + len(t.Failed) }

// String returns the counts in one line, servers by name.
func (t Tally) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(t.Answers)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, t.Answers[name]))
	}
	if t.Refused > 0 {
		parts = append(parts, fmt.Sprintf("refused %d (%d by ICMP)", t.Refused, t.Unreachable))
	}
	if t.Silent > 0 {
		parts = append(parts, fmt.Sprintf("silent %d", t.Silent))
	}
	if t.Resent > 0 {
		parts = append(parts, fmt.Sprintf("resent %d", t.Resent))
	}
	if len(t.Failed) > 0 {
		parts = append(parts, fmt.Sprintf("failed %d (%v)", len(t.Failed), t.Failed[0]))
	}
	return strings.Join(parts, ", ")
}

func (t *Tally) add(a Answer, err error) {
	var timeout net.Error
	switch {
	case err == nil:
		t.Answers[a.Name]++
		t.Peers[a.Peer.Addr()]++
	case errors.Is(err, syscall.ECONNREFUSED):
		t.Refused++
	case errors.As(err, &timeout) && timeout.Timeout():
		t.Silent++
	default:
		t.Failed = append(t.Failed, err)
	}
}

// Dial opens a TCP connection to a Server, from any address and port when from is
// the zero AddrPort, and waits for its answer.
func (n *Namespace) Dial(from, to netip.AddrPort) (*Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
	}
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.Dial("tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: conn, lines: bufio.NewReader(conn)}
	if c.Answer, err = c.greeting(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *Conn) greeting() (Answer, error) {
	if err := c.SetReadDeadline(time.Now().Add(connectTimeout)); err != nil {
		return Answer{}, err
	}
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return Answer{}, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return Answer{}, err
	}
	return parseAnswer(line)
}

// ask opens one connection, reads the answer and resets the connection, so that
// no TIME_WAIT uses up the client's ports.
func (n *Namespace) ask(to netip.AddrPort) (Answer, error) {
	conn, err := n.Dial(netip.AddrPort{}, to)
	if err != nil {
		return Answer{}, err
	}
	if tcp, ok := conn.Conn.(*net.TCPConn); ok {
		err = tcp.SetLinger(0)
	}
	return conn.Answer, errors.Join(err, conn.Close())
}

// CountTCP opens count connections, one after the other, and counts who answered.
// It gives up, which counts as failed, when several stay silent or all are slow.
func (n *Namespace) CountTCP(to netip.AddrPort, count int) (Tally, error) {
	tally := newTally()
	err := n.watch(&tally, func() error {
		start := time.Now()
		for i := range count {
			if took := time.Since(start); tally.Silent >= maxSilent || took > countTimeout {
				tally.Failed = append(tally.Failed, fmt.Errorf("gave up after %d of %d connections in %s", i, count, took.Round(time.Millisecond)))
				break
			}
			tally.add(n.ask(to))
		}
		return nil
	})
	return tally, err
}

// CountUDP sends count datagrams, each from a port of its own, and counts who
// answered.
func (n *Namespace) CountUDP(to netip.AddrPort, count int) (Tally, error) {
	tally := newTally()
	err := n.watch(&tally, func() error {
		for sent := 0; sent < count; sent += udpBatch {
			if err := n.askBatch(&tally, to, min(udpBatch, count-sent)); err != nil {
				return err
			}
		}
		return nil
	})
	return tally, err
}

func (n *Namespace) askBatch(tally *Tally, to netip.AddrPort, count int) error {
	return n.Do(func() error {
		conns := make([]net.Conn, 0, count)
		defer func() {
			for _, conn := range conns {
				_ = conn.Close() // nothing is pending on a datagram socket
			}
		}()
		for range count {
			conn, err := net.Dial("udp", to.String())
			if err != nil {
				return err
			}
			conns = append(conns, conn)
			if _, err := conn.Write([]byte("ping")); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
		}
		deadline := time.Now().Add(udpWait)
		// All at once: a read that starts after the deadline returns nothing, not
		// even an answer that is there.
		errs := make([]error, len(conns))
		answers := make([]Answer, len(conns))
		var reading sync.WaitGroup
		for i, conn := range conns {
			reading.Go(func() { answers[i], errs[i] = readAnswer(conn, deadline) })
		}
		reading.Wait()
		for i := range conns {
			tally.add(answers[i], errs[i])
		}
		return nil
	})
}

// dialUDP opens a socket at an address and port. A process that is being started has the
// sockets that were open until it becomes another program, so that one which was closed may still
// be in the way.
func (n *Namespace) dialUDP(from, to netip.AddrPort) (conn net.Conn, err error) {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(from)}
	for deadline := time.Now().Add(connectTimeout); ; time.Sleep(time.Millisecond) {
		err = n.Do(func() error {
			conn, err = dialer.Dial("udp", to.String())
			return err
		})
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// AskUDP sends one datagram from a given address and port and returns the answer.
func (n *Namespace) AskUDP(from, to netip.AddrPort) (Answer, error) {
	conn, err := n.dialUDP(from, to)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is pending on a datagram socket
	if _, err := conn.Write([]byte("ping")); err != nil {
		return Answer{}, err
	}
	return readAnswer(conn, time.Now().Add(connectTimeout))
}

func readAnswer(conn net.Conn, deadline time.Time) (Answer, error) {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return Answer{}, err
	}
	buffer := make([]byte, 1500)
	length, err := conn.Read(buffer)
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(string(buffer[:length]))
}
