package netns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/portway-dev/portway/rules"
)

// maxDatagram is more than a datagram over IP can hold.
const maxDatagram = 1 << 16

// Server answers every client with its name and with the client's address as it
// sees it. Over TCP it says so at once, as one line, and then sends every line it
// gets back; over UDP it says so for every datagram and appends that datagram.
type Server struct {
	name     string
	listener net.Listener   // TCP only
	packets  net.PacketConn // UDP only
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
}

// Serve starts a server that calls itself as the namespace is called.
func (n *Namespace) Serve(protocol rules.Protocol, at netip.AddrPort) (*Server, error) {
	s := &Server{name: n.name, conns: map[net.Conn]bool{}}
	err := n.Do(func() (err error) {
		if protocol == rules.UDP {
			s.packets, err = net.ListenPacket("udp", at.String())
		} else {
			s.listener, err = net.Listen("tcp", at.String())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s %s in %s: %w", protocol, at, n.name, err)
	}
	if protocol == rules.UDP {
		s.running.Go(s.answerPackets)
	} else {
		s.running.Go(s.accept)
	}
	return s, nil
}

// Close ends the server and its connections, and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var errs []error
	if s.packets != nil {
		errs = append(errs, s.packets.Close())
	} else {
		errs = append(errs, s.listener.Close())
	}
	for conn := range s.conns {
		errs = append(errs, conn.Close())
	}
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(errs...)
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the client is gone already
			continue
		}
		s.mu.Lock()
		if s.closed {
			_ = conn.Close()
		} else {
			s.conns[conn] = true
			s.running.Go(func() { s.answer(conn) })
		}
		s.mu.Unlock()
	}
}

func (s *Server) answer(conn net.Conn) {
	// What fails here fails at the client, too, where it is counted.
	_, _ = fmt.Fprintf(conn, "%s %s\n", s.name, conn.RemoteAddr())
	_, _ = io.Copy(conn, conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[conn] && !s.closed {
		delete(s.conns, conn)
		_ = conn.Close()
	}
}

func (s *Server) answerPackets() {
	buffer := make([]byte, maxDatagram)
	for {
		n, peer, err := s.packets.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier answer
		}
		_, _ = s.packets.WriteTo(fmt.Appendf(nil, "%s %s %s", s.name, peer, buffer[:n]), peer)
	}
}

// Answer is what a Server said.
type Answer struct {
	Name string
	Peer netip.AddrPort // the client as the server sees it
}

func parseAnswer(line string) (Answer, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return Answer{}, fmt.Errorf("answer %q is not of a test server", line)
	}
	peer, err := netip.ParseAddrPort(fields[1])
	return Answer{Name: fields[0], Peer: peer}, err
}

// Conn is a TCP connection to a Server.
type Conn struct {
	net.Conn
	Answer
	lines *bufio.Reader
}

// Echo sends a line and waits for it to come back.
func (c *Conn) Echo(line string) error {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	got, err := c.lines.ReadString('\n')
	if err != nil {
		return err
	}
	if got != line+"\n" {
		return fmt.Errorf("sent %q, got back %q", line, got)
	}
	return nil
}
