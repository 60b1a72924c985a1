package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// results is results.json. A run that nobody has made is nil.
type results struct {
	// Bench is of make bench, Cluster of make bench-cluster.
	Bench   *run `json:"bench,omitempty"`
	Cluster *run `json:"cluster,omitempty"`
}

// A run is what was measured one after another on one machine.
type run struct {
	Environment environment `json:"environment"`
	// Failed are parts of which some figures may be missing.
	Failed []string `json:"failed,omitempty"`
	// Skipped are parts that were not asked for.
	Skipped []string `json:"skipped,omitempty"`
	// Parts took their time, in the order of the run.
	Parts []part `json:"parts,omitempty"`
	// LeftOut are sentences: what was not measured, and why.
	LeftOut    []string        `json:"leftOut,omitempty"`
	Figures    []figure.Figure `json:"figures,omitempty"`
	Benchmarks []benchmark     `json:"benchmarks,omitempty"`
}

// A part of a run is one line of hack/bench.sh.
type part struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// read returns the results in a file; without one there are none.
func read(name string) (results, error) {
	var r results
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	for _, run := range r.runs() {
		for _, f := range run.Figures {
			if err := f.Validate(); err != nil {
				return r, fmt.Errorf("%s: %w", name, err)
			}
		}
		run.sort()
	}
	return r, nil
}

// write stores the results with one value a line less than encoding/json would: a figure's
// values are one line, so that a diff of two runs can be read.
func (r results) write(name string) error {
	for _, run := range r.runs() {
		run.sort()
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(name, joinNumbers(text.Bytes()), 0o644)
}

// joinNumbers puts the numbers of an indented array into one line.
func joinNumbers(indented []byte) []byte {
	var out []string
	within := false
	for _, line := range strings.Split(string(indented), "\n") {
		trimmed := strings.TrimSpace(line)
		last := len(out) - 1
		switch {
		case within && strings.HasPrefix(trimmed, "]"):
			out[last] += trimmed
			within = false
		case within:
			out[last] += trimmed
			if strings.HasSuffix(trimmed, ",") {
				out[last] += " "
			}
		default:
			within = strings.HasSuffix(trimmed, `"values": [`)
			out = append(out, line)
		}
	}
	return []byte(strings.Join(out, "\n"))
}

func (r results) runs() []*run {
	return slices.DeleteFunc([]*run{r.Bench, r.Cluster}, func(run *run) bool { return run == nil })
}

// sort brings a run into an order that does not depend on which part was the first: sections
// as the report has them, then names as they were recorded first within theirs, sizes, ours
// before the others.
func (r *run) sort() {
	slices.Sort(r.Failed)
	slices.Sort(r.Skipped)
	slices.Sort(r.LeftOut)
	slices.SortStableFunc(r.Benchmarks, func(a, b benchmark) int { return cmp.Compare(a.Package, b.Package) })
	slices.SortStableFunc(r.Figures, func(a, b figure.Figure) int {
		return cmp.Or(
			cmp.Compare(slices.Index(figure.Sections, a.Section), slices.Index(figure.Sections, b.Section)),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Listeners, b.Listeners),
			cmp.Compare(a.Endpoints, b.Endpoints),
			compareSubjects(a.Subject, b.Subject),
		)
	})
}

// subjects in the order of tables, and of colours.
var subjects = []string{
	figure.Ours, noNAT, conntrackOnly, staticDNAT, kubeProxyNFT, "kube-proxy iptables", "haproxy", "nginx stream",
}

// compareSubjects puts a variant, whose name begins with that of another, behind it.
func compareSubjects(a, b string) int {
	at := func(s string) int {
		if i := slices.IndexFunc(subjects, func(of string) bool { return strings.HasPrefix(s, of) }); i >= 0 {
			return i
		}
		return len(subjects)
	}
	return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a, b))
}

// A group are figures of one name: what one table compares.
type group struct {
	name    string
	figures []figure.Figure
}

// groups of a section, of sorted figures.
func groups(all []figure.Figure, section string) []group {
	var out []group
	for _, f := range all {
		if f.Section != section {
			continue
		}
		if n := len(out); n == 0 || out[n-1].name != f.Name {
			out = append(out, group{name: f.Name})
		}
		out[len(out)-1].figures = append(out[len(out)-1].figures, f)
	}
	return out
}
