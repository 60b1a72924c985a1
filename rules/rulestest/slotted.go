package rulestest

import (
	"math/big"

	"github.com/portway-dev/portway/rules"
)

// Slotted is a Decision with the shares that come of slots: a part is refused first, and
// what is left draws one of the slots, of which an empty one refuses, too.
func Slotted(d rules.Decision, refused *big.Rat, slots []rules.Slot) rules.Decision {
	if len(slots) == 0 {
		return d
	}
	held := make(map[rules.Outcome]int64)
	for _, slot := range slots {
		var o rules.Outcome
		if !slot.Refused() {
			o.Endpoint = slot.Endpoint.Addr
		}
		held[o]++
	}
	one := new(big.Rat).Sub(big.NewRat(1, 1), refused)
	one.Quo(one, big.NewRat(int64(len(slots)), 1))
	var outcomes []rules.Outcome
	for _, o := range d.Outcomes {
		o.Share = new(big.Rat).Mul(one, big.NewRat(held[rules.Outcome{Endpoint: o.Endpoint}], 1))
		if o.Refused() {
			o.Share.Add(o.Share, refused)
		}
		if o.Share.Sign() > 0 {
			outcomes = append(outcomes, o)
		}
	}
	d.Outcomes = outcomes
	return d
}

// InLayout is a Decision with the shares of its Frontend's Layout, exactly.
func InLayout(d rules.Decision) rules.Decision {
	if d.Frontend == nil {
		return d
	}
	l := rules.NewLayout(d.Frontend, nil)
	return Slotted(d, big.NewRat(int64(l.RefusedDraws), rules.DrawRange), l.Slots)
}

// SlotBound returns how far the shares of a Decision may be off where slots make them, as
// docs/design/0002 has it:
//
//   - not at all where the common denominator of all shares divides a rung of the ladder;
//   - otherwise by rules.MaxShareError for the refused share, and for each backendRef that
//     an endpoint is of by its part of that and one slot;
//   - where the refused share is drawn first, as with hashes, by half a draw of
//     rules.DrawRange, and by nothing if that can express it; what it leaves over may be
//     off by no more for it.
//
// How many clients an endpoint has with ClientHash is not bounded: see InLayout.
func SlotBound(d rules.Decision) func(rules.Outcome) *big.Rat {
	f := d.Frontend
	if f == nil {
		return Exactly
	}
	live, refused := int64(0), int64(0)
	for _, b := range f.Backends {
		if len(b.Endpoints) == 0 {
			refused += int64(b.Weight)
		} else {
			live += int64(b.Weight)
		}
	}
	if live == 0 {
		return Exactly
	}
	draw := new(big.Rat)
	if f.Select != rules.Random {
		if rules.DrawRange*refused%(live+refused) != 0 {
			draw = big.NewRat(1, 2*rules.DrawRange)
		}
		refused = 0 // of the slots
	}
	exact, slots := expressible(f, refused, live+refused), int64(len(rules.NewLayout(f, nil).Slots))
	return func(o rules.Outcome) *big.Rat {
		bound := new(big.Rat).Set(draw)
		switch {
		case f.Select == rules.ClientHash && !o.Refused():
			return big.NewRat(1, 1)
		case exact || f.Select == rules.ClientHash:
			return bound
		case o.Refused() && f.Select == rules.Random:
			return bound.Add(bound, maxShareError)
		}
		for _, b := range f.Backends {
			for _, e := range b.Endpoints {
				if b.Weight > 0 && e.Addr == o.Endpoint {
					part := new(big.Rat).Quo(maxShareError, big.NewRat(int64(len(b.Endpoints)), 1))
					bound.Add(bound, part.Add(part, big.NewRat(1, slots)))
				}
			}
		}
		return bound
	}
}

var maxShareError = big.NewRat(1, 1/rules.MaxShareError)

// expressible reports whether some number of slots of the ladder makes every share exact.
func expressible(f *rules.Frontend, refused, total int64) bool {
	shares := []*big.Rat{big.NewRat(refused, total)}
	for _, b := range f.Backends {
		if parts := int64(len(b.Endpoints)); parts > 0 {
			shares = append(shares, big.NewRat(int64(b.Weight), total*parts))
		}
	}
	for _, n := range rules.Ladder() {
		whole := true
		for _, share := range shares {
			whole = whole && new(big.Rat).Mul(share, big.NewRat(int64(n), 1)).IsInt()
		}
		if whole {
			return true
		}
	}
	return false
}
