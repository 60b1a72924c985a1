package nftables

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// minSocketBuffer holds one full message and its acknowledgement.
	minSocketBuffer = 2 * maxMessage
	// ackMemory is what one acknowledgement occupies of the receive buffer: 832
	// bytes of socket buffer, rounded up (struct sk_buff and its smallest data).
	ackMemory = 1024
	// maxBatch bounds the memory of a batch, which the kernel copies.
	maxBatch = 4 << 20
)

// exchange counts netlink messages.
type exchange struct{ sent, received int }

// envelope are the messages that begin and end a batch, which the kernel does not acknowledge.
const envelope = 2

// conn is a lasting connection whose batches are known to fit into its buffers.
type conn struct {
	*nftables.Conn
	raw   *netlink.Conn // its socket
	limit cost          // of one batch
	count *exchange
}

// openConn opens the connection and finds out how large a batch may be.
//
// A batch beyond the send buffer is refused with EMSGSIZE before anything
// happens. One with more acknowledgements than the receive buffer holds is worse:
// the kernel commits it and reports ENOBUFS.
func openConn(c Config) (*conn, error) {
	out := &conn{count: &exchange{}}
	options := func(raw *netlink.Conn) error {
		limit, err := prepareSocket(raw, c.SocketBuffer)
		out.raw, out.limit = raw, limit
		return err
	}
	var err error
	out.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(c.NetNS), nftables.WithSockOptions(options))
	if err != nil {
		return nil, fmt.Errorf("open nf_tables socket: %w", err)
	}
	return out, nil
}

// commit sends an encoded batch and waits for the acknowledgement of each of its messages,
// which the kernel sends in their order. After an error more may be under way.
func (c *conn) commit(b *batch) error {
	if err := c.write(b.bytes); err != nil {
		return &netlink.OpError{Op: "send", Err: os.NewSyscallError("sendmsg", err)}
	}
	c.count.sent += int(b.next-b.first) + envelope
	for want := b.first; want != b.next; {
		answers, err := c.raw.Receive() // an OpError, also of the kernel's answer
		if err != nil {
			return err
		}
		for _, m := range answers {
			c.count.received++
			if m.Header.Type != netlink.Error || m.Header.Sequence != want {
				return fmt.Errorf("answer of type %d to message %d, want the acknowledgement of %d", m.Header.Type, m.Header.Sequence, want)
			}
			want++
		}
	}
	return nil
}

// flush sends what the library has encoded, which are so many messages. What answers there
// were to a batch that failed the library does not tell.
func (c *conn) flush(messages int) error {
	c.count.sent += messages + envelope
	err := c.Flush()
	if err == nil {
		c.count.received += messages
	}
	return err
}

func (c *conn) write(b []byte) error {
	socket, err := c.raw.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = socket.Write(func(fd uintptr) bool {
		sendErr = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return sendErr != unix.EAGAIN && sendErr != unix.EINTR
	})
	return errors.Join(err, sendErr)
}

// fits reports whether elements of so many bytes fit into one batch.
func (c *conn) fits(bytes int) bool { return elementsCost(bytes).within(c.limit) }

// prepareSocket asks for large buffers and returns what the granted ones allow.
func prepareSocket(raw *netlink.Conn, buffer int) (cost, error) {
	// Both try SO_*BUFFORCE first and settle for what the system allows.
	if err := raw.SetWriteBuffer(buffer); err != nil {
		return cost{}, err
	}
	if err := raw.SetReadBuffer(buffer); err != nil {
		return cost{}, err
	}
	// A refused message is not to come back whole, which would fill the buffer.
	if err := raw.SetOption(netlink.CapAcknowledge, true); err != nil {
		return cost{}, err
	}
	rawSocket, err := raw.SyscallConn()
	if err != nil {
		return cost{}, err
	}
	var limit cost
	var socketErr error
	err = rawSocket.Control(func(fd uintptr) {
		limit, socketErr = tuneSocket(int(fd))
	})
	return limit, errors.Join(err, socketErr)
}

func tuneSocket(fd int) (cost, error) {
	if err := dropEchoes(fd); err != nil {
		return cost{}, os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
	}
	send, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return cost{}, os.NewSyscallError("getsockopt SO_SNDBUF", err)
	}
	receive, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return cost{}, os.NewSyscallError("getsockopt SO_RCVBUF", err)
	}
	const overhead = 1024 // batch begin and end, and netlink_sendmsg's own 32 bytes
	return cost{
		bytes:    min(send-overhead, maxBatch),
		messages: receive/ackMemory - 2,
	}, nil
}

// dropEchoes filters the rules out that the kernel sends back. google/nftables
// v0.3.0 sets NLM_F_ECHO on each new rule and expects one datagram for it in front
// of its acknowledgement; for more than a few rules the kernel fills datagrams
// with several, in front of all acknowledgements, and Flush reports a failure
// that is none. The kernel runs the filter before it charges the receive buffer.
func dropEchoes(fd int) error {
	const newRule = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE
	var swapped uint32 = newRule // a filter loads in network order, netlink is native
	if native(1)[0] == 1 {
		swapped = newRule&0xff<<8 | newRule>>8
	}
	const typeOffset = 4 // of nlmsghdr.nlmsg_type
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: typeOffset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: swapped, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// uncertain are the errors of the socket itself.
var uncertain = []unix.Errno{unix.ENOBUFS, unix.EPERM, unix.EINTR, unix.EAGAIN, unix.EBADF}

// rejected reports whether the kernel answered a batch with an error of one of its
// messages, and hence, batches being atomic, did nothing of it. After any other
// error it may have done everything.
func rejected(err error) bool {
	leaves := 0
	for _, leaf := range unjoin(err) {
		var op *netlink.OpError
		var errno unix.Errno
		if !errors.As(leaf, &op) || op.Op != "receive" || !errors.As(op.Err, &errno) {
			return false
		}
		if slices.Contains(uncertain, errno) {
			return false
		}
		leaves++
	}
	return leaves > 0
}

// unjoin returns the errors that Flush joined.
func unjoin(err error) []error {
	var joined interface {
		error
		Unwrap() []error
	}
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, unjoin(e)...)
	}
	return out
}
