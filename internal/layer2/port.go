package layer2

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// port is one interface with the sockets that are open on it. Its sockets are opened
// and closed by the goroutine of Run; frames are sent by any.
type port struct {
	link
	groups *groups
	v4, v6 *ear // nil: no address of the family is answered here
	// failed: a socket is of no use any more.
	failed atomic.Bool
}

// ear is a socket for one protocol.
type ear struct {
	conn   *packet.Conn
	filter []bpf.RawInstruction
	done   chan struct{}
}

// CapabilityError says that a right is missing, and how to get it.
type CapabilityError struct {
	// Capability is its name as Kubernetes has it.
	Capability string
	Err        error
}

// Error names the capability and the cure.
func (e *CapabilityError) Error() string {
	return fmt.Sprintf("packet sockets need the capability %[1]s: %[2]v; add it to the agent's container "+
		"(securityContext.capabilities.add: [%[1]s]), or announce no pool on layer 2", e.Capability, e.Err)
}

// Unwrap returns what the kernel said.
func (e *CapabilityError) Unwrap() error { return e.Err }

// capability explains a refusal.
func capability(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &CapabilityError{Capability: "NET_RAW", Err: err}
	}
	return err
}

// Check reports whether this process may do what this package does: a
// *CapabilityError where it may not.
func Check() error {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return capability(fmt.Errorf("open a packet socket: %w", err))
	}
	return unix.Close(socket)
}

// fit opens sockets, groups and filters for what is needed. It returns the sockets
// that are not needed any more, for the caller to close.
func (p *port) fit(n *need, heard func(*port, message)) (left []*ear, err error) {
	p.link = *n.link
	var errs []error
	for _, want := range [...]struct {
		ear      **ear
		protocol int
		filter   func([]netip.Addr) []bpf.Instruction
		targets  []netip.Addr
	}{
		{&p.v4, unix.ETH_P_ARP, arpFilter, n.v4},
		{&p.v6, unix.ETH_P_IPV6, ndpFilter, n.v6},
	} {
		if len(want.targets) == 0 {
			if *want.ear != nil {
				left = append(left, *want.ear)
				*want.ear = nil
			}
			continue
		}
		filter := assemble(want.filter(want.targets))
		if *want.ear == nil {
			*want.ear, err = p.listen(want.protocol, filter, heard)
		} else {
			err = (*want.ear).pass(filter)
		}
		errs = append(errs, err)
	}
	errs = append(errs, p.groups.set(n.groups))
	return left, errors.Join(errs...)
}

// pass changes what the socket gets.
func (e *ear) pass(filter []bpf.RawInstruction) error {
	if slices.Equal(e.filter, filter) {
		return nil
	}
	if err := e.conn.SetBPF(filter); err != nil {
		return fmt.Errorf("change the filter of a packet socket: %w", err)
	}
	e.filter = filter
	return nil
}

// listen opens a socket that only gets what the filter passes. heard is called for
// every frame, by one goroutine, until the socket is closed.
func (p *port) listen(protocol int, filter []bpf.RawInstruction, heard func(*port, message)) (*ear, error) {
	conn, err := packet.Listen(&net.Interface{Index: p.index}, packet.Raw, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, capability(fmt.Errorf("open a packet socket on %s: %w", p.name, err))
	}
	e := &ear{conn: conn, filter: filter, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		parser := newParser()
		buffer := make([]byte, accept)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				p.failed.Store(true)
				heard(p, message{}) // nothing, but look at us
				return
			}
			if m, ok := parser.parse(buffer[:n]); ok {
				heard(p, m)
			}
		}
	}()
	return e, nil
}

// ear returns the socket for the family of an address, nil if there is none.
func (p *port) ear(address netip.Addr) *ear {
	if address.Is4() {
		return p.v4
	}
	return p.v6
}

// sendWait is how long the queue of an interface may be full before a frame is lost.
const sendWait = 20 * time.Millisecond

// send sends a frame. Safe for concurrent use.
func (e *ear) send(f frame) error {
	if err := e.conn.SetWriteDeadline(time.Now().Add(sendWait)); err != nil {
		return err
	}
	_, err := e.conn.WriteTo(f.data, &packet.Addr{HardwareAddr: f.to[:]})
	return err
}

// close closes the socket and waits for its goroutine.
func (e *ear) close() {
	_ = e.conn.Close() // nothing is pending
	<-e.done
}

// close closes everything.
func (p *port) close() {
	for _, e := range []*ear{p.v4, p.v6} {
		if e != nil {
			e.close()
		}
	}
	p.groups.close()
}
