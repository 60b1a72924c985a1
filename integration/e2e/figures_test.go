package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/lab"
)

// TestBench prints the figures of docs/benchmarks/cluster.md: hack/bench-cluster.sh.
func TestBench(t *testing.T) {
	if os.Getenv(figuresFile) == "" {
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

// figuresFile names the file that figures are appended to.
const figuresFile = "E2E_BENCH"

// figure logs one, and appends it as a row of a table to the file of the benchmark.
func figure(t *testing.T, name, value, aim string) {
	t.Helper()
	t.Logf("%s: %s (aim: %s)", name, value, aim)
	file := os.Getenv(figuresFile)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = fmt.Fprintf(f, "| %s | %s | %s |\n", name, value, aim); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// limits are of percentiles of a duration; zero: none.
type limits struct{ p50, p99, slowest time.Duration }

// within reports durations and fails the test if they are longer than they may be.
func within(t *testing.T, name string, took []time.Duration, l limits) {
	t.Helper()
	slices.Sort(took)
	var values, aims []string
	for _, p := range []struct {
		name       string
		got, limit time.Duration
	}{
		{"p50", took[len(took)/2], l.p50}, {"p99", took[len(took)*99/100], l.p99}, {"max", took[len(took)-1], l.slowest},
	} {
		values = append(values, fmt.Sprintf("%s %s", p.name, p.got.Round(time.Millisecond)))
		if p.limit == 0 {
			continue
		}
		aims = append(aims, fmt.Sprintf("%s ≤ %s", p.name, p.limit))
		if p.got > p.limit {
			t.Errorf("%s: %s is %s, more than %s", name, p.name, p.got, p.limit)
		}
	}
	figure(t, name, fmt.Sprintf("%s (of %d)", strings.Join(values, ", "), len(took)), strings.Join(aims, ", "))
}
