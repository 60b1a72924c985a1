package owner

import (
	"net/netip"
	"slices"
)

// Set is an immutable set of addresses. It takes memory per run of neighbouring
// addresses, not per address: a node is mostly ready for whole pools.
type Set struct {
	spans []span // by address, apart from each other
}

type span struct{ first, last netip.Addr }

// NewSet makes a set. The addresses may come in any order and more than once.
func NewSet(addresses []netip.Addr) Set {
	sorted := slices.Clone(addresses)
	slices.SortFunc(sorted, netip.Addr.Compare)
	var s Set
	for _, a := range sorted {
		if n := len(s.spans); n > 0 && (s.spans[n-1].last == a || s.spans[n-1].last.Next() == a) {
			s.spans[n-1].last = a
			continue
		}
		s.spans = append(s.spans, span{a, a})
	}
	return s
}

// Contains reports whether the address is in the set.
func (s Set) Contains(a netip.Addr) bool {
	i, found := slices.BinarySearchFunc(s.spans, a, func(sp span, a netip.Addr) int { return sp.first.Compare(a) })
	if found {
		return true
	}
	return i > 0 && s.spans[i-1].last.Compare(a) >= 0 && s.spans[i-1].last.BitLen() == a.BitLen()
}

// Equal reports whether both sets have the same addresses.
func (s Set) Equal(o Set) bool { return slices.Equal(s.spans, o.spans) }
