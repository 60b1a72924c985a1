package nftables

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/portway-dev/portway/rules"
)

// packet walks the table as the kernel does, with the listener's element from one
// generation and everything behind it from a later one.
type generation struct {
	listener, drawn chainID
	slots           map[slotKey]rules.Slot
}

// slotKey is a slot of a listener in a map.
type slotKey struct {
	width width
	n     uint32
}

func keyOf(o op) slotKey {
	if o.set.kind() == kindWideSlots {
		return slotKey{wide, o.n}
	}
	return slotKey{narrow, o.n}
}

func generationOf(p *program) generation {
	g := generation{slots: make(map[slotKey]rules.Slot)}
	if p == nil {
		return g
	}
	g.listener, g.drawn = p.listener, p.drawn
	for w, slots := range p.slots {
		for i, slot := range slots {
			if !slot.Refused() {
				g.slots[slotKey{width(w), uint32(i)}] = slot
			}
		}
	}
	return g
}

// after applies operations as one batch: deletions first, each of what is there,
// then additions, each of what is not.
func (g generation) after(t *testing.T, ops []op) generation {
	t.Helper()
	g.slots = maps.Clone(g.slots)
	for _, del := range []bool{true, false} {
		for _, o := range ops {
			if o.del != del {
				continue
			}
			switch o.set.kind() {
			case kindSlots, kindWideSlots:
				if _, there := g.slots[keyOf(o)]; there != del {
					t.Fatalf("%s: there is one: %t", o, there)
				}
				if g.slots[keyOf(o)] = o.slot; del {
					delete(g.slots, keyOf(o))
				}
			case kindListeners:
				if (g.listener != chainNone) != del {
					t.Fatalf("%s: listener leads to %q", o, g.listener)
				}
				g.listener = o.to
			case kindDrawn:
				if (g.drawn != chainNone) != del {
					t.Fatalf("%s: drawn leads to %q", o, g.drawn)
				}
				g.drawn = o.to
			default: // no packet goes elsewhere for it
			}
		}
	}
	return g
}

// slotsOf is what slots a packet picks from that read its listener's element in
// generation g and everything else in generation later; none when it is refused.
func (g generation) slotsOf(later generation) (w width, n int) {
	chain := g.listener
	if chain == chainDraw {
		chain = later.drawn
	}
	switch {
	case chain == chainClient:
		return wide, rules.ClientSlots
	case chain < chainRung:
		return narrow, 0
	}
	n = rungs[(chain-chainRung)/2]
	return widthOf(n), n
}

// A packet on its way while an update commits may have read the old listener and
// read the new slots. It must find an endpoint that is wanted now.
func TestPacketsInFlightFindAnEndpoint(t *testing.T) {
	w := newWorld(11)
	k := key("192.0.2.1 tcp 80")
	var was *program
	widened, narrowed := 0, 0
	for round := range 3000 {
		w.clients = round%100 < 10
		k.Protocol = rules.TCP
		if w.IntN(2) == 0 {
			k.Protocol = rules.UDP // the same slots, another chain
		}
		var now *program
		if w.IntN(10) > 0 {
			now = compile(k, w.frontend(k), was.previous())
		}
		checkInFlight(t, newPlan(k, was, now))
		if t.Failed() {
			t.Fatalf("from %v\nto %v", was, now)
		}
		if was != nil && now != nil && len(was.slots[narrow]) > 0 && len(now.slots[wide]) > 0 {
			widened++
		}
		if was != nil && now != nil && len(was.slots[wide]) > 0 && len(now.slots[narrow]) > 0 {
			narrowed++
		}
		was = now
	}
	if widened < 50 || narrowed < 50 {
		t.Errorf("%d became wide and %d narrow, want 50 of each", widened, narrowed)
	}
}

func checkInFlight(t *testing.T, p *plan) {
	t.Helper()
	before := generationOf(p.was)
	slots := before.after(t, p.slots)
	switched := slots.after(t, p.switches)
	swept := switched.after(t, p.sweep)

	if kept := generationOf(p.kept); !sameGeneration(kept, switched) {
		t.Errorf("kept is %v, the kernel holds %v", kept, switched)
	}
	if want := generationOf(p.now); !sameGeneration(want, swept) {
		t.Errorf("wanted %v, the kernel holds %v", want, swept)
	}

	wanted := make(map[netip.AddrPort]bool)
	refuses := make(map[slotKey]bool) // slots that the new program refuses on purpose
	if p.now != nil {
		for w, slots := range p.now.slots {
			for i, slot := range slots {
				if slot.Refused() {
					refuses[slotKey{width(w), uint32(i)}] = true
					continue
				}
				wanted[slot.Endpoint.Addr] = true
			}
		}
	}
	// In one batch and, where buffers are small, in two.
	for _, view := range []struct {
		name           string
		reads, follows generation
	}{
		{"old listener, new slots", before, slots},
		{"old listener, all new", before, switched},
		{"new listener, all new", switched, switched},
		{"new listener, swept", switched, swept},
	} {
		w, n := view.reads.slotsOf(view.follows)
		for i := range uint32(n) {
			i := slotKey{w, i}
			slot, there := view.follows.slots[i]
			_, was := before.slots[i]
			switch {
			case !there && was && !refuses[i] && len(wanted) > 0:
				t.Errorf("%s: slot %v refuses", view.name, i)
			case there && !wanted[slot.Endpoint.Addr] && len(wanted) > 0:
				t.Errorf("%s: slot %v leads to %s, which is gone", view.name, i, slot.Endpoint.Addr)
			}
		}
		if view.reads.listener == chainDraw && view.follows.drawn == chainNone {
			t.Errorf("%s: nothing drawn", view.name)
		}
	}
}

func sameGeneration(a, b generation) bool {
	return a.listener == b.listener && a.drawn == b.drawn && maps.EqualFunc(a.slots, b.slots, sameElement)
}

func TestShorten(t *testing.T) {
	for _, text := range []string{
		"", "ns/gw/listener ns/route", strings.Repeat("x", maxComment),
		strings.Repeat("x", maxComment+1), strings.Repeat("é", 200), "quote\" back\\slash \n\x7f \xff",
	} {
		got := shorten(text)
		if len(got) > maxComment || !utf8.ValidString(got) || strings.ContainsAny(got, "\"\\\n\x7f") {
			t.Errorf("shorten(%q) = %q", text, got)
		}
		if len(text) <= maxComment && utf8.ValidString(text) && !strings.ContainsAny(text, "\"\\\n\x7f") && got != text {
			t.Errorf("shorten(%q) = %q", text, got)
		}
	}
	long := strings.Repeat("a", 100) + strings.Repeat("b", 100)
	other := strings.Repeat("a", 101) + strings.Repeat("b", 99)
	if shorten(long) == shorten(other) {
		t.Errorf("two texts have the comment %q", shorten(long))
	}
}
