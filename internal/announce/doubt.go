package announce

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

// doubt is whether a member that is silent is gone. Its port may be closed by a
// firewall, or it may have been too busy to answer members, while it goes on answering
// the network. So it is asked the way clients do, for some of its addresses, before
// anybody takes them over.
type doubt struct {
	since time.Time // when it was lost
	asked bool      // it has been, at least once
	over  bool      // it is gone
}

const (
	// askFor is how long a silent member has to answer; it takes the share of the time
	// in which another node is to answer that this second opinion is worth.
	askFor   = 150 * time.Millisecond
	askAgain = time.Second
	askAbout = 3 // addresses of each; of many that are silent at once, one
	atOnce   = 3
)

// stillThere returns the members that are alive, and those of the silent ones of which
// it is not known that they are gone.
func (a *Announcer) stillThere(ctx context.Context, working *sync.WaitGroup, alive []string, records map[string]*owner.Record) []string {
	lost := a.members.Lost()
	a.mu.Lock()
	defer a.mu.Unlock()
	for node, d := range a.doubts {
		if since, still := lost[node]; !still || since != d.since {
			delete(a.doubts, node) // it is back, or was lost again
		}
	}
	out := slices.Clone(alive)
	for node, since := range lost {
		d := a.doubts[node]
		if d == nil {
			d = &doubt{since: since}
			a.doubts[node] = d
			about := a.sample(records[node])
			if len(lost) > atOnce {
				about = about[:min(len(about), 1)]
			}
			d.over = len(about) == 0
			if !d.over {
				working.Go(func() { a.ask(ctx, node, d, about, records[node].MACs) })
			}
		}
		if !d.over && !slices.Contains(out, node) {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

// sample picks addresses that a member has answered for, and that are in reach.
func (a *Announcer) sample(r *owner.Record) []layer2.Reach {
	if r == nil || len(r.MACs) == 0 {
		return nil
	}
	var list []netip.Addr
	for _, c := range r.Claims {
		_, desired := a.course.addresses[c.Address]
		if desired && c.Phase == owner.Answering && a.course.missing[c.Address] == "" {
			list = append(list, c.Address)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	var about []layer2.Reach
	for _, address := range list[:min(len(list), askAbout)] {
		about = append(about, layer2.Reach{Address: address, Interfaces: a.course.addresses[address].Interfaces})
	}
	return about
}

// ask asks until there is no answer any more, or the doubt is settled otherwise.
func (a *Announcer) ask(ctx context.Context, node string, d *doubt, about []layer2.Reach, macs [][6]byte) {
	for {
		answers := a.responder.Query(ctx, about, askFor)
		there := false
		for _, heard := range answers {
			there = there || slices.ContainsFunc(heard, func(m layer2.MAC) bool { return slices.Contains(macs, [6]byte(m)) })
		}
		if there {
			a.members.Noticed(node)
		}
		a.mu.Lock()
		if there && !d.asked {
			a.counters.Silent++
		}
		d.asked, d.over = true, !there
		settled := a.doubts[node] != d || d.over || ctx.Err() != nil
		a.mu.Unlock()
		signal(a.wake)
		if settled || !pause(ctx, askAgain) {
			return
		}
	}
}

// pause waits; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
