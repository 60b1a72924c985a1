package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// WithExclusive returns the State with these exclusive addresses in place of the old
// ones, and the same State where they are equal. Exclusive is an address that only we
// serve, on all nodes, and that no interface has, whether or not any Frontend is there:
// what no Frontend takes of its packets is refused on the node, see Decision.Unowned,
// neither forwarded nor left to others that translate. The addresses of nodes, and those
// that others own, as of a cloud's load balancer, are never exclusive. A backend leaves an
// exclusive address alone where an interface of its node has it nevertheless.
//
// The addresses may be in any order, and are copied. Apply and AsPartial keep them, and no
// digest covers them.
func (s *State) WithExclusive(addrs []netip.Addr) *State {
	sorted := slices.Clone(addrs)
	slices.SortFunc(sorted, netip.Addr.Compare)
	sorted = slices.Compact(sorted)
	if slices.Equal(sorted, s.exclusive) {
		return s
	}
	next := *s
	next.exclusive = sorted
	return &next
}

// Exclusive returns the exclusive addresses in order. They are not to be changed.
func (s *State) Exclusive() []netip.Addr { return s.exclusive }

// IsExclusive reports whether an address is one of them.
func (s *State) IsExclusive(addr netip.Addr) bool {
	_, found := slices.BinarySearchFunc(s.exclusive, addr, netip.Addr.Compare)
	return found
}

// SameExclusive reports whether two States have their exclusive addresses from one and
// the same WithExclusive, which is found out without comparing them. False proves nothing.
// A nil State has none.
func SameExclusive(a, b *State) bool {
	var of [2][]netip.Addr
	for i, s := range []*State{a, b} {
		if s != nil {
			of[i] = s.exclusive
		}
	}
	return len(of[0]) == len(of[1]) && (len(of[0]) == 0 || &of[0][0] == &of[1][0])
}

// ValidateExclusive checks that an address can be exclusive.
func ValidateExclusive(addr netip.Addr) error {
	if !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return fmt.Errorf("exclusive address %s: not a plain unicast address", addr)
	}
	return nil
}
