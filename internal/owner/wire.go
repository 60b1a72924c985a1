package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// wireVersion is the first byte of a coded Record. Who cannot read a version ignores it.
const wireVersion = 1

// maxName is what a Kubernetes node may be called (RFC 1123 subdomain).
const maxName = 253

// macSize is that of an Ethernet address.
const macSize = 6

// flags of a coded Record.
const (
	flagSettled = 1 << iota
	flagPrepared
	flagDraining
	flagLeaving
)

// ErrVersion says that a Record was written by a version of this program that is not
// known to this one.
var ErrVersion = errors.New("unknown version of a record")

// errRecord is every other reason why bytes are no Record.
var errRecord = errors.New("malformed record")

// Append appends the coded Record, see the package's documentation for its size.
func (r *Record) Append(b []byte) []byte {
	b = append(b, wireVersion)
	b = binary.AppendUvarint(b, uint64(len(r.Node)))
	b = append(b, r.Node...)
	b = binary.AppendUvarint(b, r.Start)
	b = binary.AppendUvarint(b, r.Version)
	var flags byte
	for _, f := range [...]struct {
		set bool
		bit byte
	}{{r.Settled, flagSettled}, {r.Prepared, flagPrepared}, {r.Draining, flagDraining}, {r.Leaving, flagLeaving}} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(r.MACs)))
	for _, mac := range r.MACs {
		b = append(b, mac[:]...)
	}
	for _, size := range [...]int{32, 128} {
		b = appendSpans(b, size, r.Ready.spans)
	}
	for _, size := range [...]int{32, 128} {
		b = appendClaims(b, size, r.Claims)
	}
	return b
}

// appendSpans appends those of a family: each as its distance from the one before
// and its length less one.
func appendSpans(b []byte, size int, spans []span) []byte {
	spans = slices.DeleteFunc(slices.Clone(spans), func(s span) bool { return s.first.BitLen() != size })
	b = binary.AppendUvarint(b, uint64(len(spans)))
	var last number
	for _, s := range spans {
		first := numberOf(s.first)
		b = first.minus(last).append(b)
		last = numberOf(s.last)
		b = last.minus(first).append(b)
	}
	return b
}

// appendClaims appends those of a family: each as its distance from the one before,
// and the difference of the stamps with the phase in the two lowest bits.
func appendClaims(b []byte, size int, claims []Claim) []byte {
	claims = slices.DeleteFunc(slices.Clone(claims), func(c Claim) bool { return c.Address.BitLen() != size })
	slices.SortFunc(claims, func(a, b Claim) int { return a.Address.Compare(b.Address) })
	b = binary.AppendUvarint(b, uint64(len(claims)))
	var last number
	var stamp uint64
	for _, c := range claims {
		n := numberOf(c.Address)
		b = n.minus(last).append(b)
		b = binary.AppendUvarint(b, zigzag(c.Stamp-stamp)<<2|uint64(c.Phase))
		last, stamp = n, c.Stamp
	}
	return b
}

// zigzag makes small differences of either sign small numbers. Stamps have less than 60
// bits.
func zigzag(d uint64) uint64   { return d<<1 ^ uint64(int64(d)>>63) }
func unzigzag(z uint64) uint64 { return z>>1 ^ -(z & 1) }

// Decode reads one Record and returns what follows it. The bytes may be anything: they
// have passed the cluster's key, but may be from another version or damaged.
func Decode(b []byte) (*Record, []byte, error) {
	d := decoder{rest: b}
	if v := d.byte(); d.err == nil && v != wireVersion {
		return nil, nil, fmt.Errorf("%w: %d", ErrVersion, v)
	}
	r := &Record{Node: string(d.bytes(d.count(maxName)))}
	r.Start, r.Version = d.uvarint(), d.uvarint()
	flags := d.byte()
	r.Settled, r.Prepared = flags&flagSettled != 0, flags&flagPrepared != 0
	r.Draining, r.Leaving = flags&flagDraining != 0, flags&flagLeaving != 0
	for range d.count(len(d.rest) / macSize) {
		r.MACs = append(r.MACs, [macSize]byte(d.bytes(macSize)))
	}
	for _, size := range [...]int{32, 128} {
		d.spans(size, &r.Ready)
	}
	for _, size := range [...]int{32, 128} {
		d.claims(size, r)
	}
	if d.err == nil && r.Node == "" {
		d.err = errRecord
	}
	if d.err != nil {
		return nil, nil, d.err
	}
	return r, d.rest, nil
}

