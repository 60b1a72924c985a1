package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// root of the repository, and the published results in it.
const (
	root      = "../../.."
	published = root + "/docs/benchmarks/results.json"
)

// TestCommands: every command of the published figures measures when it is pasted into a shell
// in a clean clone, and prints what it measured.
func TestCommands(t *testing.T) {
	r, err := read(published)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.runs()) == 0 {
		t.Fatalf("no run in %s", published)
	}
	seen := map[string]bool{}
	for _, run := range r.runs() {
		for _, f := range run.Figures {
			if seen[f.Command] {
				continue
			}
			seen[f.Command] = true
			if err := measuring(f.Command); err != nil {
				t.Errorf("%s: %v", f.Command, err)
			}
		}
	}
}

// TestMeasuring: what a command may lack is found.
func TestMeasuring(t *testing.T) {
	for command, want := range map[string]string{
		"make bench-cluster": "",
		"make benchcluster":  "no target",
		"BENCH= go test ./integration/bench/control -run '^TestProgramming$' -count 1 -v -timeout 0":            "",
		"BENCH_FIGURES=f go test ./integration/bench/control -run '^TestProgramming$' -count 1 -v -timeout 0":   "",
		"go test ./integration/bench/control -run '^TestProgramming$' -count 1 -v -timeout 0":                   "BENCH",
		"BENCH= go test ./integration/bench/control -run '^TestProgramming$' -count 1 -timeout 0":               "-v",
		"BENCH= go test ./integration/bench/control -run '^TestProgramming$' -count 1 -v":                       "-timeout 0",
		"BENCH= go test ./integration/bench/control -run '^TestProgramming$' -v -timeout 0":                     "-count 1",
		"BENCH= go test ./integration/bench/control -run '^TestNothing$' -count 1 -v -timeout 0":                "no test",
		"BENCH= go test ./integration/bench/nowhere -run '^TestProgramming$' -count 1 -v -timeout 0":            "no such file",
		"go test -run '^$' -bench NewFlow -benchtime 1x -timeout 0 ./integration/bench/traffic":                 "",
		"go test -run '^$' -bench Nothing -benchtime 1x -timeout 0 ./integration/bench/traffic":                 "no benchmark",
		"go test -run '^$' -bench NewFlow/^1x1$ -benchtime 1x -timeout 0 ./integration/bench/traffic":           "",
		"BENCH=sometimes go test -run '^$' -bench NewFlow -benchtime 1x -timeout 0 ./integration/bench/traffic": "BENCH=sometimes",
		"go test -run '^$' -bench NewFlow -benchtime 1x -timeout 0":                                             "no package",
		"perf stat -e instructions": "neither",
	} {
		err := measuring(command)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want an error with %q", command, err, want)
		}
	}
}

var (
	assignment = regexp.MustCompile(`^([A-Z_]+)=(.*)$`)
	target     = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
)

// measuring returns what keeps a command from measuring.
func measuring(command string) error {
	words := strings.Fields(strings.ReplaceAll(command, "'", ""))
	set := map[string]string{}
	for len(words) > 0 && assignment.MatchString(words[0]) {
		parts := assignment.FindStringSubmatch(words[0])
		set[parts[1]] = parts[2]
		words = words[1:]
	}
	if mode := set["BENCH"]; !slices.Contains([]string{"", "quick", "full"}, mode) {
		return fmt.Errorf("BENCH=%s is neither quick nor full", mode)
	}
	switch {
	case len(words) == 2 && words[0] == "make":
		text, err := os.ReadFile(filepath.Join(root, "Makefile"))
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(target.FindAllStringSubmatch(string(text), -1), func(m []string) bool { return m[1] == words[1] }) {
			return fmt.Errorf("no target %q in the Makefile", words[1])
		}
		return nil
	case len(words) > 2 && words[0] == "go" && words[1] == "test":
		return flagged(words[2:], set)
	}
	return fmt.Errorf("neither make nor go test")
}

// flagged is measuring of the flags of go test.
func flagged(words []string, set map[string]string) error {
	flags, pkg := map[string]string{}, ""
	for i := 0; i < len(words); i++ {
		switch word := words[i]; {
		case strings.HasPrefix(word, "./"):
			pkg = word
		case word == "-v" || word == "-benchmem":
			flags[word] = "true"
		case strings.HasPrefix(word, "-") && i+1 < len(words):
			i++
			flags[word] = words[i]
		}
	}
	if pkg == "" {
		return fmt.Errorf("no package")
	}
	all, err := functions(filepath.Join(root, pkg))
	if err != nil {
		return err
	}
	kind, pattern := "Test", flags["-run"]
	if flags["-bench"] != "" {
		kind, pattern = "Benchmark", flags["-bench"]
	}
	top, _, _ := strings.Cut(pattern, "/")
	match, err := regexp.Compile(top)
	if err != nil {
		return err
	}
	found, asks := false, false
	for name, measures := range all {
		if strings.HasPrefix(name, kind) && match.MatchString(name) {
			found, asks = true, asks || measures
		}
	}
	_, mode := set["BENCH"]
	switch {
	case !found:
		return fmt.Errorf("no %s of %s is called %s", strings.ToLower(kind), pkg, top)
	case asks && !mode && set[figure.File] == "":
		return fmt.Errorf("it is skipped without BENCH or %s", figure.File)
	case flags["-timeout"] != "0":
		return fmt.Errorf("it may take longer than go test waits: -timeout 0")
	case kind == "Test" && flags["-v"] == "":
		return fmt.Errorf("what it measures is not printed: -v")
	case kind == "Test" && flags["-count"] != "1":
		return fmt.Errorf("go test may print what it has cached: -count 1")
	}
	return nil
}

// functions of the tests in a directory, and whether each is skipped unless it is asked for.
func functions(dir string) (map[string]bool, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	out := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != dir:
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				out[f.Name.Name] = calls(f, "measures")
			}
		}
		return nil
	})
	return out, err
}

// calls says whether a function calls another one of its package.
func calls(f *ast.FuncDecl, name string) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if id, ok := call.Fun.(*ast.Ident); ok && id.Name == name {
				found = true
			}
		}
		return !found
	})
	return found
}
