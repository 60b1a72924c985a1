package rulestest

import (
	"errors"
	"fmt"
	"math/big"

	"github.com/portway-dev/portway/rules"
)

// Fate is all that can become of a new flow, with exact probabilities.
type Fate struct {
	Outcomes map[rules.Outcome]*big.Rat // by outcome, whose Share is nil
	Passed   *big.Rat                   // as if there were no rules
}

// NewFate returns one in which nothing happens yet.
func NewFate() *Fate {
	return &Fate{Outcomes: make(map[rules.Outcome]*big.Rat), Passed: new(big.Rat)}
}

// Add has a flow that began with a packet end in a leaf. How a packet leaves a hook that
// neither passes nor refuses it is an error.
func (f *Fate) Add(first Packet, l Leaf) error {
	var o rules.Outcome
	switch {
	case l.Verdict == Refusal(first.Protocol):
	case l.Verdict != Accepted:
		return fmt.Errorf("%+v", l)
	case l.Packet == first:
		f.Passed.Add(f.Passed, l.Probability)
		return nil
	default:
		o = rules.Outcome{Endpoint: l.Dst, Masquerade: l.Masqueraded}
	}
	if f.Outcomes[o] == nil {
		f.Outcomes[o] = new(big.Rat)
	}
	f.Outcomes[o].Add(f.Outcomes[o], l.Probability)
	return nil
}

// Check compares with what a State demands, of which each share may differ by a bound. An
// outcome with a larger share than that is there, and no other one than demanded.
func (f *Fate) Check(want rules.Decision, bound func(rules.Outcome) *big.Rat) error {
	if want.Frontend == nil {
		if len(f.Outcomes) > 0 || f.Passed.Cmp(big.NewRat(1, 1)) != 0 {
			return fmt.Errorf("is not ours and leads to %v, %s passed", f.Outcomes, f.Passed.FloatString(12))
		}
		return nil
	}
	var errs []error
	if f.Passed.Sign() != 0 {
		errs = append(errs, fmt.Errorf("%s passed", f.Passed.FloatString(12)))
	}
	there := 0
	for _, o := range want.Outcomes {
		share := f.Outcomes[rules.Outcome{Endpoint: o.Endpoint, Masquerade: o.Masquerade}]
		if share == nil {
			share = new(big.Rat)
		} else {
			there++
		}
		off := new(big.Rat).Sub(share, o.Share)
		if limit := bound(o); off.Abs(off).Cmp(limit) > 0 {
			errs = append(errs, fmt.Errorf("leads to %s, masqueraded %t, with %s, want %s within %s",
				o.Endpoint, o.Masquerade, share.FloatString(12), o.Share.FloatString(12), limit.FloatString(12)))
		}
	}
	if there != len(f.Outcomes) {
		errs = append(errs, errors.New("leads where it must not"))
	}
	if len(errs) > 0 {
		errs = append(errs, fmt.Errorf("leads to %v, want %v", f.Outcomes, want.Outcomes))
	}
	return errors.Join(errs...)
}

// Exactly is a bound that allows nothing.
func Exactly(rules.Outcome) *big.Rat { return new(big.Rat) }
