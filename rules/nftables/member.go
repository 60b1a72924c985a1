package nftables

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/portway-dev/portway/rules"
)

// member is an element of a set that tells something of endpoints: in endpoints the
// endpoint itself; in local and hairpin its address, protocol and port being 0. There are
// as many as endpoints, hence nothing in it is for the garbage collector to look at.
type member struct {
	addr     [16]byte // as netip.Addr.As16
	port     uint16
	protocol rules.Protocol
	set      setID
}

func memberOf(set setID, key rules.FrontendKey) member {
	return member{key.Addr.As16(), key.Port, key.Protocol, set.of(key.Addr.Is6())}
}

func (m member) key() *rules.FrontendKey {
	addr := netip.AddrFrom16(m.addr)
	if !m.set.ipv6() {
		addr = addr.Unmap()
	}
	return &rules.FrontendKey{Addr: addr, Protocol: m.protocol, Port: m.port}
}

func (m member) compare(o member) int {
	return cmp.Or(cmp.Compare(m.set, o.set), bytes.Compare(m.addr[:], o.addr[:]),
		cmp.Compare(m.protocol, o.protocol), cmp.Compare(m.port, o.port))
}

// membersOf returns what a Frontend needs in the sets, in order, without duplicates.
// An endpoint that gets no new flow, as it drains, lingers or has no weight, may have old
// ones, whose late packets are the likeliest to be invalid.
func membersOf(key rules.FrontendKey, f *rules.Frontend) []member {
	count := 0
	for i := range f.Backends {
		b := &f.Backends[i]
		count += len(b.Endpoints) + len(b.Draining) + len(b.Lingering)
	}
	out := make([]member, 0, count) // they are kept; those of the node's own endpoints come on top
	add := func(set setID, addr netip.Addr, protocol rules.Protocol, port uint16) {
		out = append(out, memberOf(set, rules.FrontendKey{Addr: addr, Protocol: protocol, Port: port}))
	}
	for i := range f.Backends {
		b := &f.Backends[i]
		for j := range b.Endpoints {
			e := &b.Endpoints[j]
			add(endpoints4, e.Addr.Addr(), key.Protocol, e.Addr.Port())
			if e.Local {
				add(local4, e.Addr.Addr(), 0, 0)
				add(hairpin4, e.Addr.Addr(), 0, 0)
			}
		}
		for _, addrs := range [...][]netip.AddrPort{b.Draining, b.Lingering} {
			for _, addr := range addrs {
				add(endpoints4, addr.Addr(), key.Protocol, addr.Port())
			}
		}
	}
	slices.SortFunc(out, member.compare)
	return slices.Clip(slices.Compact(out))
}

// members counts the Frontends that need each element of those sets.
type members struct {
	refs map[member]ref
	// unneeded are those that the kernel may have and no Frontend needs.
	unneeded map[member]struct{}
}

type ref struct {
	users int32
	held  bool // the kernel has the element
}

func newMembers() *members {
	return &members{refs: make(map[member]ref), unneeded: make(map[member]struct{})}
}

func (m *members) put(id member, r ref) {
	switch {
	case r == ref{}:
		delete(m.refs, id)
		delete(m.unneeded, id)
		return
	case r.users == 0:
		m.unneeded[id] = struct{}{}
	default:
		delete(m.unneeded, id)
	}
	m.refs[id] = r
}

// replace counts one program's members instead of another's; nil is none.
func (m *members) replace(old, now *program) {
	if now != nil {
		for _, id := range now.members {
			r := m.refs[id]
			r.users++
			m.put(id, r)
		}
	}
	if old != nil {
		for _, id := range old.members {
			r := m.refs[id]
			r.users--
			m.put(id, r)
		}
	}
}

// missing returns the elements to add before the given programs may take effect.
func (m *members) missing(plans []*plan) []op {
	var ops []op
	wanted := make(map[member]struct{})
	for _, p := range plans {
		if p.now == nil {
			continue
		}
		for _, id := range p.now.members {
			if m.refs[id].held {
				continue
			}
			if _, known := wanted[id]; !known {
				wanted[id] = struct{}{}
				ops = append(ops, op{set: id.set, key: id.key()})
			}
		}
	}
	return ops
}

// shrink gives back the memory of a load, during which all were unneeded for a while.
func (m *members) shrink() {
	if len(m.unneeded) == 0 {
		m.unneeded = make(map[member]struct{})
	}
}

// unused returns the deletion of all elements that nobody uses any more.
func (m *members) unused() []op { return memberOps(m.unneeded, true) }

func memberOps(of map[member]struct{}, del bool) []op {
	var ops []op
	for _, id := range slices.SortedFunc(maps.Keys(of), member.compare) {
		ops = append(ops, op{set: id.set, del: del, key: id.key()})
	}
	return ops
}

// note records an operation on one of these sets that the kernel committed.
func (m *members) note(o *op) {
	if o.raw != nil || o.set.kind() < kindEndpoints {
		return
	}
	id := memberOf(o.set, *o.key)
	r := m.refs[id]
	r.held = !o.del
	m.put(id, r)
}
