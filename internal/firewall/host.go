package firewall

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/portway-dev/portway/rules"
)

// Host looks at what of a host, besides rules, is in the way of our flows. It changes
// nothing. To be used by one goroutine at a time.
//
// Two settings matter in one case only. route_localnet: where an agent was told to serve
// at an address of 127.0.0.0/8. nf_conntrack_tcp_be_liberal: where connection tracking
// takes many packets for invalid. Our rules drop those that come from endpoints, since a
// client would answer their wrong address with a reset; but the flow waits for them.
//
// What it does not look at, and why: rp_filter of hosts that route by policy, whose tables
// tell more than can be judged here; rp_filter of IPv6, which is firewall rules.
type Host struct {
	// Proc is /proc.
	Proc fs.FS
	// Bridges lists those of this host that have addresses.
	Bridges func() ([]Bridge, error)
	// Published lists the ports that other rules translate.
	Published func() ([]Published, error)

	full bool // the conntrack table was nearly full when last looked at

	listed []Published // when last read

	invalid     uint64 // packets, when last looked at
	invalidSeen bool
	invalidMany bool
}

// Bridge is a network bridge and the networks on it.
type Bridge struct {
	Name     string
	Prefixes []netip.Prefix
}

// NewHost returns the one of the network namespace of the thread that calls Findings.
// ours is the name of our table.
func NewHost(ours string) *Host {
	return &Host{
		Proc: os.DirFS("/proc"), Bridges: hostBridges,
		Published: func() ([]Published, error) { return hostPublished(ours) },
	}
}

// Findings looks. What cannot be read is left out: the files differ between kernels.
func (h *Host) Findings(t Traffic) []Finding {
	if t.State == nil {
		return nil
	}
	out := h.portsInUse(t)
	out = append(out, h.published(t)...)
	out = append(out, h.loopback(t.State)...)
	out = append(out, h.reversePath()...)
	out = append(out, h.conntrack()...)
	out = append(out, h.tooManyInvalid()...)
	return tidy(append(out, h.bridges(t.State)...))
}

// lines returns the lines of a file behind the first, none if it cannot be read.
func (h *Host) lines(path string) []string {
	b, err := fs.ReadFile(h.Proc, path)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")[1:]
}

// setting returns a number below /proc/sys; ok is false when there is none.
func (h *Host) setting(path string) (n int64, ok bool) {
	b, err := fs.ReadFile(h.Proc, "sys/"+path)
	if err != nil {
		return 0, false
	}
	n, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// reversePath finds interfaces by which clients come in whose answers would go out by
// another one, a better default route: there, strict means that nothing arrives.
func (h *Host) reversePath() []Finding {
	const isUp, flags, metric, mask = 1, 3, 6, 7
	type route struct {
		link   string
		metric int
	}
	var defaults []route
	for _, line := range h.lines("thread-self/net/route") {
		f := strings.Fields(line)
		if len(f) <= mask || f[1] != "00000000" || f[mask] != "00000000" {
			continue
		}
		bits, err := strconv.ParseUint(f[flags], 16, 32)
		cost, err2 := strconv.Atoi(f[metric])
		if err == nil && err2 == nil && bits&isUp != 0 {
			defaults = append(defaults, route{f[0], cost})
		}
	}
	if len(defaults) == 0 {
		return nil
	}
	best := slices.MinFunc(defaults, func(a, b route) int { return a.metric - b.metric })
	all, _ := h.setting("net/ipv4/conf/all/rp_filter")
	var out []Finding
	for _, r := range defaults {
		own, ok := h.setting("net/ipv4/conf/" + r.link + "/rp_filter")
		// The kernel takes the higher one; 2 is loose (ip-sysctl.rst).
		if r.metric == best.metric || !ok || max(own, all) != 1 {
			continue
		}
		out = append(out, Finding{Reason: ReasonReversePath, Message: fmt.Sprintf(
			"the default route through %s is better than that through %s, and net.ipv4.conf.%[2]s.rp_filter is 1 (strict): what clients send by way of %[2]s is dropped before any rule sees it; run: sysctl -w net.ipv4.conf.%[3]s.rp_filter=2",
			best.link, r.link, strings.ReplaceAll(r.link, ".", "/"))})
	}
	return out
}

// conntrack tells when the table is more than 90 % full, until it is below 80 %.
func (h *Host) conntrack() []Finding {
	count, counted := h.setting("net/netfilter/nf_conntrack_count")
	limit, limited := h.setting("net/netfilter/nf_conntrack_max")
	if !counted || !limited || limit <= 0 { // 0: no limit
		h.full = false
		return nil
	}
	threshold := int64(90)
	if h.full {
		threshold = 80
	}
	if h.full = count*100 > limit*threshold; !h.full {
		return nil
	}
	return []Finding{{Reason: ReasonConntrackFull, Message: fmt.Sprintf(
		"the table of tracked connections is nearly full (net.netfilter.nf_conntrack_max=%d): new flows are dropped once it is; run: sysctl -w net.netfilter.nf_conntrack_max=%d",
		limit, 2*limit)}}
}

// Packets that connection tracking takes for invalid from one look to the next, which is
// half a minute: more than invalidLimit are told, until they are below a tenth of it.
const invalidLimit = 3000

// tooManyInvalid tells that connection tracking takes many packets for invalid, where it
// can be told not to.
func (h *Host) tooManyInvalid() []Finding {
	seen, ok := h.invalidPackets()
	liberal, known := h.setting("net/netfilter/nf_conntrack_tcp_be_liberal")
	first, more := !h.invalidSeen, seen-h.invalid
	h.invalid, h.invalidSeen = seen, ok
	if !ok || !known || liberal != 0 {
		h.invalidMany = false
		return nil
	}
	if first || seen < more { // the counters began anew
		return nil
	}
	limit := uint64(invalidLimit)
	if h.invalidMany {
		limit /= 10
	}
	if h.invalidMany = more > limit; !h.invalidMany {
		return nil
	}
	return []Finding{{Reason: ReasonInvalid, Message: fmt.Sprintf(
		"connection tracking takes many packets for invalid (more than %d in half a minute), and net.netfilter.nf_conntrack_tcp_be_liberal is 0: connections whose packets come out of order or take different ways stall; run: sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1",
		invalidLimit)}}
}

// invalidPackets reads a counter of the kernel, one for each CPU.
func (h *Host) invalidPackets() (sum uint64, ok bool) {
	b, err := fs.ReadFile(h.Proc, "thread-self/net/stat/nf_conntrack")
	if err != nil {
		return 0, false
	}
	header, lines, _ := strings.Cut(string(b), "\n")
	column := slices.Index(strings.Fields(header), "invalid")
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if column < 0 || column >= len(f) {
			return 0, false
		}
		n, err := strconv.ParseUint(f[column], 16, 32)
		if err != nil {
			return 0, false
		}
		sum += n
	}
	return sum, true
}

