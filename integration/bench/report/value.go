package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchmath"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// scale is how a unit is written: the value in base units has SI prefixes before the word.
type scale struct {
	base     float64 // of one unit of the figure
	word     string
	prefixes []prefix
}

type prefix struct {
	from float64 // the smallest value that has it
	mark string
}

var (
	small = []prefix{{1, ""}, {1e-3, "m"}, {1e-6, "µ"}, {0, "n"}}
	large = []prefix{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}, {0, ""}}
	sizes = []prefix{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {0, ""}}
)

var scales = map[string]scale{
	"ns":     {1e-9, "s", small},
	"s":      {1, "s", small},
	"sec/op": {1, "s", small},
	"B":      {1, "B", sizes},
	"B/op":   {1, "B", sizes},
	"B/s":    {1, "B/s", sizes},
	"1/s":    {1, "/s", large},
	"/s":     {1, "/s", large},
}

func scaleOf(unit string) scale {
	if s, ok := scales[unit]; ok {
		return s
	}
	return scale{1, unit, large}
}

// in writes a value with its unit, to three digits: 1.14 µs, 81.2 MB, 0.980, 1.20 M/s; of a count all.
func in(x float64, unit string) string {
	if unit == "" && x == math.Trunc(x) && math.Abs(x) >= 10 { // a count
		return thousands(int(x))
	}
	s := scaleOf(unit)
	x *= s.base
	at := slices.IndexFunc(s.prefixes, func(p prefix) bool { return math.Abs(x) >= p.from })
	p := s.prefixes[at]
	if x == 0 {
		p = prefix{1, ""}
	}
	return strings.TrimSpace(digits(x/factor(p.mark)) + " " + p.mark + s.word)
}

// plain writes a value that somebody chose: 600 ns, 0.97.
func plain(x float64, unit string) string {
	value, word, _ := strings.Cut(in(x, unit), " ")
	if strings.Contains(value, ".") {
		value = strings.TrimRight(strings.TrimRight(value, "0"), ".")
	}
	return strings.TrimSpace(value + " " + word)
}

func factor(mark string) float64 {
	return map[string]float64{"n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9}[mark]
}

// digits writes three digits, and all of those before the point.
func digits(x float64) string {
	if abs := math.Abs(x); abs >= 99.95 || abs == math.Trunc(abs) && abs >= 10 || abs == 0 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strings.TrimSuffix(fmt.Sprintf("%#.3g", x), ".")
}

// spread writes the smallest and the largest value, if there are two.
func spread(values []float64, unit string) string {
	if len(values) < 2 {
		return "once"
	}
	return in(slices.Min(values), unit) + " to " + in(slices.Max(values), unit)
}

const confidence = 0.95

// interval is where the median of all rounds that could be made is with a probability of
// 95 % or more, whatever their distribution; fewer than six rounds do not say.
func interval(values []float64) (low, high float64, ok bool) {
	thresholds := benchmath.DefaultThresholds
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(slices.Clone(values), &thresholds), confidence)
	return s.Lo, s.Hi, len(values) > 1 && !math.IsInf(s.Lo, 0) && !math.IsInf(s.Hi, 0)
}

// within writes the interval, or nothing.
func within(values []float64, unit string) string {
	low, high, ok := interval(values)
	if !ok {
		return ""
	}
	return in(low, unit) + " to " + in(high, unit)
}

// ratio is f ÷ by, round by round.
func ratio(f, by figure.Figure) []float64 {
	out := make([]float64, 0, len(f.Values))
	for i, v := range f.Values {
		out = append(out, v/by.Values[i])
	}
	return out
}

// compared writes how many times the one the other is.
func compared(values []float64) string {
	out := digits(figure.Figure{Values: values}.Median())
	if low, high, ok := interval(values); ok {
		out += fmt.Sprintf(" (%s to %s)", digits(low), digits(high))
	}
	return out
}

// aim writes what is wanted.
func aim(a *figure.Aim, unit string) string {
	var out []string
	if a != nil && a.Min != nil {
		out = append(out, "≥ "+plain(*a.Min, unit))
	}
	if a != nil && a.Max != nil {
		out = append(out, "≤ "+plain(*a.Max, unit))
	}
	return strings.Join(out, ", ")
}

// verdict of an aim in plain words; a missed one leads to its explanation.
func verdict(f figure.Figure) string {
	switch {
	case f.Aim == nil:
		return ""
	case f.Aim.Met(f.Median()):
		return "met"
	}
	return fmt.Sprintf("**MISSED** ([why](%s#%s))", explanations, anchor(f.Name))
}

// size writes listeners × endpoints.
func size(f figure.Figure) string {
	switch {
	case f.Listeners == 0 && f.Endpoints == 0:
		return ""
	case f.Endpoints == 0:
		return thousands(f.Listeners)
	}
	return thousands(f.Listeners) + " × " + thousands(f.Endpoints)
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	if n < 1000 {
		return s
	}
	return thousands(n/1000) + " " + s[len(s)-3:]
}
