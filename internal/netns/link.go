package netns

import (
	"errors"
	"fmt"
	"io/fs"
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

// AddBridge makes a bridge, brings it up and attaches links to it.
func (n *Namespace) AddBridge(bridge string, ports ...string) error {
	err := n.links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}})
	if err != nil {
		return fmt.Errorf("add bridge %s/%s: %w", n.name, bridge, err)
	}
	for _, port := range ports {
		if err := n.attach(port, bridge, false); err != nil {
			return err
		}
	}
	return n.Up(bridge)
}

// attach makes a link a port of a bridge. Only with hairpin does the bridge send a
// frame back to the port it came from.
func (n *Namespace) attach(port, bridge string, hairpin bool) error {
	master, err := n.links.LinkByName(bridge)
	var link netlink.Link
	if err == nil {
		link, err = n.links.LinkByName(port)
	}
	if err == nil {
		err = n.links.LinkSetMaster(link, master)
	}
	if err == nil {
		err = n.links.LinkSetHairpin(link, hairpin)
	}
	if err != nil {
		return fmt.Errorf("attach %s to bridge %s/%s: %w", port, n.name, bridge, err)
	}
	return nil
}

// FilterBridged has packets that a bridge of the namespace passes on seen by the
// rules for IP packets, or not (br_netfilter; a kernel without it never does).
func (n *Namespace) FilterBridged(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	for _, key := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		err := n.SetSysctl("net/bridge/"+key, value)
		if err != nil && (on || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("br_netfilter in %s: %w", n.name, err)
		}
	}
	return nil
}

// SetMTU limits the packets that pass between two ends of a pair of links. Both
// ends need it: a virtual Ethernet link drops what its peer would not send.
func SetMTU(mtu int, a *Namespace, linkA string, b *Namespace, linkB string) error {
	return errors.Join(a.setMTU(linkA, mtu), b.setMTU(linkB, mtu))
}

func (n *Namespace) setMTU(link string, mtu int) error {
	l, err := n.links.LinkByName(link)
	if err == nil {
		err = n.links.LinkSetMTU(l, mtu)
	}
	if err != nil {
		return fmt.Errorf("set MTU of %s/%s: %w", n.name, link, err)
	}
	return nil
}

// PathMTU is what the namespace has learned of the path to an address from ICMP
// errors; 0 when it has learned nothing.
func (n *Namespace) PathMTU(to netip.Addr) (int, error) {
	routes, err := n.links.RouteGet(to.AsSlice())
	if err != nil {
		return 0, fmt.Errorf("route from %s to %s: %w", n.name, to, err)
	}
	for _, route := range routes {
		if route.MTU > 0 {
			return route.MTU, nil
		}
	}
	return 0, nil
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

// LinkAddress is the hardware address of a link.
func (n *Namespace) LinkAddress(link string) (net.HardwareAddr, error) {
	l, err := n.links.LinkByName(link)
	if err != nil {
		return nil, fmt.Errorf("hardware address of %s/%s: %w", n.name, link, err)
	}
	return l.Attrs().HardwareAddr, nil
}

// AddNeighbour has a namespace take an address for that of a machine on a link, for good
// and without asking for it.
func (n *Namespace) AddNeighbour(addr netip.Addr, at net.HardwareAddr, link string) error {
	l, err := n.links.LinkByName(link)
	if err == nil {
		err = n.links.NeighAdd(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: at,
		})
	}
	if err != nil {
		return fmt.Errorf("add neighbour %s at %s/%s: %w", addr, n.name, link, err)
	}
	return nil
}

// AddUnreachable has the namespace reject what it should forward to a prefix.
func (n *Namespace) AddUnreachable(to netip.Prefix) error {
	if err := n.links.RouteAdd(&netlink.Route{Dst: ipNet(to), Type: unix.RTN_UNREACHABLE}); err != nil {
		return fmt.Errorf("add unreachable route %s in %s: %w", to, n.name, err)
	}
	return nil
}

// AddLocal has the namespace take all addresses of a prefix for its own.
func (n *Namespace) AddLocal(prefix netip.Prefix) error {
	lo, err := n.links.LinkByName("lo")
	if err == nil {
		err = n.links.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: ipNet(prefix), Type: unix.RTN_LOCAL,
			Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		})
	}
	if err != nil {
		return fmt.Errorf("add local route %s in %s: %w", prefix, n.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
