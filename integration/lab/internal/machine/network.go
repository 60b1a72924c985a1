package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
	"github.com/portway-dev/portway/integration/lab/internal/netns"
)

const bridge = "br0"

// makeNetwork makes the bridge of the machine and the client outside.
func (m *Machine) makeNetwork() error {
	if err := prepareNamespace(m.machine, true); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	// Without an address of its own a bridge takes the lowest of its ports: it would
	// change with a port, and who has asked for it before would wait for half a minute.
	attrs.Name, attrs.HardwareAddr = bridge, hardwareAddr(layout.Machine().V4)
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	own, err := m.machine.Netlink()
	if err != nil {
		return err
	}
	defer own.Close()
	if err := setUp(own, br, layout.Machine().List(m.Families)); err != nil {
		return err
	}
	if m.outside, err = netns.New(); err != nil {
		return err
	}
	if err := prepareNamespace(m.outside, false); err != nil {
		return err
	}
	if err := m.plug(m.outside, "outside", layout.Outside(), false); err != nil || !m.Full {
		return err
	}
	return m.serveAPI()
}

// serveAPI answers at the address of the Service "kubernetes" for nodes without
// kube-proxy: what they do not translate comes here by their default route.
func (m *Machine) serveAPI() error {
	rules := "table inet lab {\n\tchain prerouting {\n\t\ttype nat hook prerouting priority dstnat\n"
	for _, addr := range layout.ServiceAddresses(m.Families) {
		family := "ip"
		if addr.Is6() {
			family = "ip6"
		}
		rules += fmt.Sprintf("\t\t%s daddr %s tcp dport 443 redirect to :%d\n", family, addr, apiPort)
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules + "\t}\n}\n")
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("serve the API: nft: %w: %s", err, out)
	}
	return nil
}

// prepareNamespace sets the loopback up and what must be set before there are
// links: addresses are usable at once, without duplicate address detection.
func prepareNamespace(place *netns.Handle, forward bool) error {
	settings := map[string]string{}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		settings["ipv6/conf/all/accept_dad"] = "0"
		settings["ipv6/conf/default/accept_dad"] = "0"
		settings["ipv6/conf/default/accept_ra"] = "0"
		if forward {
			settings["ipv6/conf/all/forwarding"] = "1"
		}
	}
	if forward {
		settings["ipv4/ip_forward"] = "1"
	}
	for name, value := range settings {
		if err := place.Sysctl(name, value); err != nil {
			return err
		}
	}
	handle, err := place.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return err
	}
	return handle.LinkSetUp(lo)
}

// plug connects a namespace to the bridge: its eth0, and a veth called NAME here.
func (m *Machine) plug(place *netns.Handle, name string, addrs layout.Pair, defaultRoute bool) error {
	own, err := m.machine.Netlink()
	if err != nil {
		return err
	}
	defer own.Close()
	if err := unplug(own, name); err != nil {
		return err
	}
	br, err := own.LinkByName(bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, br.Attrs().Index
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(place.FD()), PeerHardwareAddr: hardwareAddr(addrs.V4),
	}
	if err := own.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s: %w", name, err)
	}
	if err := own.LinkSetUp(veth); err != nil {
		return err
	}
	inside, err := place.Netlink()
	if err != nil {
		return err
	}
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := setUp(inside, eth0, addrs.List(m.Families)); err != nil {
		return err
	}
	if !defaultRoute {
		return nil
	}
	for _, gateway := range layout.Machine().List(m.Families) {
		if err := inside.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway.AsSlice(), Dst: everywhere(gateway)}); err != nil {
			return fmt.Errorf("default route of %s: %w", name, err)
		}
	}
	return nil
}

// hardwareAddr follows from the IPv4 address: a node keeps it over a boot, as the
// caches of its neighbours expect.
func hardwareAddr(addr netip.Addr) net.HardwareAddr {
	ip := addr.As4()
	return append(net.HardwareAddr{0x02, 0x00}, ip[:]...)
}

// unplug removes a veth if it is there: at once, where the kernel takes its time
// after the death of the namespace that the other end was in.
func unplug(own *netlink.Handle, name string) error {
	link, err := own.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := own.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("unplug %s: %w", name, err)
	}
	return nil
}

func setUp(handle *netlink.Handle, link netlink.Link, addrs []netip.Addr) error {
	if err := handle.LinkSetUp(link); err != nil {
		return err
	}
	for _, addr := range addrs {
		bits := layout.Bits4
		if addr.Is6() {
			bits = layout.Bits6
		}
		ip := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}}
		if addr.Is6() {
			ip.Flags = unix.IFA_F_NODAD
		}
		if err := handle.AddrAdd(link, ip); err != nil {
			return fmt.Errorf("add %s to %s: %w", addr, link.Attrs().Name, err)
		}
	}
	return nil
}

// routePods routes the pods of node I through it, in one namespace.
func (m *Machine) routePods(in *netns.Handle, i int) error {
	handle, err := in.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	gateways := layout.Node(i).List(m.Families)
	for family, pods := range layout.PodRanges(i, m.Families) {
		route := &netlink.Route{
			Dst: &net.IPNet{IP: pods.Addr().AsSlice(), Mask: net.CIDRMask(pods.Bits(), pods.Addr().BitLen())},
			Gw:  gateways[family].AsSlice(),
		}
		if err := handle.RouteReplace(route); err != nil {
			return fmt.Errorf("route pods of %s: %w", layout.NodeName(i), err)
		}
	}
	return nil
}

func everywhere(family netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, family.BitLen()/8), Mask: net.CIDRMask(0, family.BitLen())}
}
