package nftables

import (
	"slices"

	"github.com/portway-dev/portway/rules"
)

// plan replaces the program of one Frontend.
type plan struct {
	key rules.FrontendKey
	// was is what the kernel holds, nil when nothing; now is what it is to hold,
	// nil when nothing.
	was, now *program

	// A packet on its way looks up the listener first and the slot later. The
	// generation of the ruleset only moves forward between the two, so it may meet
	// the old listener and the new slots, never the reverse. Hence the order:

	// slots are added, replaced or, as a share to refuse, deleted. Those beyond
	// the new slot count stay, but none leads to an endpoint that is gone.
	slots []op
	// switches are the listener's own elements.
	switches []op
	// sweep deletes, in a later commit, what only the old listener led to.
	sweep []op

	// kept is what the kernel holds after slots and switches, before sweep: now, if
	// there is nothing to sweep.
	kept *program
}

// nothing is the program of a Frontend the kernel knows nothing of.
var nothing = &program{}

func newPlan(key rules.FrontendKey, was, now *program) *plan {
	p := &plan{key: key, was: was, now: now}
	from, to := was, now
	if from == nil {
		from = nothing
	}
	if to == nil {
		to = nothing
	}
	var tails [widths][]rules.Slot
	wants := to.wants()
	for w := range widths {
		tails[w] = p.diffSlots(w, from, to, wants)
	}
	p.diffSwitches(from, to)
	if p.kept = now; len(p.sweep) > 0 {
		p.keep(from, to, tails)
	}
	return p
}

func (p *plan) set(s setID) setID { return s.of(p.key.Addr.Is6()) }

// diffSlots compares the slots of one width. It returns what becomes of those beyond the
// new slot count, which are all where that is of the other width.
func (p *plan) diffSlots(w width, from, to *program, wants func(rules.Slot) bool) (tail []rules.Slot) {
	old, slots := from.slots[w], to.slots[w]
	p.slotRoom(old, slots)
	for i, now := range slots {
		var was rules.Slot
		if i < len(old) {
			was = old[i]
		}
		p.replaceSlot(w, i, was, now)
	}
	for i := len(slots); i < len(old); i++ {
		slot := old[i]
		if !slot.Refused() {
			// With nothing left to lead to, the old endpoints stay until the
			// listener is gone or refuses.
			if live, ok := to.live(i); ok && !wants(slot) {
				p.replaceSlot(w, i, slot, live)
				slot = live
			}
			p.sweep = append(p.sweep, op{set: p.set(w.slots()), del: true, key: &p.key, n: uint32(i)})
		}
		tail = append(tail, slot)
	}
	return tail
}

// slotRoom avoids to grow the list of a Frontend that is new.
func (p *plan) slotRoom(old, slots []rules.Slot) {
	if len(old) == 0 && len(slots) > 0 {
		p.slots = slices.Grow(p.slots, len(slots))
	}
}

// keep records what is there besides the new program until it is swept.
func (p *plan) keep(from, to *program, tails [widths][]rules.Slot) {
	kept := *to
	for w, tail := range tails {
		kept.slots[w] = slices.Concat(to.slots[w], tail)
	}
	if kept.drawn == chainNone {
		kept.drawn = from.drawn
	}
	if kept.refused == 0 {
		kept.refused = from.refused
	}
	p.kept = &kept
}

func (p *plan) replaceSlot(w width, i int, was, now rules.Slot) {
	if sameElement(was, now) {
		return
	}
	if !was.Refused() {
		p.slots = append(p.slots, op{set: p.set(w.slots()), del: true, key: &p.key, n: uint32(i)})
	}
	if !now.Refused() {
		p.slots = append(p.slots, op{set: p.set(w.slots()), key: &p.key, n: uint32(i), slot: now})
	}
}

// diffSwitches orders the elements so that none leads to one that is not there:
// refused and drawn come before the listener that leads to them, and go after it.
func (p *plan) diffSwitches(from, to *program) {
	renamed := from.comment != to.comment
	change := func(s setID, was, now op, had, has, same bool) {
		was.set, was.del, was.key = p.set(s), true, &p.key
		now.set, now.key, now.comment = p.set(s), &p.key, to.comment
		switch {
		case had && has && same && !renamed:
		case had && has:
			p.switches = append(p.switches, was, now)
		case has:
			p.switches = append(p.switches, now)
		case had && s == listeners4:
			p.switches = append(p.switches, was)
		case had:
			p.sweep = append(p.sweep, was)
		}
	}
	change(refused4, op{n: from.refused}, op{n: to.refused},
		from.refused > 0, to.refused > 0, from.refused == to.refused)
	change(drawn4, op{}, op{to: to.drawn},
		from.drawn != chainNone, to.drawn != chainNone, from.drawn == to.drawn)
	change(listeners4, op{}, op{to: to.listener},
		from.listener != chainNone, to.listener != chainNone, from.listener == to.listener)
}
