package netns

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Connect makes a pair of virtual Ethernet links, one end in each namespace, and
// brings both up.
func Connect(a *Namespace, linkA string, b *Namespace, linkB string) error {
	err := a.links.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: linkA},
		PeerName:      linkB,
		PeerNamespace: netlink.NsFd(b.handle),
	})
	if err != nil {
		return fmt.Errorf("connect %s/%s to %s/%s: %w", a.name, linkA, b.name, linkB, err)
	}
	if err := a.Up(linkA); err != nil {
		return err
	}
	return b.Up(linkB)
}

// Up brings a link up.
func (n *Namespace) Up(link string) error {
	l, err := n.links.LinkByName(link)
	if err == nil {
		err = n.links.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("bring up %s/%s: %w", n.name, link, err)
	}
	return nil
}

// AddAddress adds addresses to a link. IPv6 addresses are usable at once, without
// duplicate address detection.
func (n *Namespace) AddAddress(link string, addresses ...netip.Prefix) error {
	l, err := n.links.LinkByName(link)
	if err != nil {
		return fmt.Errorf("add addresses to %s/%s: %w", n.name, link, err)
	}
	for _, address := range addresses {
		a := &netlink.Addr{IPNet: ipNet(address)}
		if address.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := n.links.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add address %s to %s/%s: %w", address, n.name, link, err)
		}
	}
	return nil
}

// AddRoute adds a route through a link: by way of a gateway, or straight to the
// link when via is the zero Addr.
func (n *Namespace) AddRoute(to netip.Prefix, via netip.Addr, link string) error {
	l, err := n.links.LinkByName(link)
	if err != nil {
		return fmt.Errorf("add route %s to %s/%s: %w", to, n.name, link, err)
	}
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(to)}
	switch {
	case via.IsValid():
		route.Gw = via.AsSlice()
	case to.Addr().Is4():
		route.Scope = netlink.SCOPE_LINK
	}
	if err := n.links.RouteAdd(route); err != nil {
		return fmt.Errorf("add route %s via %s dev %s in %s: %w", to, via, link, n.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
