package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/integration/lab"
)

// TestBench records the figures of docs/benchmarks/README.md, "In a cluster": hack/bench-cluster.sh.
func TestBench(t *testing.T) {
	if os.Getenv(figure.File) == "" {
		t.Skip("make bench-cluster measures this")
	}
	t.Run("latency", func(t *testing.T) {
		c := deployed(t, lab.CRDsStandard)
		for _, measure := range []func(*testing.T, *Cluster){endpointLatency, programmedLatency, freedPort} {
			measure(t, c)
		}
	})
	t.Run("cold-start", coldStarts)
	t.Run("fail-over", failOvers)
}

// record logs a figure and hands it to the report, if there is one to be: make bench-cluster.
// Aims are the test's to judge, as what is slower than they allow is a defect.
func record(t *testing.T, f figure.Figure) {
	t.Helper()
	f.Section, f.Subject, f.Command = figure.ControlPath, figure.Ours, "make bench-cluster"
	t.Logf("%s: %v %s %s", f.Name, f.Values, f.Unit, f.Note)
	if err := f.Record(); err != nil {
		t.Error(err)
	}
}

// limits are of percentiles of a duration; zero: none.
type limits struct{ p50, p99, slowest time.Duration }

// within reports durations and fails the test if they are longer than they may be.
func within(t *testing.T, name string, took []time.Duration, l limits) {
	t.Helper()
	slices.Sort(took)
	for _, p := range []struct {
		name       string
		got, limit time.Duration
	}{
		{"p50", took[len(took)/2], l.p50}, {"p99", took[len(took)*99/100], l.p99}, {"max", took[len(took)-1], l.slowest},
	} {
		f := figure.Figure{
			Name: name + ", " + p.name, Unit: "s", Values: []float64{p.got.Seconds()}, Note: fmt.Sprintf("Of %d.", len(took)),
		}
		if p.limit > 0 {
			f.Aim = figure.AtMost(p.limit.Seconds())
		}
		record(t, f)
		if p.limit > 0 && p.got > p.limit {
			t.Errorf("%s: %s is %s, more than %s", name, p.name, p.got, p.limit)
		}
	}
}
