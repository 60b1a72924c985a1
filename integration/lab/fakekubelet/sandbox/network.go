package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/integration/lab/internal/netns"
)

// Network is the network namespace of a pod, connected to the node's by a veth.
type Network struct {
	place *netns.Handle
	veth  string // the node's end
}

// Addresses of a pod's network, one per family, in the same order.
type Addresses struct {
	Pod []netip.Addr
	// Gateway is the node's end of the veth, the same for all pods of the node. A
	// masquerade towards the pod takes it.
	Gateway []netip.Addr
	// Node is where the node's own connections to the pod come from.
	Node []netip.Addr
}

// NewNetwork makes a network. Its link is called after the id, which has at most
// eleven characters.
func NewNetwork(id string, addrs Addresses) (*Network, error) {
	place, err := netns.New()
	if err != nil {
		return nil, err
	}
	n := &Network{place: place, veth: "pod-" + id}
	if err := n.connect(addrs); err != nil {
		return nil, errors.Join(fmt.Errorf("pod network: %w", err), n.Close())
	}
	return n, nil
}

// Close disconnects the pod. The namespace ends with its last process.
func (n *Network) Close() error {
	err := n.place.Close()
	link, findErr := netlink.LinkByName(n.veth)
	if errors.As(findErr, &netlink.LinkNotFoundError{}) {
		return err
	}
	if findErr != nil {
		return errors.Join(err, findErr)
	}
	return errors.Join(err, netlink.LinkDel(link))
}

func (n *Network) connect(addrs Addresses) error {
	six := false
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		six = true
		for _, name := range []string{"all", "default"} {
			if err := n.place.Sysctl("ipv6/conf/"+name+"/accept_dad", "0"); err != nil {
				return err
			}
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.veth
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.place.FD())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	if six {
		if err := netns.WriteSysctl("ipv6/conf/"+n.veth+"/accept_dad", "0"); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	for family := range addrs.Pod {
		if err := nodeSide(veth, addrs, family); err != nil {
			return err
		}
	}
	inside, err := n.place.Netlink()
	if err != nil {
		return err
	}
	defer inside.Close()
	return podSide(inside, addrs)
}

func nodeSide(veth netlink.Link, addrs Addresses, family int) error {
	addr := addrs.Pod[family]
	if err := netlink.AddrAdd(veth, address(addrs.Gateway[family])); err != nil {
		return fmt.Errorf("add gateway: %w", err)
	}
	// Without a source the kernel would take the link's address.
	route := &netlink.Route{LinkIndex: veth.Attrs().Index, Dst: address(addr).IPNet, Src: addrs.Node[family].AsSlice(), Scope: unix.RT_SCOPE_LINK}
	if addr.Is6() {
		route.Scope = unix.RT_SCOPE_UNIVERSE
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route to pod: %w", err)
	}
	return nil
}

func podSide(inside *netlink.Handle, addrs Addresses) error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := inside.LinkByName(name)
		if err != nil {
			return err
		}
		if err := inside.LinkSetUp(link); err != nil {
			return err
		}
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	for family, addr := range addrs.Pod {
		if err := inside.AddrAdd(eth0, address(addr)); err != nil {
			return fmt.Errorf("add %s: %w", addr, err)
		}
		// Onlink: the gateway is in no network of the pod.
		route := &netlink.Route{
			LinkIndex: eth0.Attrs().Index, Gw: addrs.Gateway[family].AsSlice(), Flags: int(netlink.FLAG_ONLINK),
			Dst: &net.IPNet{IP: make(net.IP, addr.BitLen()/8), Mask: net.CIDRMask(0, addr.BitLen())},
		}
		if err := inside.RouteReplace(route); err != nil {
			return fmt.Errorf("default route: %w", err)
		}
	}
	return nil
}

// address is a host address: the whole length is its prefix.
func address(addr netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}
