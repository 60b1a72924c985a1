package netns_test

import (
	"fmt"
	"testing"

	"github.com/portway-dev/portway/internal/netns"
)

// refused and silent stand in shares for flows that no server answered.
const (
	refused = "(refused)"
	silent  = "(silent)"
)

// chiSquareLimit is the value that a right distribution exceeds once in a million
// tests, per degree of freedom (1, 2, …).
var chiSquareLimit = []float64{23.928, 27.631, 30.665, 33.377, 35.888, 38.258}

// checkShares returns an error when the counts are not those of the given
// weights, or when anybody else was counted.
func checkShares(tally netns.Tally, weights map[string]float64) error {
	counts := map[string]int{}
	for name, n := range tally.Answers {
		counts[name] = n
	}
	if tally.Refused > 0 {
		counts[refused] = tally.Refused
	}
	if tally.Silent > 0 {
		counts[silent] = tally.Silent
	}
	for name := range counts {
		if weights[name] == 0 {
			return fmt.Errorf("%s must get nothing: %s", name, tally)
		}
	}
	total := 0.0
	for _, weight := range weights {
		total += weight
	}
	chiSquare := 0.0
	for name, weight := range weights {
		want := float64(tally.Total()) * weight / total
		if want < 10 {
			return fmt.Errorf("%d flows are too few to judge the share of %s", tally.Total(), name)
		}
		gap := float64(counts[name]) - want
		chiSquare += gap * gap / want
	}
	if freedom := len(weights) - 1; freedom > 0 && chiSquare > chiSquareLimit[freedom-1] {
		return fmt.Errorf("χ² = %.1f > %.1f: %s, want shares %v", chiSquare, chiSquareLimit[freedom-1], tally, weights)
	}
	return nil
}

func TestCheckSharesTellsWeightsApart(t *testing.T) {
	nineToOne := map[string]float64{"a": 90, "b": 10}
	for _, c := range []struct {
		name  string
		tally netns.Tally
		want  map[string]float64
		ok    bool
	}{
		{"exact", netns.Tally{Answers: map[string]int{"a": 1800, "b": 200}}, nineToOne, true},
		{"three standard deviations off", netns.Tally{Answers: map[string]int{"a": 1760, "b": 240}}, nineToOne, true},
		{"85 to 15", netns.Tally{Answers: map[string]int{"a": 1700, "b": 300}}, nineToOne, false},
		{"one gets nothing", netns.Tally{Answers: map[string]int{"a": 2000}}, nineToOne, false},
		{"a stranger", netns.Tally{Answers: map[string]int{"a": 1800, "b": 200, "c": 1}}, nineToOne, false},
		{"one refused", netns.Tally{Answers: map[string]int{"a": 1800, "b": 200}, Refused: 1}, nineToOne, false},
		{
			"refused share",
			netns.Tally{Answers: map[string]int{"a": 1500}, Refused: 500},
			map[string]float64{"a": 3, refused: 1},
			true,
		},
		{
			"silent instead of refused",
			netns.Tally{Answers: map[string]int{"a": 1500}, Silent: 500},
			map[string]float64{"a": 3, refused: 1},
			false,
		},
	} {
		if err := checkShares(c.tally, c.want); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
