package firewall

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// field is what of a packet a register holds.
type field uint8

const (
	otherField field = iota
	clientAddress
	endpointAddress
	endpointPort
)

// value is what is known of a register.
type value struct {
	field field
	data  []byte
	sure  []byte // the bits of data that are known; nil: none
	mask  []byte // applied to an address
}

// neutral are expressions that neither match nor decide.
var neutral = map[opaque]bool{
	"counter": true, "log": true, "notrack": true, "last": true, "secmark": true, "nat": true,
	"masq": true, "redir": true, "dup": true, "tproxy": true, "flow_offload": true,
}

// program is a rule of nf_tables.
type program struct {
	exprs []any
	sets  map[string]setContent
}

type setContent struct {
	elements []element
	complete bool
}

func newRule(handle uint64, exprs []any, s *sets) rule {
	p := program{exprs: exprs, sets: map[string]setContent{}}
	for _, e := range exprs {
		if l, ok := e.(*expr.Lookup); ok {
			elements, complete := s.elements(l.SetName)
			p.sets[l.SetName] = setContent{elements, complete}
		}
	}
	return rule{handle: handle, text: describe(exprs), effects: p.effects}
}

// run is one packet in one rule.
type run struct {
	*packet
	registers map[uint32]value
	when      certainty
	chosen    bool
	out       []effect
}

// match takes note of something that the rule asks.
func (r *run) match(c certainty, f field) {
	if c == maybe && f != clientAddress {
		r.chosen = false
	}
	r.when = min(r.when, c)
}

func (r *run) effect(e effect) {
	e.when = min(e.when, r.when)
	e.chosen = e.chosen && r.chosen && e.when == maybe
	r.out = append(r.out, e)
}

func (p program) effects(packet *packet) []effect {
	r := &run{packet: packet, registers: map[uint32]value{}, when: always, chosen: true}
	for _, e := range p.exprs {
		if r.when == never {
			return r.out
		}
		switch e := e.(type) {
		case *expr.Meta:
			r.meta(e)
		case *expr.Ct:
			r.ct(e)
		case *expr.Payload:
			r.payload(e)
		case *expr.Bitwise:
			r.bitwise(e)
		case *expr.Immediate:
			r.registers[place(e.Register)] = value{data: e.Data, sure: bytes.Repeat([]byte{0xff}, len(e.Data))}
		case *expr.Cmp:
			v := r.registers[place(e.Register)]
			r.match(r.compare(v, e.Op, e.Data), v.field)
		case *expr.Range:
			r.within(e)
		case *expr.Lookup:
			r.lookup(e, p.sets[e.SetName])
		case *expr.Verdict:
			v := nftVerdict(e.Kind)
			if (v == jump || v == goTo) && enforcer(e.Chain) {
				v = proceed
			}
			r.effect(effect{when: always, verdict: v, target: e.Chain, chosen: true})
		case *expr.Reject:
			r.effect(effect{when: always, verdict: drop, chosen: true})
		case *expr.Target:
			r.target(e)
		case opaque:
			if !neutral[e] {
				r.match(maybe, otherField)
				clear(r.registers)
			}
		}
	}
	return r.out
}

// place numbers the registers alike: the first four have 16 bytes, and also go by the
// numbers of the 4 bytes that they begin with (enum nft_registers).
func place(register uint32) uint32 {
	if register >= unix.NFT_REG32_00 {
		return register
	}
	return unix.NFT_REG32_00 + 4*(register-1)
}

