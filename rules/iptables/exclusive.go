package iptables

import (
	"crypto/sha256"
	"encoding/base32"
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

// netPrefix is what the names of the chains begin with that the exclusive addresses of a
// neighbourhood are in: packets to others pass one rule for each of them, not for each
// address. Sources of UDP that nobody answers pay that for each packet.
const netPrefix = prefix + "EX-"

// neighbourhood is the chain for an address and its neighbours, and the rule that leads to
// it.
func neighbourhood(addr netip.Addr) (name, rule string) {
	const neighbours = 8 // bits
	net := netip.PrefixFrom(addr, addr.BitLen()-neighbours).Masked()
	sum := sha256.Sum256([]byte(net.String()))
	name = netPrefix + base32.StdEncoding.EncodeToString(sum[:10])
	return name, fmt.Sprintf("-d %s -g %s", net, name)
}

// exclusivePlaces are, by table, the chain with the ways to neighbourhoods, and the chain
// that an address in one leads to.
var exclusivePlaces = [...]struct{ table, from, to string }{
	{natTable, servicesChain, exclusiveChain},
	{filterTable, exclusiveChain, unownedChain},
}

// toNeighbourhood reports whether a rule leads to one.
func toNeighbourhood(rule string) bool { return strings.Contains(rule, " -g "+netPrefix) }

// exclusives compares the exclusive addresses. It adds them last, once the listeners are
// there that they would be refused without.
func (c *change) exclusives(t *target, m image, chains map[place]bool) {
	for _, p := range exclusivePlaces {
		from, wanted := place{p.table, p.from}, make(map[place][]string)
		for _, addr := range slices.SortedFunc(maps.Keys(t.exclusive), netip.Addr.Compare) {
			name, rule := neighbourhood(addr)
			in := place{p.table, name}
			wanted[in] = append(wanted[in], fmt.Sprintf("-d %s -g %s", host(addr), p.to))
			if n := len(wanted[from]); n == 0 || wanted[from][n-1] != rule {
				wanted[from] = append(wanted[from], rule)
			}
		}
		for _, in := range slices.SortedFunc(maps.Keys(wanted), place.compare) {
			if _, exists := m.chains[in]; !exists && in != from {
				base := c.baseOf(p.table)
				base.declare = append(base.declare, declare(in.chain))
			}
			if in != from {
				chains[in] = true
				c.list(in, wanted[in], m.chains[in])
			}
		}
		ways := slices.DeleteFunc(slices.Clone(m.chains[from]), func(rule string) bool { return !toNeighbourhood(rule) })
		c.list(from, wanted[from], ways)
	}
}

// list compares rules that have no order, and appends those that are missing.
func (c *change) list(at place, wanted, present []string) {
	last := c.tidyOf(at.table)
	has := make(map[string]bool, len(present))
	for _, rule := range wanted {
		has[rule] = false
	}
	for _, rule := range present {
		if twice, wanted := has[rule]; twice || !wanted {
			last.lines = append(last.lines, "-D "+at.chain+" "+rule)
			continue
		}
		has[rule] = true
	}
	for _, rule := range wanted {
		if !has[rule] {
			last.lines = append(last.lines, "-A "+at.chain+" "+rule)
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
	for at, list := range present.chains {
		if !strings.HasPrefix(at.chain, netPrefix) {
			continue
		}
		for _, rule := range list {
			if addr, is := exclusiveOf(rule); is && (last == nil || !last.IsExclusive(addr)) {
				out[addr] = true
			}
		}
	}
	return out
}

// exclusiveOf reads back which address a rule in a neighbourhood is for.
func exclusiveOf(rule string) (netip.Addr, bool) {
	text, _, _ := strings.Cut(strings.TrimPrefix(rule, "-d "), " ")
	prefix, err := netip.ParsePrefix(text)
	return prefix.Addr(), err == nil && prefix.IsSingleIP()
}
