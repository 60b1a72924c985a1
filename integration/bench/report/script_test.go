package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Programs that hack/bench.sh finds instead of the real ones.
const (
	// fakeGo builds the report that is there already, and measures nothing.
	fakeGo = `#!/usr/bin/env bash
case "$*" in
*" build "*) cp "$REPORT" "$5" ;;
test*NewFlow*)
	echo "kube-proxy: Kubernetes v1.2.3"
	echo "haproxy is left out: it is not installed"
	[[ -z ${FAIL:-} ]]
	;;
esac
`
	fakeGit  = "#!/bin/sh\necho \"$COMMIT\"\n"
	fakeDeps = "#!/bin/sh\nif [ -n \"$MISSING\" ]; then echo Installing >&2; echo \"Missing: nginx.\" >&2; exit 1; fi\n"
)

// TestScript: hack/bench.sh measures whatever is missing, and writes docs/benchmarks only after
// a whole run, as root and of a commit, in which no part failed.
func TestScript(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a run that is not root is not published")
	}
	report := filepath.Join(t.TempDir(), "report")
	if out, err := exec.Command("go", "build", "-o", report, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script, err := os.ReadFile(root + "/hack/bench.sh")
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		Exit            int
		Published       bool // docs/benchmarks is of this run
		Failed, LeftOut []string
		Parts           int
		KubeProxy       string
		Said            bool // that docs/benchmarks stays
	}
	haproxy := "haproxy is left out: it is not installed"
	for name, test := range map[string]struct {
		env  []string
		want outcome
	}{
		"whole":   {nil, outcome{Published: true, Parts: 4, KubeProxy: "1.2.3", LeftOut: []string{haproxy}}},
		"failed":  {[]string{"FAIL=1"}, outcome{Exit: 1, Parts: 4, KubeProxy: "1.2.3", LeftOut: []string{haproxy}, Failed: []string{"new-flow"}, Said: true}},
		"dirty":   {[]string{"COMMIT=abc-dirty"}, outcome{Exit: 1, Parts: 4, KubeProxy: "1.2.3", LeftOut: []string{haproxy}, Said: true}},
		"quick":   {[]string{"BENCH=quick"}, outcome{Parts: 4, KubeProxy: "1.2.3", LeftOut: []string{haproxy}}},
		"a part":  {[]string{"BENCH_PARTS=go"}, outcome{Parts: 1}},
		"a peer":  {[]string{"MISSING=1"}, outcome{Published: true, Parts: 4, KubeProxy: "1.2.3", LeftOut: []string{"Not everything that is measured or compared with could be installed: Missing: nginx.", haproxy}}},
		"neither": {[]string{"BENCH=slow"}, outcome{Exit: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{
				"hack/bench.sh": string(script), "hack/deps.sh": fakeDeps, "programs/go": fakeGo, "programs/git": fakeGit,
				"docs/benchmarks/results.json": "{}", "docs/benchmarks/method.md": "",
			})
			for _, program := range []string{"hack/bench.sh", "hack/deps.sh", "programs/go", "programs/git"} {
				if err := os.Chmod(filepath.Join(dir, program), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(filepath.Join(dir, "hack/bench.sh"))
			cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "programs")+":"+os.Getenv("PATH"), "REPORT="+report, "COMMIT=abc", "BENCH=", "BENCH_PARTS=")
			cmd.Env = append(cmd.Env, test.env...)
			said, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			got := outcome{Exit: cmd.ProcessState.ExitCode(), Said: strings.Contains(string(said), "docs/benchmarks stays as it was")}
			docs, err := read(filepath.Join(dir, "docs/benchmarks/results.json"))
			if err != nil {
				t.Fatal(err)
			}
			got.Published = docs.Bench != nil
			made, err := read(filepath.Join(dir, "out/bench/results.json"))
			if err != nil {
				t.Fatal(err)
			}
			if made.Bench != nil {
				got.Failed, got.LeftOut, got.Parts, got.KubeProxy = made.Bench.Failed, made.Bench.LeftOut, len(made.Bench.Parts), made.Bench.Environment.KubeProxy
				slices.Sort(got.LeftOut)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("hack/bench.sh (-want +got):\n%s%s", diff, said)
			}
		})
	}
}

// TestClusterScript: hack/bench-cluster.sh publishes a run of a commit and says what it leaves unexplained; of a tree with
// changes it says before it measures that nothing will be published.
func TestClusterScript(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a run that is not root is not published")
	}
	report := filepath.Join(t.TempDir(), "report")
	if out, err := exec.Command("go", "build", "-o", report, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script, err := os.ReadFile(root + "/hack/bench-cluster.sh")
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		Exit                        int
		Published, Warned, Measured bool
		Unexplained                 bool // said
	}
	for name, test := range map[string]struct {
		env  []string
		want outcome
	}{
		"whole":       {nil, outcome{Published: true, Measured: true, Unexplained: true}},
		"dirty":       {[]string{"COMMIT=abc-dirty"}, outcome{Exit: 1, Warned: true, Measured: true}},
		"dirty quick": {[]string{"COMMIT=abc-dirty", "BENCH=quick"}, outcome{Measured: true}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{
				"hack/bench-cluster.sh": string(script), "programs/go": fakeGo + "[[ $1 != test ]] || echo measured\n", "programs/git": fakeGit,
				"docs/benchmarks/results.json": "{}", "docs/benchmarks/method.md": "", "integration/e2e/go.mod": "",
			})
			for _, program := range []string{"hack/bench-cluster.sh", "programs/go", "programs/git"} {
				if err := os.Chmod(filepath.Join(dir, program), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(filepath.Join(dir, "hack/bench-cluster.sh"))
			cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "programs")+":"+os.Getenv("PATH"), "REPORT="+report, "COMMIT=abc", "BENCH=")
			cmd.Env = append(cmd.Env, test.env...)
			text, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			docs, err := read(filepath.Join(dir, "docs/benchmarks/results.json"))
			if err != nil {
				t.Fatal(err)
			}
			before, _, measured := strings.Cut(string(text), "measured\n")
			got := outcome{
				Exit: cmd.ProcessState.ExitCode(), Published: docs.Cluster != nil, Measured: measured,
				Warned: strings.Contains(before, "docs/benchmarks will stay"), Unexplained: strings.Contains(string(text), "no heading"),
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("hack/bench-cluster.sh (-want +got):\n%s%s", diff, text)
			}
		})
	}
}
