package topology

import (
	"math/big"
	"net/netip"
	"slices"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/addresses"
)

// PoolUse is what Gateways have of a pool, each address once and in order.
type PoolUse struct {
	// Assigned are the addresses that count as the pool's: of several pools that had
	// one, it is of the pool that has it now.
	Assigned []netip.Addr
	// Retained are those that only status.retained can say to have been offered.
	Retained []netip.Addr
	// InUse: without the pool, nothing could say so of some address.
	InUse bool
}

// uses finds what Gateways in mode Pool have of each pool.
func (r *Resolution) uses(gateways []*Gateway) map[string]PoolUse {
	var has []netip.Addr
	for _, gateway := range gateways {
		if gateway.Parameters.Mode == v1alpha1.AddressModePool {
			for _, addr := range gateway.Assignment.Addresses {
				has = append(has, addr.Unmap())
			}
		}
	}
	slices.SortFunc(has, netip.Addr.Compare)
	uses := make(map[string]PoolUse, len(r.Pools))
	for _, addr := range slices.Compact(has) {
		holder := r.holder(addr)
		for name, pool := range r.Pools {
			if !pool.Held.Contains(addr) {
				continue
			}
			use := uses[name]
			if pool == holder {
				use.Assigned = append(use.Assigned, addr)
			}
			// Another pool vouches for it only once its status does: its spec may change
			// before anybody has written down that it was offered there.
			if vouched := holder != pool && holder.Recorded; !vouched {
				use.InUse = true
				if !pool.recorded().Contains(addr) {
					use.Retained = append(use.Retained, addr)
				}
			}
			uses[name] = use
		}
	}
	return uses
}

// recorded is what the pool's status.addresses says once it is written.
func (p *Pool) recorded() addresses.Set {
	if p.Accepted {
		return p.Set
	}
	return p.occupied
}

var one = big.NewInt(1)

// status says what of a pool is in use. Its addresses and retained are never those of
// different specs: read together, they hold everything that Gateways have.
func (p *Pool) status(use PoolUse) v1alpha1.AddressPoolStatus {
	status := v1alpha1.AddressPoolStatus{
		Conditions: observed(p.Source.Generation, p.Conditions),
		Addresses:  slices.Clone(p.Source.Status.Addresses),
		Retained:   addresses.Of(use.Retained...).Strings(),
		Assigned:   int64(len(use.Assigned)),
		Available:  "0",
	}
	if p.Accepted {
		status.Addresses = texts(p.Source.Spec.Addresses)
	}
	if p.Gives() {
		left := p.Set.Size()
		for _, addr := range use.Assigned {
			if p.Set.Contains(addr) {
				left.Sub(left, one)
			}
		}
		status.Available = left.String()
	}
	return status
}
