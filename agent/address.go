package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// hostAddresses returns the addresses of this host at which others can reach it:
// those of its interfaces with global scope, IPv4 first, sorted.
func hostAddresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	dummies := clusterIPLinks()
	var found []netip.Addr
	for _, a := range list {
		if addr, ok := usableAddress(a); ok && !dummies[a.LinkIndex] {
			found = append(found, addr)
		}
	}
	return sortAddresses(found), nil
}

// gathering is how long changes of addresses are gathered before they are looked at:
// they come in bursts, and most are of addresses that do not count.
const gathering = 50 * time.Millisecond

// watchAddresses calls changed when hostAddresses may return something else, until
// ctx ends. It may miss changes: the full passes look, too.
func watchAddresses(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		if err := followUpdates(ctx, changed); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot follow this host's addresses, looking at them from time to time")
			return
		}
		select { // it is over because more came than the socket holds
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// followUpdates does so until the kernel ends it.
func followUpdates(ctx context.Context, changed func()) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	updates := make(chan netlink.AddrUpdate) // closed at the end, and read until then
	if err := netlink.AddrSubscribe(updates, ctx.Done()); err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	var last []netip.Addr
	due := time.After(0) // what was before the subscription
	for {
		select {
		case _, open := <-updates:
			if !open {
				return nil
			}
			if due == nil {
				due = time.After(gathering)
			}
		case <-due:
			due = nil
			if now, err := hostAddresses(); err != nil || last == nil || !slices.Equal(now, last) {
				last = now
				changed()
			}
		}
	}
}

// clusterIPLinks are interfaces that hold the addresses of Services and not of
// the host: kube-proxy in IPVS mode binds all of them to one.
func clusterIPLinks() map[int]bool {
	link, err := netlink.LinkByName("kube-ipvs0")
	if err != nil {
		return nil // no such link
	}
	return map[int]bool{link.Attrs().Index: true}
}

func usableAddress(a netlink.Addr) (netip.Addr, bool) {
	if a.IPNet == nil || a.Scope != unix.RT_SCOPE_UNIVERSE {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	addr = addr.Unmap()
	if !ok || !addr.IsGlobalUnicast() { // not loopback, link-local, multicast, unspecified
		return netip.Addr{}, false
	}
	// Addresses that are not settled, and those that an IPv6 host changes every
	// day (RFC 8981); for IPv4 the same bit says "secondary", which is fine.
	unsettled := unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	if addr.Is6() {
		unsettled |= unix.IFA_F_TEMPORARY
	}
	return addr, a.Flags&unsettled == 0
}

// sortAddresses puts IPv4 first, each family in order, and drops duplicates.
func sortAddresses(addresses []netip.Addr) []netip.Addr {
	slices.SortFunc(addresses, netip.Addr.Compare) // compares lengths first
	return slices.Compact(addresses)
}

// ParseAddresses reads node addresses as given by flags.
func ParseAddresses(texts []string) ([]netip.Addr, error) {
	addresses := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || !addr.Unmap().IsGlobalUnicast() {
			return nil, fmt.Errorf("node address %q: must be an address of this node at which others reach it, such as 192.0.2.1 or 2001:db8::1", text)
		}
		addresses = append(addresses, addr.Unmap())
	}
	return sortAddresses(addresses), nil
}
