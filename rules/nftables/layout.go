package nftables

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// priority of the chains that translate destinations: one before kube-proxy,
// whose chains sit at dstnat (-100), because the first nat chain of a hook that
// binds a flow wins.
const priority nftables.ChainPriority = -101

// chain is one chain with its rules, the static part of the table.
type chain struct {
	*nftables.Chain
	rules []rule
}

// rule is the expressions the kernel gets and the same in nft's words; the goldens
// hold the one against the other.
type rule struct {
	text    string
	exprs   []expr.Any
	comment string // empty for none
}

// layout is everything in the table but the elements. It depends on the Config
// and the ladder only, so that no change of a State touches a rule.
type layout struct {
	table  *nftables.Table
	sets   [setCount]*nftables.Set
	chains []chain         // a chain is behind those its rules lead to
	prints [][]fingerprint // of their rules, once asked for
}

// ability is what a kernel has of what the rules can do without.
type ability struct {
	reject   bool // in prerouting
	redirect bool // to an address of the node
	local    bool // to find out whether the node has an address
}

var everything = ability{reject: true, redirect: true, local: true}

// newLayout makes the layout without what the kernel is not able to do.
func newLayout(c Config, able ability) *layout {
	l := &layout{table: &nftables.Table{Name: c.Table, Family: nftables.TableFamilyINet}}
	for id := range setCount {
		l.sets[id] = newSet(l.table, id)
	}
	l.add(refuseChain, refuseRules(able.reject)...)
	l.add(drawChain, drawRules()...)
	l.add(chainClient.String(), slotRules(rules.ClientHash, rules.ClientSlots, c.Mark)...)
	for _, n := range rungs {
		for _, selection := range []rules.Selection{rules.Random, rules.FlowHash} {
			l.add(slotChain(selection, n).String(), slotRules(selection, n, c.Mark)...)
		}
	}
	l.add(unownedChain, unownedRules(able)...)
	l.add(exclusiveChain, exclusiveRules(able.redirect)...)
	l.add(servicesChain, servicesRules()...)
	enter := rule{text: "jump " + servicesChain, exprs: []expr.Any{verdict(expr.VerdictJump, servicesChain)}}
	const nat, filter = nftables.ChainTypeNAT, nftables.ChainTypeFilter
	l.addBase(preroutingChain, nat, nftables.ChainHookPrerouting, priority, enter)
	l.addBase(outputChain, nat, nftables.ChainHookOutput, priority, enter)
	l.addBase(postroutingChain, nat, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, postroutingRules(c.Mark)...)
	l.add(invalidChain, invalidRules()...)
	l.add(unestablishedChain, unestablishedRules()...)
	l.addBase(filterPreroutingChain, filter, nftables.ChainHookPrerouting, *nftables.ChainPriorityFilter, filterRule())
	l.addBase(filterOutputChain, filter, nftables.ChainHookOutput, *nftables.ChainPriorityFilter, filterRule())
	return l
}

func (l *layout) add(name string, r ...rule) {
	l.chains = append(l.chains, chain{&nftables.Chain{Name: name, Table: l.table}, r})
}

func (l *layout) addBase(name string, kind nftables.ChainType, hook *nftables.ChainHook, p nftables.ChainPriority, r ...rule) {
	accept := nftables.ChainPolicyAccept
	l.chains = append(l.chains, chain{&nftables.Chain{
		Name: name, Table: l.table, Type: kind, Hooknum: hook, Priority: &p, Policy: &accept,
	}, r})
}

// servicesRules send a packet to the chain of its listener, or to what becomes of those
// to an address that nobody else serves. No other packet goes further, and none of an
// established flow comes here: nat chains see the first packet of a flow only.
func servicesRules() []rule {
	var out []rule
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, f.vmapRule(listeners4))
	}
	return append(out, exclusiveTo(exclusiveChain)...)
}

// slotRules pick one of n slots and translate to its endpoint. A slot without an
// element is a part of the refused share.
func slotRules(selection rules.Selection, n int, mark uint32) []rule {
	var out []rule
	slots := widthOf(n).slots()
	for _, f := range []family{ipv4, ipv6} {
		pick, text := f.random(n), fmt.Sprintf("numgen random mod %d", n)
		switch selection {
		case rules.FlowHash:
			pick, text = f.flowHash(n), fmt.Sprintf("jhash %s saddr . th sport mod %d seed %#x", f.name, n, flowSeed)
		case rules.ClientHash:
			pick, text = f.clientHash(n), fmt.Sprintf("jhash %s saddr mod %d seed %#x", f.name, n, flowSeed)
		default: // random
		}
		out = append(out, rule{
			text: fmt.Sprintf("meta nfproto %s ct mark set ct mark | 0x%08x dnat %s to %s . %s map @%s",
				f.protocolName(), mark, f.name, f.serviceText(), text, f.set(slots)),
			exprs: concat(f.only(), setMark(mark), f.service(), pick, f.dnat(slots)),
		})
	}
	return append(out, gotoRule(refuseChain))
}

