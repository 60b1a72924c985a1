package main

import (
	"fmt"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// A verdict is what a figure says of an aim.
type verdict int

const (
	unasked verdict = iota
	met
	missed
	undecided // the interval has the aim within it
	unmeasured
)

// judge says whether the aim is met: by the whole interval where there is one, else by the median,
// which is also what a figure has that is a bound itself.
func judge(f figure.Figure, a *figure.Aim) verdict {
	e := estimated(f.Values)
	if !e.bounded || strings.HasSuffix(f.Name, " bound") {
		e.low, e.high = e.median, e.median
	}
	switch {
	case a == nil:
		return unasked
	case len(f.Values) == 0:
		return unmeasured
	case a.Met(e.low) && a.Met(e.high):
		return met
	case a.Min != nil && e.high < *a.Min, a.Max != nil && e.low > *a.Max:
		return missed
	}
	return undecided
}

// write is the verdict on a figure in plain words; what people must explain leads there.
func (v verdict) write(name string) string {
	switch v {
	case met:
		return "met"
	case missed:
		return fmt.Sprintf("**MISSED** ([why](%s#%s))", explanations, anchor(name))
	case undecided:
		return "not decided"
	case unmeasured:
		return fmt.Sprintf("not measured ([why](%s#%s))", explanations, anchor(name+notMeasured))
	default:
		return ""
	}
}

// notMeasured ends the heading of why a figure is not there.
const notMeasured = ": not measured"
