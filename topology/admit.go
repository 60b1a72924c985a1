package topology

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// What a Gateway may have, and what it keeps. Whether somebody else has an address is
// for those to know who assign them.

// PoolsFor returns the pools from which a Gateway in mode Pool gets an address of a
// family that it does not name, in the order in which they are to be tried.
func (p *Parameters) PoolsFor(family corev1.IPFamily) []*Pool {
	var pools []*Pool
	for _, pool := range p.entitled.draws {
		if p.Mode == v1alpha1.AddressModePool && pool.Gives() && pool.has(family) && p.mayHave(family) {
			pools = append(pools, pool)
		}
	}
	return pools
}

// Lacks says why there is no address of a family for the Gateway, once nothing is left
// in PoolsFor, with the cure.
func (p *Parameters) Lacks(family corev1.IPFamily) string {
	if p.Frozen {
		return p.parametersInvalid()
	}
	return p.noneLeft(family)
}

// Admits returns the pool that an address which the Gateway asks for is of, or why it
// may not have it. What others have is not told.
func (p *Parameters) Admits(addr netip.Addr) (pool *Pool, why string) {
	addr = addr.Unmap()
	if p.Frozen {
		return nil, p.parametersInvalid()
	}
	if !p.mayHave(FamilyOf(addr)) {
		return nil, p.familyNotPermitted(addr)
	}
	for _, pool := range p.entitled.usable {
		switch {
		case pool.Gives() && pool.Set.Contains(addr):
			return pool, ""
		case !pool.Gives() && pool.Held.Contains(addr):
			return nil, pool.givesNothing()
		}
	}
	return nil, p.inNoPool(addr)
}

// mayHave: the class names no families, or this one.
func (p *Parameters) mayHave(family corev1.IPFamily) bool {
	families := p.class.terms.families
	return len(families) == 0 || slices.Contains(families, family)
}

// asksFor: the address is of a family that the parameters name, if they name any, or the
// Gateway asks for it by itself.
func (p *Parameters) asksFor(addr netip.Addr) bool {
	return len(p.Families) == 0 || slices.Contains(p.Families, FamilyOf(addr)) || slices.Contains(p.Requested, addr)
}

// Keeps reports whether an address that the status shows is one that the Gateway keeps in
// mode Pool: it got it in that mode, and some pool can say that it was offered. Neither
// is enough: a pool may hold what a node has, and a status may be from another controller.
func (p *Parameters) Keeps(addr netip.Addr) bool {
	return p.Recorded == v1alpha1.AddressModePool && slices.Contains(p.Published, addr) && p.Vouched(addr)
}

// Vouched reports whether some pool can say that an address was offered. Whose it is, and
// whether a pool gave it, is for others to say.
func (p *Parameters) Vouched(addr netip.Addr) bool { return p.holder(addr) != nil }

// holder returns the pool that an address is of, or was; nil for none.
func (p *Parameters) holder(addr netip.Addr) *Pool { return p.of.holder(addr) }

// holder: of accepted pools at most one has an address. Of several that had it, the first
// by name counts.
func (r *Resolution) holder(addr netip.Addr) *Pool {
	var held *Pool
	for _, pool := range r.byName {
		if !pool.Held.Contains(addr) {
			continue
		}
		if pool.Set.Contains(addr) {
			return pool
		}
		if held == nil {
			held = pool
		}
	}
	return held
}

// retention is why a Gateway would not get an address again that it has; the zero value
// is that it would.
type retention struct {
	reason string
	addr   netip.Addr
	pool   *Pool  // nil: none has it
	text   string // what there is to say where it is not of an address
}

// retentions judges the addresses that the Gateway has.
func (g *Gateway) retentions() []retention {
	if g.fault.exists() {
		return nil
	}
	p := g.Parameters
	if g.LoadBalancer != nil {
		return g.LoadBalancer.retentions(p)
	}
	var found []retention
	for _, addr := range g.Assignment.Addresses {
		addr = addr.Unmap()
		r := retention{addr: addr, pool: p.holder(addr)}
		switch {
		case !p.known:
			r.reason = ReasonInvalidParameters
		case p.Mode != v1alpha1.AddressModePool:
		case r.pool == nil || !r.pool.Set.Contains(addr):
			r.reason = ReasonOutsidePool
		case r.pool.Deleting:
			r.reason = ReasonPoolDeleting
		case !slices.Contains(p.entitled.usable, r.pool), !p.mayHave(FamilyOf(addr)), !p.asksFor(addr):
			r.reason = ReasonNotPermitted
		}
		if r.reason != "" {
			found = append(found, r)
		}
	}
	return found
}

// Kept is the assignment that the Gateway's status shows, as far as it is still good:
// what agents go by, and what a controller begins with. In mode LoadBalancer it is what
// the Service shows, for the controller as well: nobody but its provider gives anything.
func (p *Parameters) Kept() Assignment {
	if p.LoadBalancer != nil {
		return p.LoadBalancer.assignment()
	}
	kept := Assignment{NodeMode: p.Mode == v1alpha1.AddressModeNode}
	if p.Recorded != p.Mode {
		return kept // it is to get others
	}
	for _, addr := range p.Published {
		if p.Mode != v1alpha1.AddressModePool || p.Keeps(addr) {
			kept.Addresses = append(kept.Addresses, addr)
		}
	}
	return kept
}

// Answered reports whether a Gateway that has these addresses has all that it names. As
// long as it has not, what it has stays its own: a typing mistake gives nothing up.
func (p *Parameters) Answered(has []netip.Addr) bool { return p.refused(has) < 0 }

// refused returns the index of the first entry of spec.addresses that is none of these
// addresses, -1 without one.
func (p *Parameters) refused(has []netip.Addr) int {
	return slices.IndexFunc(p.Gateway.Spec.Addresses, func(requested gatewayv1.GatewaySpecAddress) bool {
		if requested.Value == "" {
			return false
		}
		addr, err := netip.ParseAddr(requested.Value)
		return err != nil || !slices.ContainsFunc(has, func(assigned netip.Addr) bool { return assigned.Unmap() == addr.Unmap() })
	})
}

// Wants returns the families of which the Gateway, in mode Pool, is to get an address
// that it did not name, given those it has.
func (p *Parameters) Wants(has []netip.Addr) []corev1.IPFamily {
	switch {
	case p.Frozen || !p.AnyWillDo:
		return nil
	case len(p.Families) > 0:
		return slices.DeleteFunc(slices.Clone(p.Families), func(family corev1.IPFamily) bool { return hasFamily(has, family) })
	case len(has) > 0:
		return nil
	case len(p.PoolsFor(corev1.IPv4Protocol)) == 0 && len(p.PoolsFor(corev1.IPv6Protocol)) > 0:
		return []corev1.IPFamily{corev1.IPv6Protocol}
	default:
		return []corev1.IPFamily{corev1.IPv4Protocol}
	}
}

func hasFamily(addrs []netip.Addr, family corev1.IPFamily) bool {
	return slices.ContainsFunc(addrs, func(addr netip.Addr) bool { return FamilyOf(addr) == family })
}
