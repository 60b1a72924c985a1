package layer2

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// query collects who answers for some addresses.
type query struct {
	links map[netip.Addr][]*link
	macs  map[netip.Addr][]MAC
	due   time.Time
	left  int // rounds
}

// queryRounds, so that one lost frame changes no answer.
const queryRounds = 2

// Query asks who has the addresses, and returns the MACs of those who answer within a
// time, peers included. Run has to be running.
func (r *Responder) Query(ctx context.Context, addresses []Reach, wait time.Duration) map[netip.Addr][]MAC {
	q := &query{links: map[netip.Addr][]*link{}, macs: map[netip.Addr][]MAC{}, left: queryRounds}
	r.mu.Lock()
	for _, a := range addresses {
		q.links[a.Address] = r.links.of(a.Address, a.Interfaces)
		q.macs[a.Address] = nil
	}
	r.queries[q] = true
	r.dirty = true
	r.mu.Unlock()
	signal(r.wake)

	pause(ctx, wait)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.queries, q)
	r.dirty = true
	signal(r.wake)
	return q.macs
}

func (q *query) heard(m message) {
	macs, ok := q.macs[m.claims]
	if ok && !slices.Contains(macs, m.sender) {
		q.macs[m.claims] = append(macs, m.sender)
	}
}

// queryInterval is between the rounds.
const queryInterval = 50 * time.Millisecond

// askAll sends the probes of queries that are due and returns when the next are.
// They are few and urgent, and not subject to the pace.
func (r *Responder) askAll(now time.Time) time.Duration {
	next := lookAfter
	for q := range r.queries {
		if q.left > 0 && !q.due.After(now) {
			q.left--
			q.due = now.Add(queryInterval)
			for address, links := range q.links {
				for _, l := range links {
					if p := r.ports[l.index]; p != nil {
						r.transmit(p, address, probeFrame(l.mac, address))
						r.counters.Probes++
					}
				}
			}
		}
		if q.left > 0 {
			next = min(next, q.due.Sub(now))
		}
	}
	return next
}