// vmapRule goes where the element for the packet's service leads; without one the
// packet goes on.
func (f family) vmapRule(s setID) rule {
	return rule{
		text:  fmt.Sprintf("%s vmap @%s", f.serviceText(), f.set(s)),
		exprs: concat(f.only(), f.service(), []expr.Any{f.vmap(s)}),
	}
}

func gotoRule(chain string) rule {
	return rule{text: "goto " + chain, exprs: []expr.Any{verdict(expr.VerdictGoto, chain)}}
}

// drawRules refuse the refused share of a listener and send the rest on to its
// flow-N or client-N chain. The drawn number is converted to network order because the
// interval set compares bytes from the left.
func drawRules() []rule {
	var out []rule
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, rule{
			text: fmt.Sprintf("%s . numgen random mod %d @%s goto %s", f.serviceText(), rules.DrawRange, f.set(refused4), refuseChain),
			exprs: concat(f.only(), f.service(), f.random(rules.DrawRange), []expr.Any{
				&expr.Byteorder{SourceRegister: f.slot(), DestRegister: f.slot(), Op: expr.ByteorderHton, Len: 4, Size: 4},
				f.in(refused4),
				verdict(expr.VerdictGoto, refuseChain),
			}),
		})
	}
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, f.vmapRule(drawn4))
	}
	return append(out, gotoRule(refuseChain))
}

// refuseRules tell a TCP client at once and leave a UDP one to its timeout, as an
// unanswered datagram would. reject in prerouting needs Linux 5.9; without it a TCP
// client, too, is left to its timeout.
func refuseRules(reject bool) []rule {
	drop := rule{text: "drop", exprs: []expr.Any{verdict(expr.VerdictDrop, "")}}
	if !reject {
		return []rule{drop}
	}
	return []rule{{text: "meta l4proto tcp reject with tcp reset", exprs: resetTCP()}, drop}
}

func resetTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}

// filterRule is all that packets meet which are none of ours and established.
func filterRule() rule {
	return rule{
		text:  "ct state ! established goto " + unestablishedChain,
		exprs: append(without(expr.CtKeySTATE, stateEstablished), verdict(expr.VerdictGoto, unestablishedChain)),
	}
}

// invalidRules drop what an endpoint sends and conntrack knows no flow for, such as a
// segment outside of the window: it would not be translated back. A client would see
// the endpoint's own address, and this node, which remote endpoints answer to, would
// find no socket; both reset the endpoint's connection (kubernetes#74839).
func invalidRules() []rule {
	var out []rule
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, rule{
			text: fmt.Sprintf("%s saddr . meta l4proto . th sport @%s counter packets 0 bytes 0 drop", f.name, f.set(endpoints4)),
			exprs: concat(f.only(), f.origin(), []expr.Any{
				f.in(endpoints4), &expr.Counter{}, verdict(expr.VerdictDrop, ""),
			}),
			comment: "an endpoint's, and not translated back",
		})
	}
	return out
}

// Bits of "ct status".
const (
	statusConfirmed = 1 << 3 // IPS_CONFIRMED: not the first packet of the flow
	statusDNAT      = 1 << 5 // IPS_DST_NAT: the flow's destination is translated
)

// postroutingRules hide the client's address only where the reply would not come
// back through this node otherwise. Both conditions at the top are needed: the
// bit says that the flow went through a chain of ours, the status that it was
// translated there and that no other user of the bit is meant. Whoever is in hairpin is in
// local, too: asked first for the client alone, most packets need not look for the pair,
// whose place in the table no flow before them has brought into the cache.
func postroutingRules(mark uint32) []rule {
	masquerade := &expr.Masq{FullyRandom: true}
	out := []rule{
		{
			text:    fmt.Sprintf("ct mark & 0x%08x == 0x00000000 return", mark),
			exprs:   append(without(expr.CtKeyMARK, mark), verdict(expr.VerdictReturn, "")),
			comment: "not a flow of ours",
		},
		{
			text:  "ct status ! dnat return",
			exprs: append(without(expr.CtKeySTATUS, statusDNAT), verdict(expr.VerdictReturn, "")),
		},
	}
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, rule{
			text: fmt.Sprintf("%[1]s saddr @%[2]s %[1]s saddr . %[1]s daddr @%[3]s masquerade fully-random", f.name, f.set(local4), f.set(hairpin4)),
			exprs: concat(f.only(), []expr.Any{
				f.load(f.source, address), f.in(local4),
				f.load(f.source, address), f.load(f.dest, f.proto), f.in(hairpin4), masquerade,
			}),
			comment: "an endpoint that reached itself",
		})
	}
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, rule{
			text:    fmt.Sprintf("%s daddr @%s return", f.name, f.set(local4)),
			exprs:   concat(f.only(), []expr.Any{f.load(f.dest, address), f.in(local4), verdict(expr.VerdictReturn, "")}),
			comment: "the endpoint runs here: keep the client address",
		})
	}
	return append(out, rule{
		text:    "masquerade fully-random",
		exprs:   []expr.Any{masquerade},
		comment: "the endpoint runs elsewhere: replies must come back here",
	})
}

func concat(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
