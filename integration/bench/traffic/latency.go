package traffic

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Requests are connections on which the client asks at a steady rate and the backend answers.
type Requests struct {
	pair
	clients, servers int // epoll
	at               map[int32]*questions
}

// questions of one connection, in the order in which they are answered.
type questions struct {
	due  []time.Time
	rest int // bytes of an answer that has begun
}

// requestSize is that of a request and of an answer.
const requestSize = 64

// NewRequests opens a number of connections. The caller closes them.
func NewRequests(l *Loaded, count int) (*Requests, error) {
	p, err := l.open(count)
	if err != nil {
		return nil, err
	}
	r := &Requests{pair: p, clients: -1, servers: -1, at: map[int32]*questions{}}
	for _, fd := range p.clients {
		r.at[int32(fd)] = &questions{}
	}
	if r.clients, err = poll(interest{p.clients, unix.EPOLLIN}); err == nil {
		r.servers, err = poll(interest{p.servers, unix.EPOLLIN})
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// interest is in an event of some files.
type interest struct {
	fds   []int
	event uint32
}

// poll returns an epoll for what is of interest. The caller closes it, after an error, too, unless
// it is negative.
func poll(what ...interest) (int, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for _, w := range what {
		for _, fd := range w.fds {
			event := unix.EpollEvent{Events: w.event, Fd: int32(fd)}
			err = errors.Join(err, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event))
		}
	}
	return epoll, err
}

// Ask asks count times, rate times a second, over the connections in turn, and returns how
// long each took to be answered since it was due, whether or not it could be sent then: a
// subject that falls behind does not have fewer questions.
func (r *Requests) Ask(count, rate int) ([]time.Duration, error) {
	var done atomic.Bool
	served := make(chan error, 1)
	go func() { served <- on(backendSide, func() error { return r.serve(&done) }) }()
	var took []time.Duration
	err := on(clientSide, func() (err error) {
		took, err = r.ask(count, time.Second/time.Duration(rate))
		return err
	})
	done.Store(true)
	return took, errors.Join(err, <-served)
}

// serve answers whatever has come.
func (r *Requests) serve(done *atomic.Bool) error {
	var events [64]unix.EpollEvent
	var buffer [64 * requestSize]byte
	for !done.Load() {
		n, err := unix.EpollWait(r.servers, events[:], 10)
		if err != nil {
			return err
		}
		for _, event := range events[:n] {
			got, err := unix.Read(int(event.Fd), buffer[:])
			if err == nil && got == 0 {
				err = errors.New("closed")
			}
			if err == nil {
				_, err = unix.Write(int(event.Fd), buffer[:got])
			}
			if err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		}
	}
	return nil
}

// ask never sleeps: to be woken up takes longer than most answers.
func (r *Requests) ask(count int, interval time.Duration) ([]time.Duration, error) {
	took := make([]time.Duration, 0, count)
	var events [64]unix.EpollEvent
	var request [requestSize]byte
	begin := time.Now()
	for sent := 0; len(took) < count; {
		now := time.Now()
		if due := begin.Add(time.Duration(sent) * interval); sent < count && !now.Before(due) {
			fd := r.pair.clients[sent%len(r.pair.clients)]
			r.at[int32(fd)].due = append(r.at[int32(fd)].due, due)
			if _, err := unix.Write(fd, request[:]); err != nil {
				return nil, fmt.Errorf("ask: %w", err)
			}
			sent++
		}
		if now.Sub(begin) > time.Duration(count)*interval+patience*time.Second {
			return nil, fmt.Errorf("%d of %d requests are answered", len(took), count)
		}
		n, err := unix.EpollWait(r.clients, events[:], 0)
		if err != nil {
			return nil, err
		}
		for _, event := range events[:n] {
			if took, err = r.at[event.Fd].read(event.Fd, took); err != nil {
				return nil, err
			}
		}
	}
	return took, nil
}

// read takes the answers that have come.
func (q *questions) read(fd int32, took []time.Duration) ([]time.Duration, error) {
	var buffer [64 * requestSize]byte
	n, err := unix.Read(int(fd), buffer[:])
	if err == nil && n == 0 {
		err = errors.New("closed")
	}
	if err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	now := time.Now()
	for q.rest += n; q.rest >= requestSize && len(q.due) > 0; q.rest -= requestSize {
		took = append(took, now.Sub(q.due[0]))
		q.due = q.due[1:]
	}
	return took, nil
}

// Close resets the connections.
func (r *Requests) Close() error { return errors.Join(r.close(), closeAll(r.clients, r.servers)) }

// closeAll closes the files that there are.
func closeAll(fds ...int) error {
	var err error
	for _, fd := range fds {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}
