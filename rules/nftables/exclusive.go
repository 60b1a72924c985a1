package nftables

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// exclusiveTo leads packets to an exclusive address to a chain.
func exclusiveTo(chain string) []rule {
	var out []rule
	for _, f := range []family{ipv4, ipv6} {
		out = append(out, rule{
			text:  fmt.Sprintf("%s daddr @%s goto %s", f.name, f.set(exclusive4), chain),
			exprs: concat(f.only(), []expr.Any{f.load(f.dest, address), f.in(exclusive4), verdict(expr.VerdictGoto, chain)}),
		})
	}
	return out
}

// exclusiveRules take the first packets of flows to an exclusive address that have no
// listener. Users ping addresses to see whether they are there, and the node that a ping
// has come to answers it, from that address.
func exclusiveRules(redirect bool) []rule {
	var out []rule
	if redirect {
		out = append(out, echoRule("icmp", unix.IPPROTO_ICMP, 8), echoRule("icmpv6", unix.IPPROTO_ICMPV6, 128))
	}
	return append(out, gotoRule(unownedChain))
}

func echoRule(name string, protocol, echoRequest byte) rule {
	return rule{
		text: name + " type echo-request redirect",
		exprs: concat(isProtocol(protocol), []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{echoRequest}},
			&expr.Redir{},
		}),
	}
}

// unestablishedRules see, behind all translation, the packets that are of no established
// flow. What is still for an exclusive address passed no nat chain: conntrack finds it
// invalid or does not look at it, as at neighbour solicitations of IPv6, or its flow is
// older than our rules and nobody has answered it yet. Flows that somebody answers are
// left alone, and pay nothing.
func unestablishedRules() []rule {
	return append([]rule{
		{
			text:    "ct status ! confirmed return",
			exprs:   append(without(expr.CtKeySTATUS, statusConfirmed), verdict(expr.VerdictReturn, "")),
			comment: "the first packet of a flow: services has seen it",
		},
		{
			text:  "ct state invalid jump " + invalidChain,
			exprs: append(with(expr.CtKeySTATE, stateInvalid), verdict(expr.VerdictJump, invalidChain)),
		},
	}, exclusiveTo(unownedChain)...)
}

// unownedRules refuse what nobody serves, in nat and in filter chains. An address that an
// interface of the node has, by a mistake or for a routing daemon, is the node's own.
// Invalid packets get no answer: it would end the connection that they may belong to.
func unownedRules(able ability) []rule {
	counted := func(text, action string, parts ...[]expr.Any) rule {
		return rule{text: text + "counter packets 0 bytes 0 " + action, exprs: concat(parts...)}
	}
	count := []expr.Any{&expr.Counter{}}
	drop := []expr.Any{&expr.Counter{}, verdict(expr.VerdictDrop, "")}
	var out []rule
	if able.local {
		out = append(out, rule{
			text:    "fib daddr type local return",
			exprs:   append(isLocal(), verdict(expr.VerdictReturn, "")),
			comment: "an interface of this node has it",
		})
	}
	if able.reject {
		reset := resetTCP()
		out = append(out,
			counted("ct state invalid ", "drop", with(expr.CtKeySTATE, stateInvalid), drop),
			counted("meta l4proto tcp ", "reject with tcp reset", reset[:2], count, reset[2:]),
			counted("meta l4proto udp ", "reject", isProtocol(unix.IPPROTO_UDP), count, []expr.Any{
				&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH},
			}))
	}
	return append(out, counted("", "drop", drop))
}

// isProtocol continues only with a protocol.
func isProtocol(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
}

// isLocal continues only where the destination is an address of the node.
func isLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: native(unix.RTN_LOCAL)},
	}
}

func exclusiveOp(addr netip.Addr, del bool) op {
	return op{set: exclusive4.of(addr.Is6()), del: del, key: &rules.FrontendKey{Addr: addr}}
}

// exclusives compares the exclusive addresses, once the listeners are there that they
// would be refused without. Those that no State of this process named stay while the
// State is partial.
func (p *pass) exclusives() []op {
	gone, come := rules.ExclusiveChanges(p.Programmer.state, p.state)
	if p.sweepsUnknown() {
		gone = slices.SortedFunc(maps.Keys(p.kernel.exclusive), netip.Addr.Compare)
		gone = slices.DeleteFunc(gone, p.state.IsExclusive)
	}
	if len(gone)+len(come) > 0 {
		p.misfit = misfits(p.state)
	}
	var ops []op
	for _, addr := range come {
		if _, held := p.kernel.exclusive[addr]; !held && rules.ValidateExclusive(addr) == nil {
			ops = append(ops, exclusiveOp(addr, false))
		}
	}
	for _, addr := range gone {
		if _, held := p.kernel.exclusive[addr]; held {
			ops = append(ops, exclusiveOp(addr, true))
		}
	}
	return ops
}

// misfits names the addresses of a State that cannot be exclusive.
func misfits(s *rules.State) error {
	var errs []error
	for _, addr := range s.Exclusive() {
		if err := rules.ValidateExclusive(addr); err != nil {
			errs = append(errs, fmt.Errorf("program %w", err))
		}
	}
	return errors.Join(errs...)
}

// commitExclusives sends what exclusives has found, and notes what the kernel then holds.
func (p *pass) commitExclusives(ops []op) error {
	if len(ops) == 0 {
		return nil
	}
	err := p.connect()
	if err == nil {
		var sent int
		sent, err = p.send(ops)
		p.note(ops[:sent])
	}
	if err != nil {
		return fmt.Errorf("program exclusive addresses: %w", err)
	}
	for _, o := range ops {
		if o.del {
			delete(p.kernel.exclusive, o.key.Addr)
		} else {
			p.kernel.exclusive[o.key.Addr] = struct{}{}
		}
	}
	return nil
}
