package traffic

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// NewEstablished prepares Datagrams of as many flows, each of which has been answered once, so
// that the kernel takes it for established. The caller closes it.
func NewEstablished(l *Loaded, flows int) (*Datagrams, error) {
	d, err := NewDatagrams(l.Site, flows, l.Routed)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(l.answered(d), l.assured(flows)); err != nil {
		return nil, fmt.Errorf("%s: %w", l.Name, errors.Join(err, d.Close()))
	}
	return d, nil
}

// answered sends the packets once and has the backend answer each. The client, which has no
// sockets for the answers, drops them.
func (l *Loaded) answered(d *Datagrams) error {
	pod := l.Pods[0].Namespace
	const silent = `add table netdev silent
add chain netdev silent c { type filter hook ingress device ` + clientLink + ` priority 0; }
add rule netdev silent c meta l4proto udp drop`
	if err := errors.Join(nft(l.Client, silent), nft(pod, "flush chain netdev sink c")); err != nil {
		return err
	}
	err := pod.Do(func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(socket, unix.IPPROTO_IP, unix.IP_PKTINFO, 1), // answer from the address that was asked
			unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}),
			unix.Bind(socket, &unix.SockaddrInet4{Port: endpointPort}),
		)
		for range d.messages {
			if err == nil {
				err = errors.Join(d.Send(1), answer(socket))
			}
		}
		return errors.Join(err, unix.Close(socket))
	})
	return errors.Join(err, nft(pod, sinkRule), nft(l.Client, "delete table netdev silent"))
}

// answer answers one packet.
func answer(socket int) error {
	var buffer [ethernet + ipv4 + udp + payload]byte
	var control [64]byte
	var n, size int
	var from unix.Sockaddr
	if err := again(func() (err error) {
		n, size, _, from, err = unix.Recvmsg(socket, buffer[:], control[:], 0)
		return err
	}); err != nil {
		return fmt.Errorf("receive at the backend: %w", err)
	}
	return unix.Sendmsg(socket, buffer[:n], control[:size], from, 0)
}

// assured returns an error unless the node has seen an answer of as many flows, if need be
// after a while: the kernel may leave packets to a thread. A subject that follows no flows has
// none to see.
func (l *Loaded) assured(flows int) error {
	var followed, silent int
	for deadline := time.Now().Add(patience * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// Without its summary, which it writes to the other output in the middle of a line.
		out, err := l.Node.Output("sh", "-c", "conntrack -L -p udp 2>/dev/null")
		if err != nil {
			return err
		}
		followed, silent = strings.Count(out, "udp "), strings.Count(out, "[UNREPLIED]")
		if followed == 0 || followed-silent == flows {
			return nil
		}
	}
	return fmt.Errorf("%d flows are followed, %d of them without an answer; want %d that have one", followed, silent, flows)
}

// arrived returns an error unless as many packets have come to the backend, if need be after a
// while.
func (l *Loaded) arrived(packets int) error {
	var got int
	for deadline := time.Now().Add(patience * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = l.Arrived(); err != nil || got == packets {
			return err
		}
	}
	return fmt.Errorf("%d of %d packets arrived", got, packets)
}
