package main

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/integration/bench/figure"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// page is the golden of README.md, whose links lead nowhere in testdata.
const page = "page.txt"

// testEnvironment is what begin printed on some machine.
const testEnvironment = "testdata/begun.json"

// TestRender: figures and benchmarks become results.json, and that the page and its plots.
func TestRender(t *testing.T) {
	golden := filepath.Join("testdata", "docs")
	to := t.TempDir()
	name := filepath.Join(to, "results.json")
	err := collect([]string{
		"-results", name, "-begun", testEnvironment, "-figures", "testdata/figures.jsonl", "-benchmarks", "testdata/bench.txt",
		"-failed", "control-path", "-left-out", "haproxy is not installed.", "-skipped", "established",
		"-part", "new-flow=539.5", "-part", "go=61", "-kube-proxy", "1.37.2",
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := read(name)
	if err != nil {
		t.Fatal(err)
	}
	steal := 0.0123 // and all else that is not the same everywhere
	r.Bench.Environment.LoadEnd, r.Bench.Environment.Seconds, r.Bench.Environment.Steal = "3.00 2.00 1.00", 612, &steal
	if err := r.write(name); err != nil {
		t.Fatal(err)
	}
	if err := render([]string{"-results", name, "-to", to}); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(golden, os.DirFS(to)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(golden, "README.md"), filepath.Join(golden, page)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(files(t, golden), files(t, to)); diff != "" {
		t.Errorf("rendered (-want +got); -update rewrites %s:\n%s", golden, diff)
	}
}

// TestRenderOrder: which part was the first does not show.
func TestRenderOrder(t *testing.T) {
	want := filepath.Join("testdata", "docs")
	to := t.TempDir()
	r, err := read(filepath.Join(want, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(r.Bench.Figures), func(i, j int) {
		r.Bench.Figures[i], r.Bench.Figures[j] = r.Bench.Figures[j], r.Bench.Figures[i]
	})
	name := filepath.Join(to, "results.json")
	if err := r.write(name); err != nil {
		t.Fatal(err)
	}
	if err := render([]string{"-results", name, "-to", to}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files(t, want), files(t, to)); diff != "" {
		t.Errorf("rendered of shuffled figures (-want +got):\n%s", diff)
	}
}

// TestRemovedPlot: a plot that no figure is left for is not left either.
func TestRemovedPlot(t *testing.T) {
	to := t.TempDir()
	for _, name := range []string{"old.svg", "method.md"} {
		if err := os.WriteFile(filepath.Join(to, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := render([]string{"-results", filepath.Join(to, "results.json"), "-to", to}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for name := range files(t, to) {
		got = append(got, name)
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"README.md", "method.md"}, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestCollect: a run replaces its own figures only.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	name, lines := filepath.Join(dir, "results.json"), filepath.Join(dir, "figures.jsonl")
	t.Setenv(figure.File, lines)
	for _, step := range []struct {
		as, figure string
	}{{"bench", "a"}, {"cluster", "b"}, {"bench", "c"}} {
		f := figure.Figure{Section: figure.ControlPath, Name: step.figure, Subject: figure.Ours, Unit: "s", Values: []float64{1}, Command: "make"}
		if err := os.RemoveAll(lines); err != nil {
			t.Fatal(err)
		}
		if err := f.Record(); err != nil {
			t.Fatal(err)
		}
		if err := collect([]string{"-results", name, "-as", step.as, "-begun", testEnvironment, "-figures", lines}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := read(name)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{"bench": r.Bench.Figures[0].Name, "cluster": r.Cluster.Figures[0].Name}
	if diff := cmp.Diff(map[string]string{"bench": "c", "cluster": "b"}, got); diff != "" || len(r.Bench.Figures) != 1 {
		t.Errorf("figures of runs (-want +got):\n%s", diff)
	}
	if err := collect([]string{"-results", name, "-as", "other", "-begun", testEnvironment}); err == nil || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("a run that is none: %v", err)
	}
}

// TestVariants: a variant of a subject stands behind it in tables, and in no plot.
func TestVariants(t *testing.T) {
	got := []string{"static dnat", "portway without filter chains", "somebody", "conntrack only, one endpoint", figure.Ours, "conntrack only", "portway, flowtable"}
	slices.SortFunc(got, compareSubjects)
	want := []string{
		figure.Ours, "portway without filter chains", "portway, flowtable", "conntrack only", "conntrack only, one endpoint", "static dnat", "somebody",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	c := chart{section: figure.NewFlow, names: []string{"a"}}
	for _, subject := range want {
		f := figure.Figure{Section: figure.NewFlow, Name: "a", Subject: subject}
		if got, want := c.wants(f), slices.Contains(subjects, subject); got != want {
			t.Errorf("a plot has %s: %v, want %v", subject, got, want)
		}
	}
}

func TestValues(t *testing.T) {
	for _, test := range []struct {
		x          float64
		unit       string
		in, chosen string
	}{
		{600, "ns", "600 ns", "600 ns"},
		{1100, "ns", "1.10 µs", "1.1 µs"},
		{0.9996, "", "1.00", "1"},
		{0.97, "", "0.970", "0.97"},
		{120e6, "B", "120 MB", "120 MB"},
		{0, "s", "0 s", "0 s"},
		{-3e-7, "s", "-300 ns", "-300 ns"},
		{0.005, "cores", "0.00500 cores", "0.005 cores"},
		{9500, "1/s", "9500 /s", "9500 /s"},
		{1234567, "1/s", "1.23 M/s", "1.23 M/s"},
		{2.5e9, "B/s", "2.50 GB/s", "2.5 GB/s"},
		{11001, "", "11 001", "11 001"},
		{1, "", "1.00", "1"},
		{110.3, "s", "110 s", "110 s"},
		{999.7, "ns", "1000 ns", "1000 ns"},
		{9999, "B/op", "10.0 kB", "10 kB"},
		{9999.4, "pp", "9999 pp", "9999 pp"},
		{12345.6, "s", "12 346 s", "12 346 s"},
		{-11001, "", "-11 001", "-11 001"},
		{2e13, "B", "20 000 GB", "20 000 GB"},
	} {
		if got := in(test.x, test.unit); got != test.in {
			t.Errorf("%v %s is written %q, want %q", test.x, test.unit, got, test.in)
		}
		if got := plain(test.x, test.unit); got != test.chosen {
			t.Errorf("%v %s as an aim is written %q, want %q", test.x, test.unit, got, test.chosen)
		}
	}
}

func TestAnchor(t *testing.T) {
	for heading, want := range map[string]string{
		"bulk ÷ conntrack only":         "bulk--conntrack-only",
		"UDP, every packet a new flow":  "udp-every-packet-a-new-flow",
		"one endpoint of 100 000, p99":  "one-endpoint-of-100-000-p99",
		"Gateway deleted → free":        "gateway-deleted--free",
		"1 000 changes/s: `lag`, cores": "1-000-changess-lag-cores",
	} {
		if got := anchor(heading); got != want {
			t.Errorf("anchor of %q is %q, want %q", heading, got, want)
		}
	}
}

// files of a directory, by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		name := e.Name()
		if name == page {
			name = "README.md"
		}
		out[name] = string(text)
	}
	return out
}
