package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Reply is the answer to one datagram of a Stream.
type Reply struct {
	Answer
	Sequence int // of the datagram: the first is 1
	At       time.Time
}

// Stream is a UDP client that never pauses: it sends a datagram at every tick,
// from one port, whether or not any is answered, until it is stopped. Safe for
// concurrent use.
type Stream struct {
	conn    net.Conn
	stop    chan struct{}
	stopped sync.Once
	running sync.WaitGroup

	mu      sync.Mutex
	sent    int
	refused int
	replies []Reply
	errs    []error
}

// StartStream starts a Stream from an address and port. The caller stops it.
func (n *Namespace) StartStream(from, to netip.AddrPort, interval time.Duration) (*Stream, error) {
	conn, err := n.dialUDP(from, to)
	if err != nil {
		return nil, fmt.Errorf("stream from %s in %s: %w", from, n.name, err)
	}
	s := &Stream{stop: make(chan struct{}), conn: conn}
	s.running.Go(func() { s.send(interval) })
	s.running.Go(s.receive)
	return s, nil
}

func (s *Stream) send(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.sent++
		sequence := s.sent
		s.mu.Unlock()
		_, err := fmt.Fprint(s.conn, sequence)
		s.note(err)
		select {
		case <-s.stop:
			_ = s.conn.Close() // ends receive
			return
		case <-tick.C:
		}
	}
}

func (s *Stream) receive() {
	buffer := make([]byte, 1500)
	for {
		length, err := s.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		at := time.Now()
		if err != nil {
			s.note(err)
			continue
		}
		reply, err := parseReply(string(buffer[:length]))
		if err != nil {
			s.note(err)
			continue
		}
		reply.At = at
		s.mu.Lock()
		s.replies = append(s.replies, reply)
		s.mu.Unlock()
	}
}

func parseReply(text string) (Reply, error) {
	answer, err := parseAnswer(text)
	if err != nil {
		return Reply{}, err
	}
	sequence, err := strconv.Atoi(text[strings.LastIndexByte(text, ' ')+1:])
	return Reply{Answer: answer, Sequence: sequence}, err
}

// note counts a failure. A refusal of one datagram surfaces at a later one, too.
func (s *Stream) note(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.refused++
		return
	}
	s.errs = append(s.errs, err)
}

// Sent is the number of datagrams sent so far.
func (s *Stream) Sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Refused is the number of ICMP errors noticed so far.
func (s *Stream) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// Last returns the newest reply; its Sequence is 0 when there is none.
func (s *Stream) Last() Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replies) == 0 {
		return Reply{}
	}
	return s.replies[len(s.replies)-1]
}

// Streamed is what became of the datagrams of a Stream.
type Streamed struct {
	Sent    int
	Refused int     // ICMP errors noticed, of which there are at most as many as datagrams lost
	Replies []Reply // in the order of their arrival
}

// Lost is the number of datagrams without a reply. The last few may have been
// under way when the Stream was stopped.
func (s Streamed) Lost() int { return s.Sent - len(s.Replies) }

// By returns the replies of one server.
func (s Streamed) By(name string) []Reply {
	var out []Reply
	for _, reply := range s.Replies {
		if reply.Name == name {
			out = append(out, reply)
		}
	}
	return out
}

// LongestGap is the longest time between two replies.
func (s Streamed) LongestGap() time.Duration {
	var longest time.Duration
	for i := 1; i < len(s.Replies); i++ {
		longest = max(longest, s.Replies[i].At.Sub(s.Replies[i-1].At))
	}
	return longest
}

// Stop ends the Stream and returns what became of it. It may be called again.
func (s *Stream) Stop() (Streamed, error) {
	s.stopped.Do(func() { close(s.stop) })
	s.running.Wait()
	return Streamed{Sent: s.sent, Refused: s.refused, Replies: s.replies}, errors.Join(s.errs...)
}
