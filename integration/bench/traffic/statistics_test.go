package traffic

import (
	"errors"
	"math"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

func TestUpper(t *testing.T) {
	nine := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, test := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"one value bounds nothing", []float64{1}, math.Inf(1)},
		{"equal values are their own bound", []float64{2, 2, 2}, 2},
		{"two values", []float64{1, 3}, 2 + 6.314*math.Sqrt2/math.Sqrt2},
		{"nine values", nine, 5 + 1.860*math.Sqrt(7.5/9)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := upper(test.values); got != test.want && math.Abs(got-test.want) > 1e-9 {
				t.Errorf("got %g, want %g", got, test.want)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	values := []float64{9, 1, 5, 3}
	if got := median(values); got != 4 {
		t.Errorf("got %g, want 4", got)
	}
	if values[0] != 9 {
		t.Errorf("the values were sorted: %v", values)
	}
	// The median of differences, not the difference of medians.
	less := func(a, b float64) float64 { return a - b }
	if got := paired([]float64{10, 2, 30}, []float64{9, 0, 0}, less); got != 2 {
		t.Errorf("difference: got %g, want 2", got)
	}
}

// TestInterleave: everyone is measured once a turn, and not always in the same order: neither
// in the turns of a round nor in two rounds.
func TestInterleave(t *testing.T) {
	const n, turns = 4, 50
	var order []int
	round := func() []int {
		order = nil
		took, err := Interleave(n, turns, func(subject int) (float64, error) {
			order = append(order, subject)
			return float64(subject), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for subject, values := range took {
			if len(values) != turns || values[turns-1] != float64(subject) {
				t.Errorf("subject %d has %d values, the last %g", subject, len(values), values[len(values)-1])
			}
		}
		return order
	}
	first, second := round(), round()
	firsts := map[int]bool{}
	for turn := range turns {
		if got := slices.Sorted(slices.Values(first[turn*n : turn*n+n])); !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Errorf("turn %d has %v", turn, got)
		}
		firsts[first[turn*n]] = true
	}
	if len(firsts) != n {
		t.Errorf("only %v ever came first", firsts)
	}
	if slices.Equal(first, second) {
		t.Error("two rounds have the same order")
	}
	failure := errors.New("failure")
	if _, err := Interleave(n, turns, func(int) (float64, error) { return 0, failure }); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
}

// TestDestinations: flows go to all listeners and to all endpoints, at every size.
func TestDestinations(t *testing.T) {
	for _, size := range []Size{{1, 1}, {10, 10}, {1000, 10}, {10, 100}} {
		listeners, ends := map[string]bool{}, map[string]bool{}
		for n := range 2 * size.Listeners * size.Endpoints {
			listeners[size.destination(n, size.Listeners, false).String()] = true
			ends[size.destination(n, size.Listeners, true).String()] = true
		}
		if len(listeners) != size.Listeners || len(ends) != min(pods, size.Listeners*size.Endpoints) {
			t.Errorf("%s: %d listeners and %d endpoints", size, len(listeners), len(ends))
		}
	}
}

// TestClockStandsStill: it counts the thread's own time, and none in which it sleeps.
func TestClockStandsStill(t *testing.T) {
	netns.Require(t)
	clock, closeClock := startClock(t)
	defer closeClock()
	cost := func(do func(int) error) float64 {
		t.Helper()
		ns, err := clock.per(1, nil, do)
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	slept := cost(func(int) error { return unix.Nanosleep(&unix.Timespec{Nsec: 200e6}, nil) })
	worked := cost(func(int) error {
		var now unix.Timespec
		for begin := int64(0); now.Nano() < begin+50e6; {
			if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
				return err
			}
			if begin == 0 {
				begin = now.Nano()
			}
		}
		return nil
	})
	// ksoftirqd, which counts, may have work of others meanwhile.
	if slept > 100e6 || worked < 49e6 {
		t.Errorf("200 ms of sleep took %g ns, 50 ms of work %g", slept, worked)
	}
}

// TestCounters counts what every machine can count; what hardware does is the same.
func TestCounters(t *testing.T) {
	clock, closeClock := startClock(t)
	defer closeClock()
	c := &Counters{}
	if err := c.open(clock.CPU, unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CPU_CLOCK); err != nil {
		t.Skipf("perf_event_open: %v", err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	events, sums := map[string]map[string][]float64{}, []uint64(nil)
	for range 2 {
		if err := c.during(&sums, func() error { return unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil) }); err != nil {
			t.Fatal(err)
		}
	}
	c.note(events, "any", sums, 10)
	if got := events[hardwareEvents[0]]["any"]; len(got) != 1 || got[0] < 4e6 {
		t.Errorf("40 ms of a processor's clock, over 10 flows: %v", got)
	}
}
