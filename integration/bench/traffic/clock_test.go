package traffic

import "testing"

// startClock pins the goroutine that calls it until the same one calls what is returned.
func startClock(tb testing.TB) (clock *Clock, closeClock func()) {
	tb.Helper()
	clock, err := NewClock()
	if err != nil {
		tb.Fatal(err)
	}
	return clock, func() {
		if err := clock.Close(); err != nil {
			tb.Error(err)
		}
	}
}
