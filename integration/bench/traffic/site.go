package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// A Site is a client, a node and a backend that has the addresses of all endpoints, in
// namespaces of their own.
type Site struct {
	*netns.Lab
	Size
	listener int // TCP socket of the backend
}

const (
	nodeLink   = "uplink" // to the client
	clientLink = "eth0"
	podLink    = "eth0"
	// patience is how long the backend and the client wait for a peer before they give up.
	patience = 10 // s
)

// clients holds the client's addresses, of those that RFC 2544 reserves for benchmarks. They
// are behind an address of the client's link: the kernel's table of neighbours is one for all
// namespaces of a machine, and small.
var clients = netip.MustParsePrefix("198.18.0.0/24")

// NewSite builds a Site. What the backend gets of UDP is counted and dropped before it is
// looked at; over TCP it listens at every endpoint. The caller closes it.
func NewSite(size Size) (_ *Site, err error) {
	lab, err := netns.NewLab(netns.PodSpec{Name: "backend", Number: 10})
	if err != nil {
		return nil, err
	}
	s := &Site{Lab: lab, Size: size, listener: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	pod := lab.Pods[0]
	if err := errors.Join(
		lab.Node.AddRoute(endpoints, pod.Addr4, "pod10"),
		pod.AddLocal(endpoints),
		lab.Client.AddLocal(clients),
		lab.Node.AddRoute(clients, netns.ClientAddr4, nodeLink),
	); err != nil {
		return nil, err
	}
	for _, n := range []*netns.Namespace{lab.Client, lab.Node} { // proxies open connections, too
		for key, value := range map[string]string{"ip_local_port_range": "1024 65535", "tcp_tw_reuse": "1"} {
			if err := n.SetSysctl("net/ipv4/"+key, value); err != nil {
				return nil, err
			}
		}
	}
	const sink = `add table netdev sink
add chain netdev sink c { type filter hook ingress device ` + podLink + ` priority 0; }
`
	if err := nft(pod.Namespace, sink+sinkRule); err != nil {
		return nil, err
	}
	if err := pod.Do(s.listen); err != nil {
		return nil, fmt.Errorf("listen in the backend: %w", err)
	}
	return s, nil
}

// sinkRule counts and drops.
const sinkRule = "add rule netdev sink c meta l4proto udp counter drop"

func (s *Site) listen() (err error) {
	if s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(s.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptTimeval(s.listener, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}), // of what is accepted, too
		unix.Bind(s.listener, &unix.SockaddrInet4{Port: endpointPort}),
		unix.Listen(s.listener, 4096),
	)
}

// Close ends it all.
func (s *Site) Close() error {
	var err error
	if s.listener >= 0 {
		err = unix.Close(s.listener)
	}
	return errors.Join(err, s.Lab.Close())
}

// Forget empties the node's table of flows, so that it never fills and every flow of the
// next round is new again.
func (s *Site) Forget() error {
	return s.Node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

var sunk = regexp.MustCompile(`counter packets (\d+)`)

// Arrived is the number of UDP packets that have come to the backend.
func (s *Site) Arrived() (int, error) {
	out, err := s.Pods[0].Output("nft", "list chain netdev sink c")
	if err != nil {
		return 0, err
	}
	match := sunk.FindStringSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("no counter in %s", out)
	}
	return strconv.Atoi(match[1])
}
