package iptables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// isLocal matches packets to an address that an interface of the node has.
const isLocal = "-m addrtype --dst-type LOCAL "

// echoRequest matches what ping sends.
func echoRequest(ipv6 bool) string {
	if ipv6 {
		return "-p ipv6-icmp -m icmp6 --icmpv6-type 128 "
	}
	return "-p icmp -m icmp --icmp-type 8 "
}

// exclusive takes the first packets of flows to an exclusive address that have no
// listener: the node answers pings from that address, and what is behind us in nat
// translates nothing.
func exclusive(able ability, ipv6 bool) []string {
	var out []string
	if able.local {
		out = append(out, isLocal+"-j RETURN")
	}
	if able.redirect {
		out = append(out, echoRequest(ipv6)+"-j REDIRECT")
	}
	return append(out, "-j ACCEPT")
}

// unowned refuses what nobody serves. Invalid packets get no answer: it would end the
// connection that they may belong to.
func unowned(able ability, ipv6 bool) []string {
	unreachable := "icmp-port-unreachable"
	if ipv6 {
		unreachable = "icmp6-port-unreachable"
	}
	var out []string
	if able.local {
		out = append(out, isLocal+"-j RETURN")
	}
	return append(out,
		"-m conntrack --ctstate INVALID -j DROP",
		"-p tcp -j REJECT --reject-with tcp-reset",
		"-p udp -j REJECT --reject-with "+unreachable,
		"-j DROP")
}

// exclusivePlaces are the chains with a rule for each exclusive address, and where it
// leads.
var exclusivePlaces = [...]struct {
	place
	to string
}{
	{place{natTable, servicesChain}, exclusiveChain},
	{place{filterTable, exclusiveChain}, unownedChain},
}

// exclusiveOf reads back which address a rule in such a chain is for.
func exclusiveOf(at place, rule string) (netip.Addr, bool) {
	for _, p := range exclusivePlaces {
		text, is := strings.CutSuffix(rule, " -g "+p.to)
		if p.place != at || !is {
			continue
		}
		prefix, err := netip.ParsePrefix(strings.TrimPrefix(text, "-d "))
		return prefix.Addr(), err == nil && prefix.IsSingleIP() && strings.HasPrefix(text, "-d ")
	}
	return netip.Addr{}, false
}

// exclusives compares the exclusive addresses. It adds them last, once the listeners are
// there that they would be refused without.
func (c *change) exclusives(t *target, m image) {
	for _, p := range exclusivePlaces {
		last := c.tidyOf(p.table)
		has := make(map[netip.Addr]bool)
		for _, rule := range m.chains[p.place] {
			addr, is := exclusiveOf(p.place, rule)
			if is && (has[addr] || !t.exclusive[addr]) {
				last.lines = append(last.lines, "-D "+p.chain+" "+rule)
			}
			has[addr] = has[addr] || is
		}
		for _, addr := range slices.SortedFunc(maps.Keys(t.exclusive), netip.Addr.Compare) {
			if !has[addr] {
				last.lines = append(last.lines, fmt.Sprintf("-A %s -d %s -g %s", p.chain, host(addr), p.to))
			}
		}
	}
}

// exclusives returns the addresses of a family that are to be exclusive: those of the State
// and, as long as that is partial, those in the kernel that no State of this process named.
func (p *pass) exclusives(k *kernel, present image) map[netip.Addr]bool {
	out := make(map[netip.Addr]bool)
	for _, addr := range p.state.Exclusive() {
		if addr.Is6() != k.ipv6 {
			continue
		}
		if err := rules.ValidateExclusive(addr); err != nil {
			p.pending[rules.FrontendKey{Addr: addr}] = failure{err: fmt.Errorf("program %w", err)}
			continue
		}
		out[addr] = true
	}
	if !p.state.Partial() {
		return out
	}
	last := p.Programmer.state
	for _, place := range exclusivePlaces {
		for _, rule := range present.chains[place.place] {
			if addr, is := exclusiveOf(place.place, rule); is && (last == nil || !last.IsExclusive(addr)) {
				out[addr] = true
			}
		}
	}
	return out
}
