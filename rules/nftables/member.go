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

func (m member) key() rules.FrontendKey {
	addr := netip.AddrFrom16(m.addr)
	if !m.set.ipv6() {
		addr = addr.Unmap()
	}
	return rules.FrontendKey{Addr: addr, Protocol: m.protocol, Port: m.port}
}

func (m member) compare(o member) int {
	return cmp.Or(cmp.Compare(m.set, o.set), bytes.Compare(m.addr[:], o.addr[:]),
		cmp.Compare(m.protocol, o.protocol), cmp.Compare(m.port, o.port))
}

// membersOf returns what a Frontend needs in the sets, in order, without duplicates.
// An endpoint that gets no new flow, as it drains, lingers or has no weight, may have old
// ones, whose late packets are the likeliest to be invalid.
func membersOf(key rules.FrontendKey, f *rules.Frontend) []member {
	var out []member
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

// memberID numbers a member, for as long as it is counted.
type memberID uint32

// members counts the Frontends that need each element of those sets. To find a member by
// what it is takes a look into a map that no cache holds, once for each Frontend that
// comes; from then on it is known by its number.
type members struct {
	ids  map[member]memberID
	refs []ref      // by number
	free []memberID // numbers without a member
	// unneeded are those that the kernel has and no Frontend needs.
	unneeded map[memberID]struct{}
}

type ref struct {
	member
	users int32
	held  bool // the kernel has the element
	asked bool // it is among the elements to add
}

func newMembers() *members {
	return &members{ids: make(map[member]memberID), unneeded: make(map[memberID]struct{})}
}

func (m *members) number(one member) memberID {
	if id, known := m.ids[one]; known {
		return id
	}
	id := memberID(len(m.refs))
	if last := len(m.free) - 1; last >= 0 {
		id, m.free = m.free[last], m.free[:last]
		m.refs[id] = ref{member: one}
	} else {
		m.refs = append(m.refs, ref{member: one})
	}
	m.ids[one] = id
	return id
}

// changed forgets a member that is neither needed nor held, and notes whether it is unneeded.
func (m *members) changed(id memberID) {
	switch r := &m.refs[id]; {
	case r.users > 0:
		delete(m.unneeded, id)
	case r.held:
		m.unneeded[id] = struct{}{}
	default:
		delete(m.unneeded, id)
		delete(m.ids, r.member)
		*r = ref{}
		m.free = append(m.free, id)
	}
}

// acquire counts the members of the new programs and returns the elements to add before
// these may take effect.
func (m *members) acquire(plans []*plan) []op {
	var ops []op
	var keys []rules.FrontendKey // in blocks, which the operations keep
	for _, p := range plans {
		if p.now == nil {
			continue
		}
		p.now.counted = make([]memberID, len(p.now.members))
		for i, one := range p.now.members {
			id := m.number(one)
			p.now.counted[i] = id
			r := &m.refs[id]
			r.users++
			m.changed(id)
			if r.held || r.asked {
				continue
			}
			r.asked = true
			if len(keys) == cap(keys) {
				keys = make([]rules.FrontendKey, 0, len(p.now.members)+len(ops)/4)
			}
			keys = append(keys, one.key())
			ops = append(ops, op{set: one.set, key: &keys[len(keys)-1], n: uint32(id)})
		}
	}
	return ops
}

// release counts the members of a program no more; nil has none.
func (m *members) release(p *program) {
	if p == nil {
		return
	}
	for _, id := range p.counted {
		m.refs[id].users--
		m.changed(id)
	}
	p.counted = nil
}

// shrink gives back the memory of a restart, during which all were unneeded for a while.
func (m *members) shrink() {
	if len(m.unneeded) == 0 {
		m.unneeded = make(map[memberID]struct{})
	}
}

// unused returns the deletion of all elements that nobody uses any more.
func (m *members) unused() []op {
	ids := slices.SortedFunc(maps.Keys(m.unneeded), func(a, b memberID) int {
		return m.refs[a].compare(m.refs[b].member)
	})
	ops := make([]op, 0, len(ids))
	for _, id := range ids {
		key := m.refs[id].key()
		ops = append(ops, op{set: m.refs[id].set, del: true, key: &key, n: uint32(id)})
	}
	return ops
}

// hold notes an element that the kernel was found to have, and reports whether that was
// known.
func (m *members) hold(one member) (known bool) {
	id := m.number(one)
	known = m.refs[id].held
	m.refs[id].held = true
	m.changed(id)
	return known
}

// dismiss notes that operations were not committed.
func (m *members) dismiss(ops []op) {
	for i := range ops {
		if ops[i].isMember() {
			m.refs[ops[i].n].asked = false
		}
	}
}

// note records an operation on one of these sets that the kernel committed.
func (m *members) note(o *op) {
	if !o.isMember() {
		return
	}
	r := &m.refs[o.n]
	r.held, r.asked = !o.del, false
	m.changed(memberID(o.n))
}

// isMember reports whether the operation is on an element that is counted.
func (o *op) isMember() bool { return o.raw == nil && o.set.kind() >= kindEndpoints }