// decoder reads on after an error, to no effect.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) bytes(n int) []byte {
	if d.err == nil && len(d.rest) < n {
		d.err = errRecord
	}
	if d.err != nil {
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte { return d.bytes(1)[0] }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.err = errRecord
	}
	if d.err != nil {
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads how many of something follow.
func (d *decoder) count(limit int) int {
	n := d.uvarint()
	if n > uint64(limit) {
		d.err = errRecord
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// advance reads a distance and adds it.
func (d *decoder) advance(from number, size int) number {
	distance, rest, ok := readNumber(d.rest)
	to, carry := from.plus(distance)
	if !ok || carry || size == 32 && (to.high != 0 || to.low>>32 != 0) {
		d.err = errRecord
	}
	if d.err != nil {
		return number{}
	}
	d.rest = rest
	return to
}

func (d *decoder) spans(size int, s *Set) {
	var last number
	for i := range d.count(len(d.rest) / 2) {
		first := d.advance(last, size)
		if i > 0 && first == last {
			d.err = errRecord
		}
		last = d.advance(first, size)
		s.spans = append(s.spans, span{first.addr(size), last.addr(size)})
	}
}

func (d *decoder) claims(size int, r *Record) {
	var last number
	var stamp uint64
	for i := range d.count(len(d.rest) / 2) {
		n := d.advance(last, size)
		if i > 0 && n == last {
			d.err = errRecord
		}
		v := d.uvarint()
		stamp += unzigzag(v >> 2)
		c := Claim{Address: n.addr(size), Stamp: stamp, Phase: Phase(v & 3)}
		if c.Phase >= phases {
			d.err = errRecord
		}
		r.Claims = append(r.Claims, c)
		last = n
	}
}

// number is an address as one.
type number struct{ high, low uint64 }

func numberOf(a netip.Addr) number {
	if a.Is4() {
		b := a.As4()
		return number{low: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) addr(size int) netip.Addr {
	if size == 32 {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(n.low))))
	}
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, n.high), n.low)))
}

func (n number) minus(o number) number {
	low, borrow := bits.Sub64(n.low, o.low, 0)
	high, _ := bits.Sub64(n.high, o.high, borrow)
	return number{high, low}
}

func (n number) plus(o number) (number, bool) {
	low, carry := bits.Add64(n.low, o.low, 0)
	high, carry := bits.Add64(n.high, o.high, carry)
	return number{high, low}, carry != 0
}

// append appends it in groups of 7 bits, the lowest first, as Uvarint does.
func (n number) append(b []byte) []byte {
	for n.high != 0 || n.low >= 0x80 {
		b = append(b, byte(n.low)|0x80)
		n = number{n.high >> 7, n.low>>7 | n.high<<57}
	}
	return append(b, byte(n.low))
}

func readNumber(b []byte) (n number, rest []byte, ok bool) {
	for i, c := range b {
		group, shift := number{low: uint64(c & 0x7f)}, 7*i
		if shift > 126 || shift == 126 && c > 3 {
			return number{}, nil, false
		}
		if shift >= 64 {
			n.high |= group.low << (shift - 64)
		} else {
			n.low |= group.low << shift
			n.high |= group.low >> (64 - shift)
		}
		if c < 0x80 {
			return n, b[i+1:], true
		}
	}
	return number{}, nil, false
}