// loopback finds Frontends of 127.0.0.0/8 on a host that answers there to itself only.
func (h *Host) loopback(state *rules.State) []Finding {
	if on, ok := h.setting("net/ipv4/conf/all/route_localnet"); !ok || on != 0 {
		return nil
	}
	var out []Finding
	for key, f := range state.All() {
		if key.Addr.Is4() && key.Addr.IsLoopback() {
			out = append(out, Finding{Reason: ReasonLoopback, Owner: listenerOf(f), Message: fmt.Sprintf(
				"listener %s of Gateway %s is served at %s, and net.ipv4.conf.all.route_localnet is 0: no endpoint's answer arrives there; serve at another address (--node-address), or, for endpoints on other nodes only, run: sysctl -w net.ipv4.conf.all.route_localnet=1",
				f.Owner.Listener, f.Owner.Gateway, key.Addr)})
		}
	}
	return out
}

// bridges finds endpoints that share a bridge whose packets no rule sees.
func (h *Host) bridges(state *rules.State) []Finding {
	var out []Finding
	bridges, err := h.Bridges()
	if err != nil || len(bridges) == 0 {
		return nil
	}
	for _, b := range bridges {
		for _, p := range b.Prefixes {
			name := "bridge-nf-call-iptables"
			if p.Addr().Is6() {
				name = "bridge-nf-call-ip6tables"
			}
			if on, ok := h.setting("net/bridge/" + name); ok && on != 0 || !hasLocal(state, p) {
				continue
			}
			out = append(out, Finding{Reason: ReasonBridge, Message: fmt.Sprintf(
				"endpoints are on bridge %s, whose packets the rules do not see: what they answer each other arrives with the wrong address; run: modprobe br_netfilter; sysctl -w net.bridge.%s=1",
				b.Name, name)})
		}
	}
	return out
}

func hasLocal(state *rules.State, p netip.Prefix) bool {
	for _, f := range state.All() {
		for i := range f.Backends {
			for _, e := range f.Backends[i].Endpoints {
				// The bridge's own address is the node's.
				if e.Local && p.Contains(e.Addr.Addr()) && e.Addr.Addr() != p.Addr() {
					return true
				}
			}
		}
	}
	return false
}

func hostBridges() ([]Bridge, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []Bridge
	for _, link := range links {
		if link.Type() != "bridge" {
			continue
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
		}
		b := Bridge{Name: link.Attrs().Name}
		for _, a := range addrs {
			addr, ok := netip.AddrFromSlice(a.IP)
			bits, _ := a.Mask.Size()
			if addr = addr.Unmap(); ok && !addr.IsLinkLocalUnicast() {
				b.Prefixes = append(b.Prefixes, netip.PrefixFrom(addr, bits))
			}
		}
		out = append(out, b)
	}
	return out, nil
}
