package traffic

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Streams are TCP connections from the client to the backend that carry a lot.
type Streams struct{ pair }

// chunk is how much one system call sends or receives.
const chunk = 256 << 10

// NewStreams opens a number of connections. The caller closes them.
func NewStreams(l *Loaded, count int) (*Streams, error) {
	p, err := l.open(count)
	return &Streams{p}, err
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

// Send sends a number of bytes, a multiple of the chunk, over each stream at the same time,
// and returns how long it took until the last of them was read.
func (s *Streams) Send(size int) (time.Duration, error) {
	errs := make([]error, len(s.clients)+len(s.servers))
	var sending, receiving sync.WaitGroup
	received := make([]int, len(s.servers))
	begin := time.Now()
	for i, fd := range s.clients {
		sending.Go(func() { errs[i] = on(clientSide, func() error { return send(fd, size) }) })
	}
	for i, fd := range s.servers {
		receiving.Go(func() {
			errs[len(s.clients)+i] = on(backendSide, func() (err error) {
				received[i], err = receive(fd, size)
				return err
			})
		})
	}
	sending.Wait()
	receiving.Wait()
	took := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	sum := 0
	for _, n := range received {
		sum += n
	}
	if want := size * len(s.clients); sum != want {
		return 0, fmt.Errorf("%d of %d bytes arrived", sum, want)
	}
	return took, nil
}

func send(fd, size int) error {
	buffer := make([]byte, chunk)
	for size > 0 {
		n, err := unix.Write(fd, buffer[:min(size, chunk)])
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		size -= n
	}
	return nil
}

func receive(fd, size int) (got int, err error) {
	buffer := make([]byte, chunk)
	for got < size {
		n, err := unix.Read(fd, buffer[:min(size-got, chunk)])
		if err == nil && n == 0 {
			err = errors.New("closed")
		}
		if err != nil {
			return got, fmt.Errorf("receive: %w", err)
		}
		got += n
	}
	return got, nil
}

// Close resets the connections.
func (s *Streams) Close() error { return s.close() }
