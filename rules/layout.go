package rules

import "net/netip"

// DrawRange is the range of the number drawn for each new flow of a FlowHash or
// ClientHash Frontend with a refused share. 2⁴·3²·5³·7·11·13: every denominator up to 16, and
// every one that divides 1000, is exact.
const DrawRange = 18_018_000

// Slot is one entry of a Layout: the backend and endpoint that new flows which
// draw it are translated to. The zero Slot refuses them.
type Slot struct {
	Backend  *Backend
	Endpoint *Endpoint
}

// Refused reports whether flows that draw this slot are refused.
func (s Slot) Refused() bool { return s.Endpoint == nil }

// Layout is the shares of a Frontend as a table of slots: a new flow picks one
// slot, each with the same probability.
type Layout struct {
	// Slots; their number is a rung of the Ladder, with ClientHash always ClientSlots.
	// None when everything is refused.
	Slots []Slot
	// RefusedDraws of DrawRange numbers are refused before a slot is picked. Only
	// with FlowHash and ClientHash, whose slots are then all taken: a hash that met an
	// empty slot would refuse the same client for ever.
	RefusedDraws uint32
}

// NewLayout lays a Frontend out. previous are the slots of the Layout it replaces,
// nil for none: a slot keeps its endpoint as long as that endpoint's share allows,
// so that a change moves only the slots it must.
//
// Bounds, for up to MaxBackends backends of up to 1000 endpoints: every backend's
// share and the refused share are within MaxShareError of exact, and exact where
// the Ladder holds the common denominator (with RefusedDraws, as exact as those); a
// weight > 0 gets at least one slot; endpoints of one backend differ by at most one
// slot. Never more than MaxSlots. Draining and Lingering are of no account.
//
// With ClientHash previous is of no account, as other nodes have another one: see
// clientSlots, and docs/design/0002 for the bounds.
func NewLayout(f *Frontend, previous []Slot) Layout {
	var live []*Backend
	var liveWeight, refusedWeight int64
	for i := range f.Backends {
		switch b := &f.Backends[i]; {
		case b.Weight == 0:
		case len(b.Endpoints) == 0:
			refusedWeight += int64(b.Weight)
		default:
			live = append(live, b)
			liveWeight += int64(b.Weight)
		}
	}
	if len(live) == 0 {
		return Layout{}
	}
	shares := make([]share, 0, len(live)+1)
	for _, b := range live {
		shares = append(shares, share{weight: int64(b.Weight), parts: int64(len(b.Endpoints))})
	}
	layout := Layout{}
	if refusedWeight > 0 {
		if f.Select != Random {
			total := liveWeight + refusedWeight
			layout.RefusedDraws = uint32((refusedWeight*DrawRange + total/2) / total)
		} else {
			shares = append(shares, share{weight: refusedWeight, parts: 1})
		}
	}
	if f.Select == ClientHash {
		layout.Slots = clientSlots(live, shares)
		return layout
	}
	n := slotCount(shares)
	counts, _ := apportion(shares, n) // slotCount returns only rungs that apportion accepts
	layout.Slots = place(live, counts, n, previous)
	return layout
}

// holder identifies who holds a slot across two Layouts; the zero holder refuses.
type holder struct {
	ref  string
	addr netip.AddrPort
}

func (s Slot) holder() holder {
	if s.Refused() {
		return holder{}
	}
	return holder{s.Backend.Ref, s.Endpoint.Addr}
}

// place gives every backend's endpoints, and the refused share (counts beyond
// live), their number of slots, keeping as much of previous as possible.
func place(live []*Backend, counts []int64, n int, previous []Slot) []Slot {
	previous = previous[:min(len(previous), n)]
	held := make(map[holder]int64, len(previous))
	for _, slot := range previous {
		held[slot.holder()]++
	}
	type quota struct {
		slot Slot
		left int64
	}
	var order []holder
	quotas := make(map[holder]*quota, n)
	add := func(slot Slot, count int64) {
		if count == 0 {
			return
		}
		h := slot.holder()
		if q := quotas[h]; q != nil {
			q.left += count
			return
		}
		quotas[h] = &quota{slot, count}
		order = append(order, h)
	}
	for i, b := range live {
		for j, count := range split(b, counts[i], held) {
			add(Slot{b, &b.Endpoints[j]}, count)
		}
	}
	if len(counts) > len(live) {
		add(Slot{}, counts[len(live)])
	}

	slots := make([]Slot, n)
	taken := make([]bool, n)
	for i, slot := range previous {
		if q := quotas[slot.holder()]; q != nil && q.left > 0 {
			slots[i], taken[i] = q.slot, true
			q.left--
		}
	}
	next := 0
	for i := range slots {
		if taken[i] {
			continue
		}
		for quotas[order[next]].left == 0 {
			next++
		}
		q := quotas[order[next]]
		slots[i] = q.slot
		q.left--
	}
	return slots
}

// split divides a backend's slots over its endpoints, equally but for one slot;
// those that hold more than the equal part already keep the odd slots.
func split(b *Backend, count int64, held map[holder]int64) []int64 {
	parts := int64(len(b.Endpoints))
	equal, odd := count/parts, count%parts
	counts := make([]int64, parts)
	for i := range counts {
		counts[i] = equal
	}
	for _, wantMore := range []bool{true, false} {
		for i := range b.Endpoints {
			if odd == 0 {
				return counts
			}
			more := held[holder{b.Ref, b.Endpoints[i].Addr}] > equal
			if more == wantMore && counts[i] == equal {
				counts[i]++
				odd--
			}
		}
	}
	return counts
}
