package traffic

import (
	"math"
	"slices"
)

// median of the values, which stay as they are; of an even number the mean of the two in
// the middle.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// student are the 95 % quantiles of Student's t distribution for 1, 2 … degrees of freedom.
var student = []float64{
	6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
	1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
}

// upper is the 95 % confidence bound from above of the mean of which the values are
// samples: Student's t, one-sided. Of one value it is infinite.
func upper(values []float64) float64 {
	n := float64(len(values))
	if n < 2 {
		return math.Inf(1)
	}
	mean, squares := 0.0, 0.0
	for _, v := range values {
		mean += v / n
	}
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	t := student[min(len(values)-2, len(student)-1)]
	return mean + t*math.Sqrt(squares/(n-1)/n)
}
