package traffic

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func subjectsNamed(names ...string) []*Loaded {
	var all []*Loaded
	for _, name := range names {
		all = append(all, &Loaded{Subject: Subject{Name: name}})
	}
	return all
}

// TestComparisonGoesOn: a subject that fails is out, and the others have all their turns.
func TestComparisonGoesOn(t *testing.T) {
	const rounds, turns = 3, 5
	c := NewComparison(subjectsNamed("a", "b", "c", "d"))
	c.Fail(3, &Unavailable{"there is no d"})
	calls := make([]int, 4)
	series, err := c.Measure(rounds, turns, 2, func(i int) ([]float64, error) {
		calls[i]++
		if i == 1 && calls[i] == 7 {
			return nil, errors.New("broken\npipe")
		}
		return []float64{float64(i), float64(-i)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{rounds * turns, 7, rounds * turns, 0}; !slices.Equal(calls, want) {
		t.Errorf("%v calls, want %v", calls, want)
	}
	if diff := cmp.Diff([]float64{2, 2, 2}, series[0].Medians(2)); diff != "" {
		t.Errorf("medians (-want +got):\n%s", diff)
	}
	if got := series[1][2]; len(got) != rounds || len(got[0]) != turns || got[0][0] != -2 {
		t.Errorf("the second measure of c: %v", got)
	}
	if c.find("c") != 2 || c.find("b") != -1 || c.find("e") != -1 {
		t.Errorf("c is at %d, b at %d, e at %d", c.find("c"), c.find("b"), c.find("e"))
	}
	sentences, failure := c.LeftOut("bulk")
	if diff := cmp.Diff([]string{"bulk: b is left out: broken; pipe", "bulk: d is left out: there is no d"}, sentences); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if got := fmt.Sprint(failure); got != "bulk: b is left out: broken; pipe" {
		t.Errorf("failure: %s", got)
	}
}

// TestRatios are paired by turn: a disturbance that lasts for a turn is not seen in them,
// though it is in the ratio of the medians.
func TestRatios(t *testing.T) {
	s := Series{{{10, 100, 30}, {8, 8, 8}}, {{5, 50, 10}, {4, 8, 16}}}
	if diff := cmp.Diff([]float64{2, 1}, s.Ratios(0, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{30, 8}, s.Medians(0)); diff != "" {
		t.Errorf("medians (-want +got):\n%s", diff)
	}
}

// TestAnotherRound: only if it ends in time, and not more than wanted.
func TestAnotherRound(t *testing.T) {
	for _, test := range []struct {
		took         time.Duration
		rounds, want int
		fits         bool
	}{
		{10 * time.Second, 1, 3, true},
		{40 * time.Second, 1, 3, false},
		{45 * time.Second, 2, 3, false},
		{30 * time.Second, 2, 3, true},
		{10 * time.Second, 3, 3, false},
	} {
		if got := fits(time.Now().Add(-test.took), test.rounds, test.want, time.Minute); got != test.fits {
			t.Errorf("after %d rounds in %s: %t, want %t", test.rounds, test.took, got, test.fits)
		}
	}
	s := Series(nil).and(Series{{{1}}, {{2}}}).and(Series{{{3}}, {{4}}})
	if diff := cmp.Diff([]float64{2, 4}, s.Medians(1)); diff != "" {
		t.Errorf("two rounds (-want +got):\n%s", diff)
	}
}
