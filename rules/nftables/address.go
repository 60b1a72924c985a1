package nftables

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/portway-dev/portway/rules"
)

type (
	endpointAddr = netip.Addr
	endpointPort = netip.AddrPort
)

// localAddrs returns the addresses of a Frontend's endpoints on this node that
// can get traffic, in order, without duplicates.
func localAddrs(f *rules.Frontend) []endpointAddr {
	var addrs []endpointAddr
	for i := range f.Backends {
		if f.Backends[i].Weight == 0 {
			continue
		}
		for j := range f.Backends[i].Endpoints {
			if e := &f.Backends[i].Endpoints[j]; e.Local {
				addrs = append(addrs, e.Addr.Addr())
			}
		}
	}
	if len(addrs) < 2 {
		return addrs
	}
	slices.SortFunc(addrs, endpointAddr.Compare)
	return slices.Clip(slices.Compact(addrs))
}

// addresses counts, for the sets local and hairpin, the Frontends that have an
// endpoint with an address on this node.
type addresses struct {
	users   map[endpointAddr]int
	held    map[endpointAddr]held // elements that the kernel has
	touched map[endpointAddr]struct{}
}

// held is in which of the two sets an address is.
type held struct{ local, hairpin bool }

func newAddresses() *addresses {
	return &addresses{
		users:   make(map[endpointAddr]int),
		held:    make(map[endpointAddr]held),
		touched: make(map[endpointAddr]struct{}),
	}
}

// replace counts one program's addresses instead of another's; nil is none.
func (a *addresses) replace(old, now *program) {
	if old != nil {
		for _, addr := range old.local {
			a.touched[addr] = struct{}{}
			if a.users[addr]--; a.users[addr] == 0 {
				delete(a.users, addr)
			}
		}
	}
	if now != nil {
		for _, addr := range now.local {
			a.touched[addr] = struct{}{}
			a.users[addr]++
		}
	}
}

// missing returns the elements to add before the given programs may take effect.
func (a *addresses) missing(plans []*plan) []op {
	wanted := make(map[endpointAddr]struct{})
	for _, p := range plans {
		if p.now == nil {
			continue
		}
		for _, addr := range p.now.local {
			if a.held[addr] != (held{true, true}) {
				wanted[addr] = struct{}{}
			}
		}
	}
	var ops []op
	for _, addr := range slices.SortedFunc(maps.Keys(wanted), endpointAddr.Compare) {
		has := a.held[addr]
		if !has.local {
			ops = append(ops, op{set: local4.of(addr.Is6()), key: &rules.FrontendKey{Addr: addr}})
		}
		if !has.hairpin {
			ops = append(ops, op{set: hairpin4.of(addr.Is6()), key: &rules.FrontendKey{Addr: addr}})
		}
	}
	return ops
}

// unused returns the deletion of all touched elements that nobody uses any more.
func (a *addresses) unused() []op {
	var ops []op
	for _, addr := range slices.SortedFunc(maps.Keys(a.touched), endpointAddr.Compare) {
		has := a.held[addr]
		if a.users[addr] > 0 {
			continue
		}
		if has.local {
			ops = append(ops, op{del: true, set: local4.of(addr.Is6()), key: &rules.FrontendKey{Addr: addr}})
		}
		if has.hairpin {
			ops = append(ops, op{del: true, set: hairpin4.of(addr.Is6()), key: &rules.FrontendKey{Addr: addr}})
		}
	}
	return ops
}

// note records an operation on one of the two sets that the kernel committed.
func (a *addresses) note(o op) {
	if o.raw != nil {
		return
	}
	has := a.held[o.key.Addr]
	switch o.set.kind() {
	case kindLocal:
		has.local = !o.del
	case kindHairpin:
		has.hairpin = !o.del
	default:
		return
	}
	if has == (held{}) {
		delete(a.held, o.key.Addr)
		return
	}
	a.held[o.key.Addr] = has
}
