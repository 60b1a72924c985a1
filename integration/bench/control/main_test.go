package control

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/internal/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

// measures skips a test unless figures are asked for: BENCH is set, if only to nothing.
func measures(t *testing.T) {
	t.Helper()
	_, asked := os.LookupEnv("BENCH")
	if !asked && os.Getenv(figure.File) == "" {
		t.Skipf("a measurement: neither BENCH nor %s is set", figure.File)
	}
	netns.Require(t)
}

// effort picks by $BENCH.
func effort[T any](quick, normal, full T) T {
	switch os.Getenv("BENCH") {
	case "quick":
		return quick
	case "full":
		return full
	default:
		return normal
	}
}

// record completes a figure of ours and appends it.
func record(t *testing.T, f figure.Figure) {
	t.Helper()
	f.Subject = figure.Ours
	f.Command = "BENCH=" + os.Getenv("BENCH") + " go test ./integration/bench/control -run '^" + t.Name() + "$' -count 1 -v -timeout 0"
	t.Logf("%s (%d x %d): median %.4g %s of %d (%.4g to %.4g)%s", f.Name, f.Listeners, f.Endpoints,
		f.Median(), f.Unit, len(f.Values), slices.Min(f.Values), slices.Max(f.Values), wanted(f.Aim))
	if err := f.Record(); err != nil {
		t.Fatal(err)
	}
}

// wanted is an aim in words.
func wanted(a *figure.Aim) string {
	var out string
	if a != nil && a.Min != nil {
		out += fmt.Sprintf(", aim at least %g", *a.Min)
	}
	if a != nil && a.Max != nil {
		out += fmt.Sprintf(", aim at most %g", *a.Max)
	}
	return out
}

// seconds makes values of durations.
func seconds(all []time.Duration) []float64 {
	values := make([]float64, len(all))
	for i, d := range all {
		values[i] = d.Seconds()
	}
	return values
}

// quantile of durations, q from 0 to 1.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// until polls a condition.
func until(t *testing.T, what string, patience time.Duration, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
