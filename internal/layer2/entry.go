package layer2

import (
	"net/netip"
	"time"
)

// stage is where an entry is in its course:
//
//	           ┌── claimed ──► conflicted ──┐
//	probing ───┤◄────────── Recheck ────────┘
//	   ▲       └── silence ──► announcing ──► verifying ─┐
//	   │                           ▲                     │ claimed once
//	   │                           └─────────────────────┤
//	   └── (Recheck) ── conflicted ◄── claimed twice ────┘
type stage int

const (
	probing stage = iota
	announcing
	verifying
	conflicted
)

// entry is one address that is to be answered for.
type entry struct {
	address netip.Addr
	want    Address
	links   []*link // of the links last read
	status  Status
	stage   stage
	sent    int // rounds of the stage
	// checked: probes have been sent since the last announcement, and nothing is known
	// against it.
	checked bool
	claim   Stranger // the last one

	due   time.Time
	index int // in the agenda; -1: not on it
}

// on reports whether the entry is answered on an interface.
func (e *entry) on(index int) bool {
	for _, l := range e.links {
		if l.index == index {
			return true
		}
	}
	return false
}

func (e *entry) become(s State, now time.Time) {
	if e.status.State != s {
		e.status.State, e.status.Since = s, now
	}
}

// round is what an entry sends now.
type round struct {
	probe, request, reply bool
}

func (r round) frames() int {
	n := 0
	for _, b := range []bool{r.probe, r.request, r.reply} {
		if b {
			n++
		}
	}
	return n
}

// advance does one step. It returns what to send and when the next step is due.
func (e *entry) advance(c *Config, vary func(time.Duration) time.Duration, now time.Time) (round, time.Time) {
	switch e.stage {
	case conflicted:
		e.stage, e.sent = probing, 0
		return e.advance(c, vary, now)
	case probing:
		if e.sent < c.Probes {
			e.sent++
			wait := c.ProbeInterval
			if e.sent == c.Probes {
				wait = c.ProbeWait
			}
			return round{probe: true}, now.Add(wait)
		}
		e.status.Stranger = nil
		e.stage, e.sent, e.checked = announcing, 0, true
		return e.advance(c, vary, now)
	case announcing:
		return e.announce(c, vary, now)
	default: // verifying
		if e.status.Stranger != nil && now.Sub(e.claim.Seen) >= c.DefendInterval {
			e.status.Stranger = nil // it said so once and no more
		}
		return round{probe: true}, now.Add(vary(c.Verify))
	}
}

// announce sends the first announcement in one form, and 100 ms later in the other:
// with many addresses, one frame reaches the caches for each before the second does.
func (e *entry) announce(c *Config, vary func(time.Duration) time.Duration, now time.Time) (round, time.Time) {
	e.become(Answering, now)
	r := round{request: true, reply: e.address.Is4()}
	switch e.sent {
	case 0:
		r.reply = false
	case 1:
		r.request = false
		// Taken over without a probe, or claimed: who has it answers this.
		r.probe, e.checked = !e.checked, true
	}
	if e.sent < len(c.Announcements) {
		due := now.Add(c.Announcements[e.sent])
		e.sent++
		return r, due
	}
	e.stage = verifying
	if e.status.Stranger != nil {
		return r, now.Add(c.DefendInterval)
	}
	return r, now.Add(vary(c.Verify))
}

// sameClaim is how long after a claim the same one may be heard on another interface: where
// two are on one segment each frame is, as soon as somebody reads it.
const sameClaim = 100 * time.Millisecond

// repeats reports whether a claim is the last one, heard on another interface. A stranger
// who answers a probe of each is found all the same: of what he says next, one part comes
// by the interface of the last claim.
func (e *entry) repeats(s Stranger) bool {
	return s.MAC == e.claim.MAC && s.Interface != e.claim.Interface && s.Seen.Sub(e.claim.Seen) < sameClaim
}

// stranger is who is told of when there is another claim. In a conflict he stays the same, on
// the same interface, until he was not heard in two looks: where several claim the
// address, or one does on several interfaces, each look hears another one last.
func (e *entry) stranger(c *Config, s Stranger) *Stranger {
	kept := e.status.Stranger
	switch {
	case e.status.State != Conflict || kept == nil:
		return &s
	case s.MAC == kept.MAC:
		return &Stranger{MAC: kept.MAC, Interface: kept.Interface, Seen: s.Seen}
	case s.Seen.Sub(kept.Seen) > 2*c.Recheck:
		return &s
	}
	return kept
}

// strike is what a stranger's claim does to an entry; it reports whether the address
// is given up for it now.
func (e *entry) strike(c *Config, vary func(time.Duration) time.Duration, s Stranger) (due time.Time, lost bool) {
	first := e.claim.Seen.IsZero() || s.Seen.Sub(e.claim.Seen) > c.DefendInterval
	e.claim, e.status.Stranger = s, e.stranger(c, s)
	if e.stage != probing && e.stage != conflicted && first {
		e.stage, e.sent, e.checked = announcing, 0, false
		return s.Seen, false
	}
	lost = e.status.State != Conflict
	e.become(Conflict, s.Seen)
	if e.stage == conflicted {
		return e.due, lost
	}
	e.stage = conflicted
	return s.Seen.Add(vary(c.Recheck)), lost
}
