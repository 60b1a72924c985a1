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

// ExclusiveChanges returns the exclusive addresses of one State that another does not have,
// and the other way round, in order. A nil State has none. Where both have them from one
// and the same WithExclusive nothing is compared.
func ExclusiveChanges(from, to *State) (gone, come []netip.Addr) {
	var a, b []netip.Addr
	if from != nil {
		a = from.exclusive
	}
	if to != nil {
		b = to.exclusive
	}
	if sameSlice(a, b) {
		return nil, nil
	}
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c < 0:
			gone, a = append(gone, a[0]), a[1:]
		case c > 0:
			come, b = append(come, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return append(gone, a...), append(come, b...)
}

// sameSlice reports whether two slices are one object.
func sameSlice(a, b []netip.Addr) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// ValidateExclusive checks that an address can be exclusive.
func ValidateExclusive(addr netip.Addr) error {
	if !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return fmt.Errorf("exclusive address %s: not a plain unicast address", addr)
	}
	return nil
}
