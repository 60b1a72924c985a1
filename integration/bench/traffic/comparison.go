package traffic

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Comparison measures subjects in turns. One that fails is out of it from then on: nothing
// that was measured of it counts, and the others go on.
type Comparison struct {
	All    []*Loaded
	failed []error // by subject
}

// NewComparison has all subjects in.
func NewComparison(all []*Loaded) *Comparison {
	return &Comparison{All: all, failed: make([]error, len(all))}
}

// In says whether a subject has not failed.
func (c *Comparison) In(i int) bool { return c.failed[i] == nil }

// Fail takes a subject out, unless there is no error.
func (c *Comparison) Fail(i int, err error) {
	if err != nil && c.failed[i] == nil {
		c.failed[i] = err
	}
}

// Each does something with every subject that is in.
func (c *Comparison) Each(do func(i int) error) {
	for i := range c.All {
		if c.In(i) {
			c.Fail(i, do(i))
		}
	}
}

// Series are the values of one measure by subject, round and turn.
type Series [][][]float64

// Measure lets every subject that is in have its turn, in an order drawn anew in each, and
// returns Series of as many measures as once returns values.
func (c *Comparison) Measure(rounds, turns, measures int, once func(i int) ([]float64, error)) ([]Series, error) {
	all := make([]Series, measures)
	for m := range all {
		all[m] = make(Series, len(c.All))
		for i := range c.All {
			all[m][i] = make([][]float64, rounds)
		}
	}
	for round := range rounds {
		if _, err := Interleave(len(c.All), turns, func(i int) (float64, error) {
			if !c.In(i) {
				return 0, nil
			}
			values, err := once(i)
			if err != nil {
				c.Fail(i, err)
				return 0, nil
			}
			for m := range all {
				all[m][i][round] = append(all[m][i][round], values[m])
			}
			return 0, nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// and appends the rounds of another measurement of the same subjects.
func (s Series) and(more Series) Series {
	if s == nil {
		return more
	}
	for i := range s {
		s[i] = append(s[i], more[i]...)
	}
	return s
}

// fits says whether there is to be another round after so many since begin: until there are as
// many as wanted, if the next one, taking as long as those before, ends within the limit.
func fits(begin time.Time, rounds, want int, limit time.Duration) bool {
	took := time.Since(begin)
	return rounds < want && took+took/time.Duration(rounds) <= limit
}

// Medians are a subject's, of each round over its turns.
func (s Series) Medians(i int) []float64 {
	out := make([]float64, len(s[i]))
	for round, turns := range s[i] {
		out[round] = median(turns)
	}
	return out
}

// Ratios are of each round the median over its turns of a subject's value by another's in the
// same turn: what disturbs the machine for longer than a turn meets both.
func (s Series) Ratios(i, by int) []float64 {
	out := make([]float64, len(s[i]))
	for round := range s[i] {
		out[round] = paired(s[i][round], s[by][round], func(a, b float64) float64 { return a / b })
	}
	return out
}

// find returns where a subject is that is in, or -1.
func (c *Comparison) find(name string) int {
	for i, l := range c.All {
		if l.Name == name && c.In(i) {
			return i
		}
	}
	return -1
}

// LeftOut are sentences about the subjects that are out, each in a line of its own, and what of
// that is a failure; that a machine lacks what a subject needs is none.
func (c *Comparison) LeftOut(measurement string) (sentences []string, failure error) {
	for i, err := range c.failed {
		if err == nil {
			continue
		}
		line := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
		sentence := fmt.Sprintf("%s: %s is left out: %s", measurement, c.All[i].Name, line)
		sentences = append(sentences, sentence)
		if missing := (*Unavailable)(nil); !errors.As(err, &missing) {
			failure = errors.Join(failure, errors.New(sentence))
		}
	}
	return sentences, failure
}
