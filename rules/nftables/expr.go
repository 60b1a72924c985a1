package nftables

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what a rule needs to know about IPv4 or IPv6. Registers 8 to 23 are
// the 32-bit ones of nf_tables; 1 is the 128-bit one that begins at 8. A lookup
// key is loaded into consecutive registers, padded to 32 bits a field.
type family struct {
	name         string // as nft writes it
	ipv6         bool
	protocol     byte   // NFPROTO_*
	source, dest uint32 // offsets of the addresses in the network header
	length       uint32 // of an address
	proto        uint32 // register of the protocol; the address is in front of it
}

var (
	ipv4 = family{"ip", false, unix.NFPROTO_IPV4, 12, 16, 4, 9}
	ipv6 = family{"ip6", true, unix.NFPROTO_IPV6, 8, 24, 16, 12}
)

const address uint32 = 1 // register of the address, and of every looked-up value

func (f family) port() uint32 { return f.proto + 1 }
func (f family) slot() uint32 { return f.proto + 2 }
func (f family) free() uint32 { return f.proto + 3 } // first register behind a key

// protocolName is the family as "meta nfproto" has it.
func (f family) protocolName() string {
	if f.ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

// set picks the set of this family.
func (f family) set(s setID) setID { return s.of(f.ipv6) }

// only limits a rule to the family. nft leaves it out of its listing where the
// rule itself implies it.
func (f family) only() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
	}
}

// service loads "daddr . l4proto . dport". th reads the ports of TCP and UDP
// alike, and meta l4proto is right behind IPv6 extension headers, too.
func (f family) service() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: address, Base: expr.PayloadBaseNetworkHeader, Offset: f.dest, Len: f.length},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.proto},
		&expr.Payload{DestRegister: f.port(), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// load puts the source or destination address into a register.
func (f family) load(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length}
}

// serviceText is what service loads, in nft's words.
func (f family) serviceText() string { return f.name + " daddr . meta l4proto . th dport" }

// random draws the slot anew for each flow.
func (f family) random(n int) []expr.Any {
	return []expr.Any{&expr.Numgen{Register: f.slot(), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}}
}

// flowSeed makes the hashes the same on every node and after every restart, so that
// a flow whose conntrack entry is lost, and a client, find their endpoint again.
const flowSeed = 0x706f7274

// flowHash makes the slot a function of the flow, "saddr . sport".
func (f family) flowHash(n int) []expr.Any {
	words := f.length / 4
	return []expr.Any{
		f.load(f.source, f.free()),
		&expr.Payload{DestRegister: f.free() + words, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Hash{
			SourceRegister: f.free(), Length: f.length + 4, DestRegister: f.slot(),
			Modulus: uint32(n), Seed: flowSeed, Type: expr.HashTypeJenkins,
		},
	}
}

// clientHash makes the slot a function of the client, "saddr".
func (f family) clientHash(n int) []expr.Any {
	return []expr.Any{
		f.load(f.source, f.free()),
		&expr.Hash{
			SourceRegister: f.free(), Length: f.length, DestRegister: f.slot(),
			Modulus: uint32(n), Seed: flowSeed, Type: expr.HashTypeJenkins,
		},
	}
}

// origin loads "saddr . l4proto . sport", the endpoint where a packet comes from one.
func (f family) origin() []expr.Any {
	return []expr.Any{
		f.load(f.source, address),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.proto},
		&expr.Payload{DestRegister: f.port(), Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
	}
}

// dnat translates to the address and port that the slot's element holds; without
// an element the rule does not match.
func (f family) dnat(slots setID) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: address, DestRegister: address, IsDestRegSet: true, SetName: f.set(slots).String()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.protocol), RegAddrMin: address, RegProtoMin: f.proto},
	}
}

// vmap goes to the chain that the element for the loaded key names.
func (f family) vmap(s setID) expr.Any {
	return &expr.Lookup{SourceRegister: address, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: f.set(s).String()}
}

// in continues only when the loaded key is in the set.
func (f family) in(s setID) expr.Any {
	return &expr.Lookup{SourceRegister: address, SetName: f.set(s).String()}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

// setMark adds a bit to the conntrack mark and leaves the others.
func setMark(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^bit), Xor: native(bit)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

// Bits of "ct state": NF_CT_STATE_INVALID_BIT and NF_CT_STATE_BIT(IP_CT_ESTABLISHED).
const (
	stateInvalid     = 1
	stateEstablished = 1 << 1
)

// with continues only when the bit is set in a conntrack field.
func with(key expr.CtKey, bit uint32) []expr.Any { return ctBit(key, bit, expr.CmpOpNeq) }

// without continues only when none of the bits is set in a conntrack field.
func without(key expr.CtKey, bit uint32) []expr.Any { return ctBit(key, bit, expr.CmpOpEq) }

func ctBit(key expr.CtKey, bit uint32, zero expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(bit), Xor: native(0)},
		&expr.Cmp{Op: zero, Register: 1, Data: native(0)},
	}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

var (
	service4 = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	service6 = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService)
	// Slots and drawn numbers are of type mark because nft 1.0.6 prints 32-bit
	// integers of no other type right: in host order, as numgen and jhash leave
	// them, and with both ends of an interval.
	slot4     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	slot6     = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	endpoint4 = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	endpoint6 = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService)
	pair4     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
	pair6     = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeIP6Addr)
)

// newSet declares one of the sets. nft's userspace needs the key's byte order.
func newSet(table *nftables.Table, id setID) *nftables.Set {
	pick := func(v4, v6 nftables.SetDatatype) nftables.SetDatatype {
		if id.ipv6() {
			return v6
		}
		return v4
	}
	s := &nftables.Set{
		Table: table, ID: uint32(id) + 1, Name: id.String(), Comment: setComments[id.kind()],
		KeyByteOrder: binaryutil.BigEndian,
	}
	switch id.kind() {
	case kindListeners:
		s.KeyType, s.Concatenation = pick(service4, service6), true
		s.IsMap, s.DataType, s.Counter = true, nftables.TypeVerdict, true
	case kindDrawn:
		s.KeyType, s.Concatenation = pick(service4, service6), true
		s.IsMap, s.DataType = true, nftables.TypeVerdict
	case kindSlots, kindWideSlots:
		s.KeyType, s.Concatenation = pick(slot4, slot6), true
		s.IsMap, s.DataType = true, pick(endpoint4, endpoint6)
	case kindRefused:
		s.KeyType, s.Concatenation = pick(slot4, slot6), true
		s.Interval = true
	case kindEndpoints:
		s.KeyType, s.Concatenation = pick(service4, service6), true
	case kindLocal, kindExclusive:
		s.KeyType = pick(nftables.TypeIPAddr, nftables.TypeIP6Addr)
	case kindHairpin:
		s.KeyType, s.Concatenation = pick(pair4, pair6), true
	}
	return s
}
