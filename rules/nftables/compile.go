package nftables

import (
	"net/netip"

	"github.com/portway-dev/portway/rules"
)

type (
	endpointAddr = netip.Addr
	endpointPort = netip.AddrPort
)

// program is what the kernel holds, or is to hold, for one Frontend.
type program struct {
	listener chainID // where the listener's element leads; chainNone: no element
	drawn    chainID // where the drawn element leads; chainNone: no element
	refused  uint32  // of rules.DrawRange numbers, those that are dropped; 0: no element
	comment  string  // of these three elements
	// slots has an element for each slot that is not refused. A program read back
	// or half replaced may have more slots than its chain picks from, and some of the
	// other width.
	slots [widths][]rules.Slot
	// members are its elements of the sets that tell of endpoints, without duplicates;
	// once the kernel holds them for it they are in counted instead.
	members []member
	counted []memberID
	// adopted programs are read back from the kernel, which does not tell their members.
	adopted bool
}

// compile makes the program of a Frontend. previous are the slots that the kernel
// holds for it: the fewer of them move, the less is sent and the fewer new flows
// of a UDP client change their endpoint.
func compile(key rules.FrontendKey, f *rules.Frontend, previous []rules.Slot) *program {
	layout := rules.NewLayout(f, previous)
	p := &program{
		listener: chainRefuse,
		comment:  listenerComment(f.Owner),
		members:  membersOf(key, f),
	}
	if len(layout.Slots) == 0 {
		return p
	}
	p.slots[widthOf(len(layout.Slots))] = layout.Slots
	p.listener = slotChain(f.Select, len(layout.Slots))
	if layout.RefusedDraws > 0 {
		p.refused = layout.RefusedDraws
		p.listener, p.drawn = chainDraw, p.listener
	}
	return p
}

// serves reports whether there is a listener: whether the kernel holds the Frontend.
func (p *program) serves() bool { return p != nil && p.listener != chainNone }

// previous returns the slots that a new program is to keep, as far as it can.
func (p *program) previous() []rules.Slot {
	if p == nil {
		return nil
	}
	chain := p.listener
	if chain == chainDraw {
		chain = p.drawn
	}
	return p.slots[chain.width()]
}

// wants reports whether a slot of the old program leads to an endpoint that this
// program still has.
func (p *program) wants() func(rules.Slot) bool {
	var wanted map[endpointPort]bool
	return func(s rules.Slot) bool {
		if wanted == nil {
			wanted = make(map[endpointPort]bool, len(p.slots[narrow])+len(p.slots[wide]))
			for _, slots := range p.slots {
				for _, slot := range slots {
					if !slot.Refused() {
						wanted[slot.Endpoint.Addr] = true
					}
				}
			}
		}
		return wanted[s.Endpoint.Addr]
	}
}

// refuses reports whether all new flows are refused.
func (p *program) refuses() bool { return p.listener == chainRefuse }

// live returns a slot with an endpoint, at i or behind it.
func (p *program) live(i int) (rules.Slot, bool) {
	for _, slots := range p.slots {
		for range slots {
			i %= len(slots)
			if !slots[i].Refused() {
				return slots[i], true
			}
			i++
		}
	}
	return rules.Slot{}, false
}

// sameElement reports whether two slots are the same element of the kernel: the
// same endpoint and the same comment.
func sameElement(a, b rules.Slot) bool {
	switch {
	case a == b:
		return true
	case a.Refused() || b.Refused():
		return a.Refused() && b.Refused()
	case a.Endpoint.Addr != b.Endpoint.Addr:
		return false
	case a.Backend.Ref == b.Backend.Ref && a.Endpoint.Name == b.Endpoint.Name:
		return true
	}
	return slotComment(a) == slotComment(b)
}
