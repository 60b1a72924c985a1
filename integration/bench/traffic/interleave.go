package traffic

import (
	"math/rand/v2"
	"runtime"
	"runtime/debug"
)

// Interleave takes turns: in each, once measures every one of n subjects, in an order drawn
// anew, so that what else goes on in the machine meets all of them alike and none always
// has the same one's caches before it. It draws other orders each time it is called, so that a
// round is not as the round before. It returns what once returned by subject and turn.
// There is no garbage collection meanwhile.
func Interleave(n, turns int, once func(subject int) (float64, error)) ([][]float64, error) {
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	took := make([][]float64, n)
	for range turns {
		for _, subject := range rand.Perm(n) {
			value, err := once(subject)
			if err != nil {
				return nil, err
			}
			took[subject] = append(took[subject], value)
		}
	}
	return took, nil
}

// paired is the median of what a function makes of two subjects' values of the same turn.
func paired(a, b []float64, of func(a, b float64) float64) float64 {
	values := make([]float64, len(a))
	for i := range a {
		values[i] = of(a[i], b[i])
	}
	return median(values)
}
