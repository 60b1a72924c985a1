package layer2

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is an Ethernet interface that can be answered on.
type link struct {
	index int
	name  string
	mac   MAC
	// linkLocal is the source of neighbour advertisements; the zero Addr: none, so no
	// IPv6 here.
	linkLocal netip.Addr
	// prefixes of its addresses, but for link-local ones.
	prefixes []netip.Prefix
	// own: it has an address of the node or a default route.
	own bool
	// active port of a bond, by which others may have learned where our MAC is.
	active int
}

// links are those of a network namespace at one time. Safe for concurrent use.
type links struct {
	all []link
	// unusable says of other interfaces why they are.
	unusable map[string]string
	macs     map[MAC]bool // of all interfaces of the node

	mu      sync.Mutex
	matched map[string][]*link // by interface patterns; 5 000 addresses have few different ones
}

// listLinks reads them from the namespace of the calling thread.
func listLinks(nodeAddresses []netip.Addr) (*links, error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	defaults, err := defaultRoutes()
	if err != nil {
		return nil, err
	}
	byIndex := map[int]netlink.Link{}
	for _, l := range list {
		byIndex[l.Attrs().Index] = l
	}
	ls := &links{unusable: map[string]string{}, macs: map[MAC]bool{}, matched: map[string][]*link{}}
	for _, l := range list {
		attrs := l.Attrs()
		if len(attrs.HardwareAddr) == len(MAC{}) {
			ls.macs[MAC(attrs.HardwareAddr)] = true
		}
		if reason := unusable(attrs, byIndex[attrs.MasterIndex]); reason != "" {
			ls.unusable[attrs.Name] = reason
			continue
		}
		found := link{index: attrs.Index, name: attrs.Name, mac: MAC(attrs.HardwareAddr), own: defaults[attrs.Index]}
		if bond, ok := l.(*netlink.Bond); ok {
			found.active = bond.ActiveSlave
		}
		for _, a := range addrs {
			if a.LinkIndex == attrs.Index {
				found.add(a, nodeAddresses)
			}
		}
		ls.all = append(ls.all, found)
	}
	slices.SortFunc(ls.all, func(a, b link) int { return cmp.Compare(a.name, b.name) })
	return ls, nil
}

// unusable says why nobody can be answered on an interface; empty: one can.
func unusable(attrs *netlink.LinkAttrs, master netlink.Link) string {
	switch {
	case attrs.EncapType != "ether" || len(attrs.HardwareAddr) != len(MAC{}) || attrs.RawFlags&unix.IFF_NOARP != 0:
		return "is not Ethernet"
	case master != nil && master.Type() != "vrf":
		// What arrives here is the master's.
		return fmt.Sprintf("is a port of %s: name that one", master.Attrs().Name)
	case attrs.RawFlags&unix.IFF_UP == 0:
		return "is down"
	case attrs.RawFlags&unix.IFF_RUNNING == 0:
		return "has no carrier"
	default:
		return ""
	}
}

func (l *link) add(a netlink.Addr, nodeAddresses []netip.Addr) {
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
		return
	}
	addr = addr.Unmap()
	if addr.IsLinkLocalUnicast() {
		if addr.Is6() {
			l.linkLocal = addr
		}
		return
	}
	if slices.Contains(nodeAddresses, addr) {
		l.own = true
	}
	ones, _ := a.Mask.Size()
	l.prefixes = append(l.prefixes, netip.PrefixFrom(addr, ones).Masked())
}

// defaultRoutes are the interfaces that default routes of the main table lead to.
func defaultRoutes() (map[int]bool, error) {
	out := map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_DST)
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for _, r := range routes {
			out[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				out[hop.LinkIndex] = true
			}
		}
	}
	delete(out, 0)
	return out, nil
}

// of returns the interfaces that an address is answered on: those that match a
// pattern; without patterns those that have its prefix, or if none has, those of the
// node's own addresses and default routes.
func (ls *links) of(address netip.Addr, patterns []string) []*link {
	var candidates, out []*link
	if len(patterns) > 0 {
		candidates = ls.match(patterns)
	} else {
		candidates = ls.match([]string{"*"})
		near := slices.DeleteFunc(slices.Clone(candidates), func(l *link) bool { return !l.has(address) })
		if len(near) == 0 {
			near = slices.DeleteFunc(slices.Clone(candidates), func(l *link) bool { return !l.own })
		}
		candidates = near
	}
	for _, l := range candidates {
		if address.Is4() || l.linkLocal.IsValid() {
			out = append(out, l)
		}
	}
	return out
}

// match finds the usable interfaces whose name matches one of the patterns.
func (ls *links) match(patterns []string) []*link {
	key := strings.Join(patterns, "\x00")
	ls.mu.Lock()
	defer ls.mu.Unlock()
	found, ok := ls.matched[key]
	if ok {
		return found
	}
	for i := range ls.all {
		if matches(patterns, ls.all[i].name) {
			found = append(found, &ls.all[i])
		}
	}
	ls.matched[key] = found
	return found
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

func (l *link) has(address netip.Addr) bool {
	return slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() && p.Contains(address) })
}

// missing says why an address is answered nowhere.
func (ls *links) missing(address netip.Addr, patterns []string) string {
	var why []string
	for name, reason := range ls.unusable {
		if len(patterns) > 0 && matches(patterns, name) {
			why = append(why, name+" "+reason)
		}
	}
	if address.Is6() {
		for _, l := range ls.all {
			if !l.linkLocal.IsValid() && (matches(patterns, l.name) || len(patterns) == 0 && (l.own || l.has(address))) {
				why = append(why, l.name+" has no IPv6 link-local address")
			}
		}
	}
	slices.Sort(why)
	switch {
	case len(why) > 0:
		return strings.Join(why, "; ")
	case len(patterns) > 0:
		return "no interface matches " + strings.Join(patterns, ", ")
	default:
		return "no Ethernet interface has its network, an address of this node or a default route"
	}
}
