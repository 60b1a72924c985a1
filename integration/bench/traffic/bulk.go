package traffic

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// Streams are TCP connections from the client to the backend that carry a lot.
type Streams struct {
	pair
	sending, receiving int // epoll
}

// chunk is how much one system call sends or receives at most.
const chunk = 256 << 10

// window is how much the buffers of a socket may grow to: enough for a veth, and not so much that
// what is on its way leaves the processor's caches, as up to 32 MB of the kernel's defaults do.
const window = 2 << 20

// NewStreams opens a number of connections. The caller closes them.
func NewStreams(l *Loaded, count int) (*Streams, error) {
	for _, n := range []*netns.Namespace{l.Client, l.Node, l.Pods[0].Namespace} { // proxies have buffers, too
		for _, key := range []string{"tcp_rmem", "tcp_wmem"} {
			if err := n.SetSysctl("net/ipv4/"+key, fmt.Sprintf("4096 %d %d", 128<<10, window)); err != nil {
				return nil, err
			}
		}
	}
	p, err := l.open(count)
	if err != nil {
		return nil, err
	}
	s := &Streams{pair: p, sending: -1, receiving: -1}
	for _, fd := range slices.Concat(p.clients, p.servers) {
		err = errors.Join(err, unix.SetNonblock(fd, true))
	}
	if err == nil {
		s.sending, err = poll(p.clients, unix.EPOLLOUT)
	}
	if err == nil {
		s.receiving, err = poll(p.servers, unix.EPOLLIN)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open opens connections from the client.
func (l *Loaded) open(count int) (p pair, err error) {
	err = l.Client.Do(func() error {
		p, err = NewConnections(l.Site, l.Routed).keep(count)
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", l.Name, err)
	}
	return p, err
}

// keep opens the next connections and leaves them to the caller, who closes them. Proxies
// connect to the backend in an order of their own: both ends of all that are kept at a time
// belong together, but not one by one. The calling thread must be in the client's namespace.
func (c *Connections) keep(count int) (pair, error) {
	c.source[3] = byte(10 + c.next/perSource%200)
	err := quietly(func() error {
		if err := c.connect(count); err != nil {
			return err
		}
		return c.accept()
	})
	p := pair{c.clients, c.servers}
	c.clients, c.servers = nil, nil
	for _, fd := range slices.Concat(p.clients, p.servers) {
		err = errors.Join(err,
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	}
	if err != nil {
		return pair{}, errors.Join(fmt.Errorf("TCP connection %d: %w", c.next, err), p.close())
	}
	return p, nil
}

// perSource is how many connections come from one of the client's addresses.
const perSource = 512

// A pair are both ends of a batch of connections.
type pair struct{ clients, servers []int }

// close resets connections, which leaves nothing in TIME_WAIT.
func (p pair) close() error {
	var err error
	for _, fd := range slices.Concat(p.clients, p.servers) {
		err = errors.Join(err,
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
			unix.Close(fd))
	}
	return err
}

// quietly keeps signals from the thread of a function: Go's scheduler would interrupt system
// calls with them, and those with a time limit fail then.
func quietly(do func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)) }()
	return do()
}

// on runs a function quietly on one end of the processors that the process may use: the
// client's is the first, the backend's the last, where proxies are, too. Where the scheduler
// puts two threads that talk would be half of the result.
func on(side side, do func() error) error {
	return quietly(func() (err error) {
		var before, only unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			return err
		}
		for cpu := range len(before) * 64 {
			if before.IsSet(cpu) && (side == backendSide || only.Count() == 0) {
				only.Zero()
				only.Set(cpu)
			}
		}
		if err := unix.SchedSetaffinity(0, &only); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.SchedSetaffinity(0, &before)) }()
		return do()
	})
}

type side int

const (
	clientSide side = iota
	backendSide
)

// A Transfer is what Send did.
type Transfer struct {
	// Rate at which the backend read what counts, in bytes a second.
	Rate float64
	// Bytes that were sent in all, the lead-in included.
	Bytes int
}

// margin bytes before and after those that count: the windows open again that closed while
// others had their turns, and none of what counts is read from buffers that the sender has left.
const margin = 16 << 20

// Send sends over all streams at the same time, and measures how fast a number of bytes of it
// is read. One thread sends, and one reads, whatever the number of streams: which of many
// threads runs next would be the scheduler's choice and most of the spread.
func (s *Streams) Send(size int) (Transfer, error) {
	total := margin + size + margin
	sent := make(chan error, 1)
	go func() { sent <- on(clientSide, func() error { return s.send(total) }) }()
	var took time.Duration
	err := on(backendSide, func() (err error) {
		took, err = s.receive(size, total)
		return err
	})
	if err := errors.Join(err, <-sent); err != nil {
		return Transfer{}, err
	}
	return Transfer{Rate: float64(size) / took.Seconds(), Bytes: total}, nil
}

// send writes to whichever stream takes something.
func (s *Streams) send(total int) error {
	buffer := make([]byte, chunk)
	for rest := total; rest > 0; {
		err := ready(s.sending, func(fd int) error {
			n, err := unix.Write(fd, buffer[:min(rest, chunk)])
			if err == nil {
				rest -= n
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("send: %d of %d bytes are sent: %w", total-rest, total, err)
		}
	}
	return nil
}

// receive reads from whichever stream has something, and returns how long the bytes took that
// count.
func (s *Streams) receive(size, total int) (time.Duration, error) {
	var begin, end time.Time
	var first, last int // bytes by then
	buffer := make([]byte, chunk)
	for got := 0; got < total; {
		err := ready(s.receiving, func(fd int) error {
			n, err := unix.Read(fd, buffer)
			switch {
			case err != nil:
				return err
			case n == 0:
				return errors.New("closed")
			}
			got += n
			if begin.IsZero() && got >= margin {
				begin, first = time.Now(), got
			}
			if end.IsZero() && got >= margin+size {
				end, last = time.Now(), got
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("receive: %d of %d bytes have come: %w", got, total, err)
		}
	}
	// By a part of a chunk more or fewer are counted than size.
	return time.Duration(float64(end.Sub(begin)) * float64(size) / float64(last-first)), nil
}

// ready does something once with each file of an epoll that is ready, and waits until one is. A
// file that is not, after all, is none of its errors.
func ready(epoll int, do func(fd int) error) error {
	var events [64]unix.EpollEvent
	n, err := unix.EpollWait(epoll, events[:], patience*1000)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("nothing happened for %d s", patience)
	}
	for _, event := range events[:n] {
		if err := do(int(event.Fd)); err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return nil
}

// Close resets the connections.
func (s *Streams) Close() error {
	err := s.close()
	for _, fd := range []int{s.sending, s.receiving} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}
