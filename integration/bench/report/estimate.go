package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"

	"github.com/portway-dev/portway/integration/bench/figure"
)

const confidence = 0.95

// An estimate is the median of some rounds, and where the median of all rounds that could be
// made is.
type estimate struct {
	median float64
	// low and high are the interval that has it with a probability of 95 % or more, by order
	// statistics, whatever the distribution; bounded says whether there are enough rounds: six.
	low, high float64
	bounded   bool
}

func estimated(values []float64) estimate {
	thresholds := benchmath.DefaultThresholds
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(values), &thresholds), confidence)
	e := estimate{median: figure.Figure{Values: values}.Median()}
	if len(values) > 1 && !math.IsInf(s.Lo, 0) && !math.IsInf(s.Hi, 0) {
		e.low, e.high, e.bounded = s.Lo, s.Hi, true
	}
	return e
}

// inverse is that of b ÷ a where e is of a ÷ b: the same statement.
func (e estimate) inverse() estimate {
	out := estimate{median: 1 / e.median, bounded: e.bounded}
	if e.bounded {
		out.low, out.high = 1/e.high, 1/e.low
	}
	return out
}

// ratio writes the estimate of a ratio.
func (e estimate) ratio() string {
	out := digits(e.median, 3)
	if e.bounded {
		out += fmt.Sprintf(" (%s to %s)", digits(e.low, 3), digits(e.high, 3))
	}
	return out
}

// interval writes it, or nothing.
func (e estimate) interval(unit string, a *figure.Aim) string {
	if !e.bounded {
		return ""
	}
	return near(e.low, unit, a) + " to " + near(e.high, unit, a)
}

// ratioTo is in the name of a figure whose values are ratios turn by turn: before it is the
// name of what is compared, after it with whom.
const ratioTo = ": ratio to "

// besideOurs returns what a subject's figure is divided by ours: as it was recorded, turn by
// turn, or else by the round, of which byRound tells.
func (r *run) besideOurs(f figure.Figure) (e estimate, byRound, ok bool) {
	if f.Subject == figure.Ours || strings.Contains(f.Name, ratioTo) {
		return estimate{}, false, false
	}
	for _, g := range r.Figures {
		switch {
		case g.Section != f.Section || g.Listeners != f.Listeners || g.Endpoints != f.Endpoints:
		case g.Name == f.Name+ratioTo+figure.Ours && g.Subject == f.Subject:
			return estimated(g.Values), false, true
		case g.Name == f.Name+ratioTo+f.Subject && g.Subject == figure.Ours:
			return estimated(g.Values).inverse(), false, true
		}
	}
	for _, g := range r.Figures {
		if g.Subject == figure.Ours && sameRounds(f, g) {
			quotients := make([]float64, 0, len(f.Values))
			for i, v := range f.Values {
				quotients = append(quotients, v/g.Values[i])
			}
			return estimated(quotients), true, true
		}
	}
	return estimate{}, false, false
}

// sameRounds says whether the values of one index are of one round, in which both took turns.
func sameRounds(f, g figure.Figure) bool {
	return f.Section == g.Section && f.Name == g.Name && f.Listeners == g.Listeners && f.Endpoints == g.Endpoints &&
		f.Unit == g.Unit && f.Command == g.Command && len(f.Values) == len(g.Values) && len(f.Values) > 1
}
