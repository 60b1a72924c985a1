package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

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
func in(x float64, unit string) string { return precisely(x, unit, 3) }

// near is in beside an aim: with as many digits as it takes to tell the value from the aim.
func near(x float64, unit string, a *figure.Aim) string {
	n := 3
	for n < 7 && looksLike(x, a, n) {
		n++
	}
	return precisely(x, unit, n)
}

// looksLike says whether n digits of x are those of an aim that x is not.
func looksLike(x float64, a *figure.Aim, n int) bool {
	if a == nil {
		return false
	}
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', n, 64), 64)
	return err == nil && slices.ContainsFunc([]*float64{a.Min, a.Max}, func(end *float64) bool {
		return end != nil && x != *end && rounded == *end
	})
}

func precisely(x float64, unit string, n int) string {
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
	return strings.TrimSpace(digits(x/factor(p.mark), n) + " " + p.mark + s.word)
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

// digits writes n digits, and all of those before the point: of five and more in groups.
func digits(x float64, n int) string {
	if abs := math.Abs(x); abs >= math.Pow10(n)-0.5 || abs == math.Trunc(abs) && abs >= 10 || abs == 0 {
		if abs >= 9999.5 {
			return thousands(int(math.Round(x)))
		}
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strings.TrimSuffix(fmt.Sprintf("%#.*g", n, x), ".")
}

// spread writes the smallest and the largest value, if there are two.
func spread(values []float64, unit string) string {
	if len(values) < 2 {
		return "once"
	}
	return in(slices.Min(values), unit) + " to " + in(slices.Max(values), unit)
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
	if n < 0 {
		return "-" + thousands(-n)
	}
	s := strconv.Itoa(n)
	if n < 1000 {
		return s
	}
	return thousands(n/1000) + " " + s[len(s)-3:]
}
