// Package addresses holds sets of addresses of both families, written as CIDRs, ranges
// and single addresses. It gives nothing out and knows of nobody who has one.
//
// The sets are those of go4.org/netipx; what is here is the notation, the addresses
// that must not occur and those that some equipment takes for the network's own.
package addresses

import (
	"iter"
	"math/big"
	"net/netip"

	"go4.org/netipx"
)

// Set is an immutable set of addresses. The zero value is empty. Safe for concurrent
// use.
type Set struct {
	ranges []netipx.IPRange // IPv4 first, in order, none touches another
	avoid  bool
}

// Parse reads entries as ParseRange does; they may overlap. With an error the set is
// that of the entries without one.
func Parse(entries []string) (Set, error) {
	var builder netipx.IPSetBuilder
	var first error
	for i, entry := range entries {
		r, err := ParseRange(entry)
		if err != nil {
			if first == nil {
				first = &EntryError{Index: i, Err: err}
			}
			continue
		}
		builder.AddRange(r)
	}
	return build(&builder), first
}

// Of returns the set of some addresses; IPv4-mapped ones are IPv4.
func Of(addrs ...netip.Addr) Set {
	var builder netipx.IPSetBuilder
	for _, addr := range addrs {
		builder.Add(addr.Unmap())
	}
	return build(&builder)
}

// build: a builder fails for ranges that are none only, and is given none.
func build(b *netipx.IPSetBuilder) Set {
	set, err := b.IPSet()
	if err != nil || set == nil {
		return Set{}
	}
	return Set{ranges: set.Ranges()}
}

// AvoidBuggy returns the set without IPv4 addresses that end in .0 or .255.
func (s Set) AvoidBuggy() Set {
	s.avoid = true
	return s
}

// Contains reports whether an address is in the set; an IPv4-mapped one is IPv4.
func (s Set) Contains(addr netip.Addr) bool {
	addr = addr.Unmap()
	i := s.find(addr)
	return i < len(s.ranges) && s.ranges[i].Contains(addr) && (!s.avoid || !buggy(addr))
}

// find returns the index of the first range that does not end before the address.
func (s Set) find(addr netip.Addr) int {
	low, high := 0, len(s.ranges)
	for low < high {
		if mid := (low + high) / 2; s.ranges[mid].To().Less(addr) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// Overlap returns the first addresses in a row that two sets have in common, those
// included that they avoid: who avoids an address does not leave it to others.
func (s Set) Overlap(other Set) (first, last netip.Addr, found bool) {
	for _, r := range s.ranges {
		if i := other.find(r.From()); i < len(other.ranges) && r.Overlaps(other.ranges[i]) {
			o := other.ranges[i]
			first, last = r.From(), r.To()
			if first.Less(o.From()) {
				first = o.From()
			}
			if o.To().Less(last) {
				last = o.To()
			}
			return first, last, true
		}
	}
	return first, last, false
}

// HasIPv4 reports whether the set has an IPv4 address.
func (s Set) HasIPv4() bool { return s.hasAny(netip.IPv4Unspecified()) }

// HasIPv6 reports whether the set has an IPv6 address.
func (s Set) HasIPv6() bool { return s.hasAny(netip.IPv6Unspecified()) }

func (s Set) hasAny(from netip.Addr) bool {
	for range s.From(from) {
		return true
	}
	return false
}

// From yields the addresses of the set that are of addr's family and not below it, in
// order. There may be 2¹²⁸ of them.
func (s Set) From(addr netip.Addr) iter.Seq[netip.Addr] {
	addr = addr.Unmap()
	return func(yield func(netip.Addr) bool) {
		for _, r := range s.ranges[s.find(addr):] {
			if r.From().Is4() != addr.Is4() {
				return
			}
			next := r.From()
			if next.Less(addr) {
				next = addr
			}
			for ; next.IsValid() && !r.To().Less(next); next = next.Next() {
				if s.avoid && buggy(next) {
					continue
				}
				if !yield(next) {
					return
				}
			}
		}
	}
}

// Size is the number of addresses.
func (s Set) Size() *big.Int {
	size := new(big.Int)
	for _, r := range s.ranges {
		first, last := number(r.From()), number(r.To())
		size.Add(size, last.Sub(last, first)).Add(size, big.NewInt(1))
		if s.avoid && r.From().Is4() {
			size.Sub(size, big.NewInt(buggyUpTo(r.To())))
			if before := r.From().Prev(); before.IsValid() {
				size.Add(size, big.NewInt(buggyUpTo(before)))
			}
		}
	}
	return size
}

// Strings returns the ranges as ParseRange reads them; what the set avoids is in them.
func (s Set) Strings() []string {
	texts := make([]string, 0, len(s.ranges))
	for _, r := range s.ranges {
		texts = append(texts, Format(r.From(), r.To()))
	}
	return texts
}

// Format writes the addresses from first to last as ParseRange reads them.
func Format(first, last netip.Addr) string {
	if first == last {
		return first.String()
	}
	r := netipx.IPRangeFrom(first, last)
	if prefix, ok := r.Prefix(); ok {
		return prefix.String()
	}
	return r.String()
}

func number(addr netip.Addr) *big.Int { return new(big.Int).SetBytes(addr.AsSlice()) }

// buggy: some equipment takes these for the address of a network or its broadcast.
func buggy(addr netip.Addr) bool {
	if !addr.Is4() {
		return false
	}
	last := addr.As4()[3]
	return last == 0 || last == 255
}

// buggyUpTo counts the IPv4 addresses up to one, it included, that end so.
func buggyUpTo(addr netip.Addr) int64 {
	b := addr.As4()
	networks := int64(b[0])<<16 | int64(b[1])<<8 | int64(b[2])
	n := 2*networks + 1
	if b[3] == 255 {
		n++
	}
	return n
}
