package rulestest

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/portway-dev/portway/rules"
)

// minExpected draws are the least that a cell of a chi-square test has.
const minExpected = 20

// implausible is the probability below which counts are not taken for chance. With cells
// as small as minExpected the test errs upwards, but less than one in 10⁸ of correct
// samples fails (a Poisson number of mean 20 that is above 51).
const implausible = 1e-12

// Plausible says why counts of outcomes are not what their shares, which add up to 1, make
// one expect: an outcome that has no share, or Pearson's chi-square test, with the rarest
// outcomes taken together.
func Plausible(counts map[rules.Outcome]int, shares map[rules.Outcome]*big.Rat) error {
	type cell struct{ seen, expected float64 }
	n := 0
	for o, seen := range counts {
		if n += seen; shares[o] == nil || shares[o].Sign() == 0 {
			return fmt.Errorf("%d times %s, masqueraded %t, which cannot be", seen, o.Endpoint, o.Masquerade)
		}
	}
	var all []cell
	for o, share := range shares {
		p, _ := share.Float64()
		all = append(all, cell{float64(counts[o]), p * float64(n)})
	}
	slices.SortFunc(all, func(a, b cell) int { return cmp.Compare(a.expected, b.expected) })
	var cells []cell
	for i, c := range all {
		if i > 0 && cells[len(cells)-1].expected < minExpected {
			last := &cells[len(cells)-1]
			last.seen, last.expected = last.seen+c.seen, last.expected+c.expected
		} else {
			cells = append(cells, c)
		}
	}
	square := 0.0
	for _, c := range cells {
		square += (c.seen - c.expected) * (c.seen - c.expected) / c.expected
	}
	if p := chiSquareTail(len(cells)-1, square); p < implausible {
		return fmt.Errorf("%v of %d, want shares of %v: plausible by %.2g", counts, n, shares, p)
	}
	return nil
}

// chiSquareTail is the probability that a chi-square variable of so many degrees of
// freedom is above x (Abramowitz and Stegun 26.4.4 and 26.4.5).
func chiSquareTail(freedom int, x float64) float64 {
	if freedom == 0 {
		return 1
	}
	tail, term, power := 0.0, math.Exp(-x/2), 0.0
	if freedom%2 == 1 {
		tail, power = math.Erfc(math.Sqrt(x/2)), 0.5
		term *= math.Sqrt(x/2) / math.Gamma(1.5)
	}
	for range freedom / 2 {
		tail += term
		power++
		term *= x / 2 / power
	}
	return tail
}
