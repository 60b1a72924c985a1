package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// measured are figures for all aims but those that a function changes or leaves out: all met.
func measured(change func(*figure.Figure) bool) results {
	r := results{Bench: &run{}}
	for _, f := range aimed() {
		x := 0.0
		if f.Aim.Min != nil {
			x = *f.Aim.Min
		}
		f.Values = []float64{x}
		f.Command = "make bench"
		if change == nil || change(&f) {
			r.Bench.Figures = append(r.Bench.Figures, f)
		}
	}
	return r
}

// TestUnexplained: a missed aim and one that was not measured need a heading in the chapter that is
// theirs with a text, whose figures have a command; others need none, and have none unless they are not decided.
func TestUnexplained(t *testing.T) {
	const cold, idle, proxy = "cold load: time", "agent: CPU at rest", connect + ratioTo + figure.Ours
	r := measured(func(f *figure.Figure) bool {
		switch {
		case f.Name == cold:
			f.Values = []float64{2}
		case f.Name == connect+ratioTo+"kube-proxy nftables": // not decided
			f.Values = []float64{0.9, 0.9, 0.9, 0.9, 1.1, 1.1, 1.1, 1.1, 1.1}
		case f.Name == proxy && f.Subject == "haproxy" && f.Listeners == 1, f.Name == idle:
			return false
		}
		return true
	})
	explainedAll := "## Missed aims\n\nOf some run.\n\n### cold load: time\n\nIt is the kernel.\n\n" +
		"## Not measured\n\n### " + idle + notMeasured + "\n\nNobody was there.\n\n### " + proxy + notMeasured + "\n\nNo haproxy.\n"
	for name, test := range map[string]struct {
		page string
		want []string
	}{
		"all": {page: explainedAll},
		"nothing": {page: "# Method\n", want: []string{
			`no heading "cold load: time" below "Missed aims"`,
			`no heading "agent: CPU at rest: not measured" below "Not measured"`,
			`no heading "TCP connect, 1 byte, close: ratio to portway: not measured" below "Not measured"`,
		}},
		"elsewhere": {
			page: strings.Replace(explainedAll, "## Missed aims", "## Programming", 1),
			want: []string{`no heading "cold load: time" below "Missed aims"`},
		},
		"empty": {
			page: strings.Replace(explainedAll, "It is the kernel.", "", 1),
			want: []string{`nothing is said below "cold load: time"`},
		},
		"figures": {
			page: strings.Replace(explainedAll, "It is the kernel.", "1.49 s, of which the kernel has `most`.", 1),
			want: []string{`figures without a command below "cold load: time": those of this run are in README.md, others need what prints them`},
		},
		"not decided": {page: strings.Replace(explainedAll, "## Not", "### "+connect+ratioTo+kubeProxyNFT+"\n\nClose.\n\n## Not", 1)},
		"met": {
			page: strings.Replace(explainedAll, "## Not", "### "+memoryAtRest+"\n\nLarge.\n\n#### Of what\n\n## Not", 1),
			want: []string{`heading "agent: memory at rest" below "Missed aims": no aim of that name is missed any more; remove it with its text`},
		},
		"measured": {
			page: explainedAll + "\n### " + memoryAtRest + notMeasured + "\n\nNo.\n",
			want: []string{`heading "agent: memory at rest: not measured" below "Not measured": no figure of that name is missing any more; remove it with its text`},
		},
		"missed where it was not measured": {
			page: explainedAll + "\n### " + cold + notMeasured + "\n\nNo.\n",
			want: []string{`heading "cold load: time: not measured" below "Not measured": no figure of that name is missing any more; remove it with its text`},
		},
		"of another chapter":  {page: explainedAll + "\n## Notes\n\n### " + memoryAtRest + "\n\nSmall.\n"},
		"figures and command": {page: strings.Replace(explainedAll, "It is the kernel.", "The kernel has 1.05 s:\n\n    BENCH= go test ./x", 1)},
	} {
		page := filepath.Join(t.TempDir(), explanations)
		if err := os.WriteFile(page, []byte(test.page), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := r.unexplained(page)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		slices.Sort(test.want)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: unexplained (-want +got):\n%s", name, diff)
		}
	}
}

// TestUnexplainedSize: an aim that is missed at a size that the list does not have is not hidden.
func TestUnexplainedSize(t *testing.T) {
	r := measured(nil)
	r.Bench.Figures = append(r.Bench.Figures, figure.Figure{
		Section: figure.ControlPath, Name: "agent: memory at rest", Subject: figure.Ours, Unit: "B", Listeners: 7, Values: []float64{2}, Aim: figure.AtMost(1),
	})
	page := filepath.Join(t.TempDir(), explanations)
	if err := os.WriteFile(page, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := r.unexplained(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`no heading "agent: memory at rest" below "Missed aims"`}, got); diff != "" {
		t.Errorf("unexplained (-want +got):\n%s", diff)
	}
}

// TestFit: a run that was quick, of no commit, not root, failed or not whole is not published, and
// published results of one are not explained.
func TestFit(t *testing.T) {
	whole := environment{Commit: "abc"}
	for name, test := range map[string]struct {
		run  run
		want string // "": it is fit
	}{
		"whole":   {run{Environment: whole}, ""},
		"full":    {run{Environment: environment{Commit: "abc", Mode: "full"}}, ""},
		"quick":   {run{Environment: environment{Commit: "abc", Mode: "quick"}}, "it was quick"},
		"dirty":   {run{Environment: environment{Commit: "abc-dirty"}}, "abc-dirty"},
		"unknown": {run{Environment: environment{Commit: "unknown"}}, "unknown"},
		"user":    {run{Environment: environment{Commit: "abc", Unprivileged: true}}, "not root"},
		"failed":  {run{Environment: whole, Failed: []string{"go"}}, "part go failed"},
		"skipped": {run{Environment: whole, Skipped: []string{"control"}}, "part control was not asked for"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "results.json")
		r := measured(nil)
		test.run.Figures = r.Bench.Figures
		if err := (results{Bench: &test.run}).write(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, explanations), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		for command, err := range map[string]error{
			"fit": fit([]string{"-results", file}), "explained": explained([]string{"-results", file}),
		} {
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s, %s: %v, want an error with %q", name, command, err, test.want)
			}
		}
		if err := fit([]string{"-results", file, "-as", "cluster"}); err == nil {
			t.Errorf("%s: a run that nobody made is fit", name)
		}
	}
}
