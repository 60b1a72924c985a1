package traffic

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// batch connections are open at the same time, so that a proxy finds several of them ready
// when it looks, as under load.
const batch = 16

// Connections opens TCP connections from the client, sends one byte on each and closes it;
// the backend accepts, reads the byte and the end, and closes, too. One thread is both, and
// waits for nobody but proxies: the kernel has brought every segment to its end before the
// system call returns that sent it. So no wake-up of ours is in the figure, and what is
// compared is as much of it as can be.
type Connections struct {
	site   *Site
	routed bool
	next   int
	source [4]byte

	clients, servers []int // sockets that are open
}

// NewConnections goes to the endpoints themselves when routed.
func NewConnections(s *Site, routed bool) *Connections {
	return &Connections{site: s, routed: routed, source: clients.Addr().As4()}
}

// Rewind starts over, from another address than the round before: connections of that one
// may still be in TIME_WAIT.
func (c *Connections) Rewind(round int) {
	c.next = 0
	c.source[3] = byte(10 + round%200)
}

// Open opens a number of connections, a multiple of the batch. The calling thread must be
// in the client's namespace.
func (c *Connections) Open(count int) error {
	for range count / batch {
		err := c.connect(batch)
		if err == nil {
			err = c.accept()
		}
		for _, fd := range c.clients { // before the servers: it is they who wait for the end
			err = errors.Join(err, unix.Close(fd))
		}
		for _, fd := range c.servers {
			if err == nil {
				err = read(fd, 0)
			}
			err = errors.Join(err, unix.Close(fd))
		}
		c.clients, c.servers = c.clients[:0], c.servers[:0]
		if err != nil {
			return fmt.Errorf("TCP connection %d: %w", c.next, err)
		}
	}
	return nil
}

func (c *Connections) connect(count int) error {
	for range count {
		fd, to, err := c.connectOne()
		if fd >= 0 {
			c.clients = append(c.clients, fd)
		}
		if err != nil {
			return fmt.Errorf("to %s: %w", to, err)
		}
	}
	return nil
}

// connectOne opens the next connection and sends its byte. The socket is the caller's to
// close, unless it is negative.
func (c *Connections) connectOne() (fd int, to netip.AddrPort, err error) {
	to = c.site.destination(c.next, c.site.Listeners, c.routed)
	c.next++
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, to, err
	}
	patience := unix.Timeval{Sec: patience} // of connect, too
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: c.source}),
	); err != nil {
		return fd, to, err
	}
	// Called again after a signal, connect waits for what it has begun.
	if err := again(func() error { return unix.Connect(fd, sockaddr(to)) }); err != nil {
		return fd, to, fmt.Errorf("connect: %w", err)
	}
	return fd, to, again(func() error {
		_, err := unix.Write(fd, []byte{1})
		return err
	})
}

func (c *Connections) accept() error {
	for range len(c.clients) {
		fd := -1
		if err := again(func() (err error) {
			fd, _, err = unix.Accept4(c.site.listener, unix.SOCK_CLOEXEC)
			return err
		}); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		c.servers = append(c.servers, fd)
		if err := read(fd, 1); err != nil {
			return err
		}
	}
	return nil
}

// read reads what must be there.
func read(fd, want int) error {
	var buffer [16]byte
	n := 0
	err := again(func() (err error) {
		n, err = unix.Read(fd, buffer[:])
		return err
	})
	if err == nil && n != want {
		err = fmt.Errorf("%d bytes, want %d", n, want)
	}
	return err
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}
