package layer2

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// groups are the solicited-node multicast groups that are joined on one interface, so
// that the interface, and switches that snoop MLD, let through who asks for our
// addresses. To be used by one goroutine at a time.
//
// One socket has room for as many memberships as net.core.optmem_max allows, which are
// some hundreds on most kernels; then another is opened.
type groups struct {
	index   int
	sockets []int
	joined  map[netip.Addr]int // the socket
}

func newGroups(index int) *groups { return &groups{index: index, joined: map[netip.Addr]int{}} }

// set joins what is wanted and leaves what is not.
func (g *groups) set(wanted map[netip.Addr]bool) error {
	for group, socket := range g.joined {
		if wanted[group] {
			continue
		}
		// It fails only when the interface is gone, and the membership with it.
		_ = g.option(socket, unix.IPV6_LEAVE_GROUP, group)
		delete(g.joined, group)
	}
	var errs []error
	for group := range wanted {
		if _, ok := g.joined[group]; ok {
			continue
		}
		if err := g.join(group); err != nil {
			errs = append(errs, fmt.Errorf("join %s: %w", group, err))
		}
	}
	return errors.Join(errs...)
}

// join tries the newest socket first, as the older ones were full.
func (g *groups) join(group netip.Addr) error {
	for i := len(g.sockets) - 1; i >= 0; i-- {
		err := g.option(g.sockets[i], unix.IPV6_JOIN_GROUP, group)
		if err == nil {
			g.joined[group] = g.sockets[i]
			return nil
		}
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) {
			return err
		}
	}
	socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	g.sockets = append(g.sockets, socket)
	if err := g.option(socket, unix.IPV6_JOIN_GROUP, group); err != nil {
		return err
	}
	g.joined[group] = socket
	return nil
}

func (g *groups) option(socket, option int, group netip.Addr) error {
	return unix.SetsockoptIPv6Mreq(socket, unix.IPPROTO_IPV6, option,
		&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(g.index)})
}

func (g *groups) close() {
	for _, socket := range g.sockets {
		_ = unix.Close(socket) // nothing is pending
	}
	g.sockets, g.joined = nil, map[netip.Addr]int{}
}