func exact(data ...byte) value {
	return value{data: data, sure: bytes.Repeat([]byte{0xff}, len(data))}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func (r *run) meta(e *expr.Meta) {
	if e.SourceRegister {
		return
	}
	v := value{}
	switch {
	case e.Key == expr.MetaKeyNFPROTO && r.v6:
		v = exact(unix.NFPROTO_IPV6)
	case e.Key == expr.MetaKeyNFPROTO:
		v = exact(unix.NFPROTO_IPV4)
	case e.Key == expr.MetaKeyL4PROTO:
		v = exact(r.protocol)
	}
	r.registers[place(e.Register)] = v
}

func (r *run) ct(e *expr.Ct) {
	const translated = 1 << 5 // IPS_DST_NAT
	if e.SourceRegister {
		if e.Key == expr.CtKeyMARK {
			r.effect(effect{when: always, mark: r.remark(r.registers[place(e.Register)])})
		}
		return
	}
	v := value{}
	switch e.Key {
	case expr.CtKeySTATE:
		state := expr.CtStateBitNEW
		if r.established {
			state = expr.CtStateBitESTABLISHED
		}
		v = exact(native(state)...)
	case expr.CtKeySTATUS:
		if !r.bare {
			v = value{data: native(translated), sure: native(translated)}
		}
	case expr.CtKeyMARK:
		v = value{data: native(r.mark), sure: native(r.mark)}
		if r.bare {
			v.data = native(0)
		}
	default: // nothing is known
	}
	r.registers[place(e.Register)] = v
}

// remark tells what becomes of our bit in a conntrack mark that is set to a value.
// What is computed of the old mark has our bit known, what is not, in general not: a
// packet's mark hardly ever carries it.
func (r *run) remark(v value) markChange {
	if len(v.data) != 4 || len(v.sure) != 4 {
		return markLost
	}
	sure, set := binary.NativeEndian.Uint32(v.sure)&r.mark != 0, binary.NativeEndian.Uint32(v.data)&r.mark != 0
	switch {
	case r.bare && sure && set:
		return markForged
	case !r.bare && (!sure || !set):
		return markLost
	default:
		return markKept
	}
}

func (r *run) payload(e *expr.Payload) {
	if e.DestRegister == 0 {
		return
	}
	source, target, size, protocol := uint32(12), uint32(16), uint32(4), uint32(9)
	if r.v6 {
		source, target, size, protocol = 8, 24, 16, 6
	}
	v := value{}
	switch {
	case e.Base == expr.PayloadBaseNetworkHeader && e.Offset == source && e.Len <= size:
		v.field = clientAddress
	case e.Base == expr.PayloadBaseNetworkHeader && e.Offset == target && e.Len <= size:
		v.field = endpointAddress
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2:
		v.field = endpointPort
	case e.Base == expr.PayloadBaseNetworkHeader && e.Offset == protocol && e.Len == 1:
		v = exact(r.protocol)
	}
	r.registers[place(e.DestRegister)] = v
}

func (r *run) bitwise(e *expr.Bitwise) {
	v := r.registers[place(e.SourceRegister)]
	out := value{field: v.field}
	switch {
	case len(e.Mask) == 0 || len(e.Mask) != len(e.Xor):
		out.field = otherField // another operation than and, or, xor
	case v.field != otherField:
		out.mask = e.Mask
	default:
		out.data, out.sure = make([]byte, len(e.Mask)), make([]byte, len(e.Mask))
		for i, mask := range e.Mask {
			if i < len(v.sure) {
				out.data[i], out.sure[i] = v.data[i]&mask, v.sure[i]
			}
			out.data[i] ^= e.Xor[i]
			out.sure[i] |= ^mask
		}
	}
	r.registers[place(e.DestRegister)] = out
}

// compare tells whether a register compares to data as the rule asks.
func (r *run) compare(v value, op expr.CmpOp, data []byte) certainty {
	port, is := 0, v.field == endpointPort && len(data) == 2
	if is {
		port = int(binary.BigEndian.Uint16(data))
	}
	low, high := 0, math.MaxUint16
	switch op {
	case expr.CmpOpEq:
		return r.equal(v, data)
	case expr.CmpOpNeq:
		return always - r.equal(v, data)
	case expr.CmpOpLt:
		high = port - 1
	case expr.CmpOpLte:
		high = port
	case expr.CmpOpGt:
		low = port + 1
	case expr.CmpOpGte:
		low = port
	}
	if is && !r.to.port(low, high) {
		return never
	}
	return maybe
}

func (r *run) equal(v value, data []byte) certainty {
	switch {
	case v.field == endpointPort && v.mask == nil && len(data) == 2:
		port := int(binary.BigEndian.Uint16(data))
		return possibly(func(p *packet) bool { return p.to.port(port, port) }).match(r.packet)
	case v.field == endpointAddress:
		prefix, ok := prefixOf(data, v.mask, r.v6)
		return possibly(func(p *packet) bool { return !ok || p.to.within(prefix) }).match(r.packet)
	case len(v.sure) != len(data):
		return maybe
	}
	out := always
	for i := range data {
		if (data[i]^v.data[i])&v.sure[i] != 0 {
			return never
		}
		if v.sure[i] != 0xff {
			out = maybe
		}
	}
	return out
}

// prefixOf is the prefix that an address is compared with, of which data and the mask
// may leave out the end.
func prefixOf(data, mask []byte, v6 bool) (netip.Prefix, bool) {
	size := 4
	if v6 {
		size = 16
	}
	length := 8 * len(data)
	if mask != nil {
		length = 0
		for _, b := range mask {
			length += bits.OnesCount8(b)
		}
	}
	addr, ok := netip.AddrFromSlice(append(slices.Clone(data), make([]byte, max(size-len(data), 0))...))
	if !ok || length > addr.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, length), true
}

func (r *run) within(e *expr.Range) {
	v, c := r.registers[place(e.Register)], maybe
	if v.field == endpointPort && len(e.FromData) == 2 && len(e.ToData) == 2 &&
		!r.to.port(int(binary.BigEndian.Uint16(e.FromData)), int(binary.BigEndian.Uint16(e.ToData))) {
		c = never
	}
	if e.Op == expr.CmpOpNeq {
		c = always - c
	}
	r.match(c, v.field)
}

func (r *run) lookup(e *expr.Lookup, set setContent) {
	v := r.registers[place(e.SourceRegister)]
	if e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT {
		r.verdictMap(v, set)
		return
	}
	c := maybe
	if set.complete {
		c = never
		for _, element := range set.elements {
			c = max(c, r.equal(v, element.key))
		}
	}
	if e.Invert {
		c = always - c
	}
	if e.IsDestRegSet {
		r.registers[place(e.DestRegister)] = value{}
	}
	r.match(c, v.field)
}

func (r *run) verdictMap(v value, set setContent) {
	for _, element := range set.elements {
		c := maybe
		if set.complete {
			c = r.equal(v, element.key)
		}
		if (element.what == jump || element.what == goTo) && enforcer(element.where) {
			continue
		}
		r.effect(effect{when: c, verdict: element.what, target: element.where, chosen: v.field == clientAddress})
	}
}

// target is one of iptables in a table that iptables cannot show.
func (r *run) target(e *expr.Target) {
	switch e.Name {
	case "REJECT":
		r.effect(effect{when: always, verdict: drop, chosen: true})
	case "CONNMARK":
		// struct xt_connmark_tginfo1: ctmark, ctmask, nfmask, mode.
		const sets, saves = 0, 1
		info, ok := e.Info.(*xt.Unknown)
		if !ok || len(*info) < 13 {
			return
		}
		mark, mask := binary.NativeEndian.Uint32(*info), binary.NativeEndian.Uint32((*info)[4:])
		switch mode := (*info)[12]; {
		case mode == sets:
			r.effect(effect{when: always, mark: changeOf(mark, mask, r.mark)})
		case mode == saves && mask&r.mark != 0:
			r.effect(effect{when: always, mark: markLost})
		}
	}
}
