package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// A benchmark is one metric of a Go benchmark.
type benchmark struct {
	Package string    `json:"package"`
	Name    string    `json:"name"`
	Unit    string    `json:"unit"` // as benchfmt tidies it: sec/op, B/op, …
	Values  []float64 `json:"values"`
}

// readBenchmarks returns those in the output of go test -bench, in its order; of a file that
// is not there none.
func readBenchmarks(name string) ([]benchmark, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	var all []benchmark
	reader := benchfmt.NewReader(file, name)
	for reader.Scan() {
		r, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue // metadata of units, or other output of a test between the lines
		}
		pkg := strings.TrimPrefix(r.GetConfig("pkg"), "github.com/portway-dev/portway/")
		base, _, _ := strings.Cut(r.Name.String(), "\n")
		base = strings.TrimSuffix(base, procs(r.Name))
		for _, v := range r.Values {
			at := slices.IndexFunc(all, func(b benchmark) bool { return b.Package == pkg && b.Name == base && b.Unit == v.Unit })
			if at < 0 {
				at = len(all)
				all = append(all, benchmark{Package: pkg, Name: base, Unit: v.Unit})
			}
			all[at].Values = append(all[at].Values, v.Value)
		}
	}
	if err := reader.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// procs is the part -8 of a name.
func procs(name benchfmt.Name) string {
	_, parts := name.Parts()
	if n := len(parts); n > 0 && strings.HasPrefix(string(parts[n-1]), "-") {
		return string(parts[n-1])
	}
	return ""
}

// A row is what a table says of one benchmark: its metrics by unit.
type row struct {
	name    string
	metrics []benchmark
}

// rows of a package, in the order of its output.
func rows(all []benchmark, pkg string) []row {
	var out []row
	for _, b := range all {
		if b.Package != pkg {
			continue
		}
		at := slices.IndexFunc(out, func(r row) bool { return r.name == b.Name })
		if at < 0 {
			at = len(out)
			out = append(out, row{name: b.Name})
		}
		out[at].metrics = append(out[at].metrics, b)
	}
	return out
}
