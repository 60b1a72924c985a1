package rules

import (
	"encoding/binary"
	"hash/fnv"
	"math"
)

// ClientSlots is the number of slots of every ClientHash Frontend, whatever its
// number of endpoints: with another number nearly every client would move. The
// smallest power of two that keeps what a change moves beyond its share well below
// 2 % (docs/design/0002). It and the constants of seed decide which client gets which
// endpoint: nodes that differ in them disagree.
const ClientSlots = 4096

// An endpoint may have up to 1/8 more slots than its equal part, but at most 1/200 of
// all (at few endpoints 1/8 would be much): without room beyond the equal part the
// slots of an endpoint that goes would push others from their places.
const (
	clientSlack    = 8
	clientMaxSlack = ClientSlots / 200
)

// clientSlots gives each slot the endpoint that scores highest for it and has room
// (rendezvous hashing with bounded loads): first the backends, with exactly the slots
// of their weights, then within each backend its endpoints. The result depends on
// nothing but backends, weights and addresses.
func clientSlots(live []*Backend, shares []share) []Slot {
	backends := make([]member, len(live))
	counts := divide(shares, ClientSlots)
	for i, b := range live {
		h := fnv.New64a()
		_, _ = h.Write([]byte(b.Ref)) // never fails
		room := int(counts[i])
		backends[i] = member{seed: scramble(h.Sum64()), weight: float64(b.Weight), room: room, held: make([]claim, 0, room)}
	}
	all := make([]int32, ClientSlots)
	for i := range all {
		all[i] = int32(i)
	}
	assign(all, backends)

	slots := make([]Slot, ClientSlots)
	for i, b := range live {
		parts, held := len(b.Endpoints), len(backends[i].held)
		room := min(ceil(held*(clientSlack+1), parts*clientSlack), ceil(held, parts)+clientMaxSlack)
		endpoints := make([]member, parts)
		claims := make([]claim, room*parts)
		for j := range endpoints {
			endpoints[j] = member{seed: b.Endpoints[j].seed(), weight: 1, room: room, held: claims[j*room : j*room : (j+1)*room]}
		}
		assign(backends[i].slots(), endpoints)
		for j, e := range endpoints {
			for _, c := range e.held {
				slots[c.slot] = Slot{b, &b.Endpoints[j]}
			}
		}
	}
	return slots
}

func ceil(a, b int) int { return (a + b - 1) / b }

// member is a backend or an endpoint that slots are given to.
type member struct {
	seed   uint64
	weight float64
	room   int // for so many slots
	held   []claim
}

// claim is a member's score for a slot; the higher one has the better right.
type claim struct {
	slot   int32
	member int32
	score  uint64
}

func (m *member) slots() []int32 {
	slots := make([]int32, len(m.held))
	for i, c := range m.held {
		slots[i] = c.slot
	}
	return slots
}

// assign gives each slot to the member with the highest score for it that has no
// room full of higher scores of its own. That there is one such assignment, whatever
// the order, is Gale and Shapley (1962). The members need room for all slots.
func assign(slots []int32, members []member) {
	weighted := false
	for i := range members {
		weighted = weighted || members[i].weight != members[0].weight
	}
	for _, slot := range slots {
		turned, out := claim{slot: slot, member: -1, score: math.MaxUint64}, true
		for out {
			c := choose(members, turned, weighted)
			turned, out = members[c.member].take(c)
		}
	}
}

// choose returns the highest claim to a slot behind the one that was turned down. Of
// equal scores, which only two members of one name have, the first comes first.
func choose(members []member, turned claim, weighted bool) claim {
	best := claim{slot: turned.slot, member: -1}
	seed := scramble(uint64(turned.slot) + 1)
	for i := range members {
		score := (seed ^ members[i].seed) * 0x9e3779b97f4a7c15
		if weighted {
			score = weightedScore(score, members[i].weight)
		}
		switch {
		case score <= best.score && best.member >= 0:
		case score > turned.score || score == turned.score && int32(i) <= turned.member:
		default:
			best.member, best.score = int32(i), score
		}
	}
	return best
}

// weightedScore makes the highest of several scores fall to each in proportion to its
// weight: the least of -ln(u)/weight for uniform u, whose bits are ordered as the
// numbers are (IEEE 754).
func weightedScore(score uint64, weight float64) uint64 {
	u := (float64(score>>11) + 0.5) / (1 << 53)
	return ^math.Float64bits(-math.Log(u) / weight)
}

// take keeps a claim if there is room or a lower claim, which is then out.
func (m *member) take(c claim) (turned claim, out bool) {
	if len(m.held) < m.room {
		m.held = append(m.held, c)
		return claim{}, false
	}
	least := 0
	for i := range m.held {
		if m.held[i].score < m.held[least].score {
			least = i
		}
	}
	if len(m.held) == 0 || m.held[least].score > c.score {
		return c, true
	}
	turned, m.held[least] = m.held[least], c
	return turned, true
}

// seed is the endpoint's own random number: the same on every node.
func (e *Endpoint) seed() uint64 {
	addr := e.Addr.Addr().As16()
	high, low := binary.BigEndian.Uint64(addr[:8]), binary.BigEndian.Uint64(addr[8:])
	return scramble(scramble(scramble(high)^low) ^ uint64(e.Addr.Port()))
}

// scramble is the finaliser of splitmix64: every bit decides about every bit.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
