package traffic

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// Streams are TCP connections from the client to the backend that carry a lot.
type Streams struct {
	pair
	reading, both int // epoll: of the backend's end, and of both
	buffer        []byte
}

// chunk is how much one system call sends or receives at most.
const chunk = 128 << 10

// window is the size of a socket's buffers.
const window = 4 << 20

// streamSettings leave nothing of what a connection carries to its luck: neither how far its
// buffers and its congestion window have grown, which others' turns and the delays of a busy machine
// keep small (cubic leaves slow start for a delay), nor what a connection before has left.
var streamSettings = map[string]string{
	"tcp_rmem":                  fmt.Sprintf("4096 %d %[1]d", window),
	"tcp_wmem":                  fmt.Sprintf("4096 %d %[1]d", window),
	"tcp_congestion_control":    "reno",
	"tcp_slow_start_after_idle": "0",
	"tcp_no_metrics_save":       "1",
}

// NewStreams opens a number of connections. The caller closes them.
func NewStreams(l *Loaded, count int) (*Streams, error) {
	for _, n := range []*netns.Namespace{l.Client, l.Node, l.Pods[0].Namespace} { // proxies have sockets, too
		for key, value := range streamSettings {
			if err := n.SetSysctl("net/ipv4/"+key, value); err != nil {
				return nil, err
			}
		}
	}
	p, err := l.open(count)
	if err != nil {
		return nil, err
	}
	s := &Streams{pair: p, reading: -1, both: -1, buffer: make([]byte, chunk)}
	for _, fd := range slices.Concat(p.clients, p.servers) {
		err = errors.Join(err, unix.SetNonblock(fd, true))
	}
	if err == nil {
		s.reading, err = poll(interest{p.servers, unix.EPOLLIN})
	}
	if err == nil {
		s.both, err = poll(interest{p.servers, unix.EPOLLIN}, interest{p.clients, unix.EPOLLOUT})
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

// Send sends a number of bytes over all streams and reads them at the backend. The calling thread
// does both, and waits for nobody but proxies: which of several threads runs next, and where, would
// be the scheduler's choice and most of the spread. The caller measures, see Clock.
func (s *Streams) Send(size int) error {
	for sent, got := 0, 0; got < size; {
		wrote, err := each(s.clients, func(fd int) (int, error) {
			n, err := unix.Write(fd, s.buffer[:min(size-sent, chunk)])
			sent += max(n, 0)
			return n, err
		})
		if err != nil {
			return fmt.Errorf("send: %d of %d bytes are sent: %w", sent, size, err)
		}
		read, err := each(s.servers, func(fd int) (int, error) {
			n, err := unix.Read(fd, s.buffer)
			if err == nil && n == 0 {
				err = errors.New("closed")
			}
			return n, err
		})
		if err != nil {
			return fmt.Errorf("receive: %d of %d bytes have come: %w", got, size, err)
		}
		if got += read; wrote == 0 && read == 0 {
			if err := s.wait(sent < size); err != nil {
				return fmt.Errorf("%d of %d bytes are sent, %d have come: %w", sent, size, got, err)
			}
		}
	}
	return nil
}

// each sums up what a system call on each file moves; a file that is not ready moves nothing.
func each(fds []int, call func(fd int) (int, error)) (sum int, err error) {
	for _, fd := range fds {
		n, err := call(fd)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return sum, err
		}
		sum += max(n, 0)
	}
	return sum, nil
}

// wait returns when a stream can be read or, if there is something to send, be written to.
func (s *Streams) wait(sending bool) error {
	epoll := s.reading
	if sending {
		epoll = s.both
	}
	var events [1]unix.EpollEvent
	n := 0
	err := again(func() (err error) {
		n, err = unix.EpollWait(epoll, events[:], patience*1000)
		return err
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("nothing happened for %d s", patience)
	}
	return err
}

// Close resets the connections.
func (s *Streams) Close() error { return errors.Join(s.close(), closeAll(s.reading, s.both)) }
