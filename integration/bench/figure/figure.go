// Package figure is what measurements hand to the report: one line of JSON each, appended to
// a file that every program of a run shares.
//
// It does not measure, and it decides nothing about a figure but whether it met its aim.
package figure

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// File is the environment variable with the name of the file that figures are appended to.
const File = "BENCH_FIGURES"

// Sections of the report, in its order.
const (
	NewFlow     = "new-flow"
	Established = "established"
	Programming = "programming"
	ControlPath = "control-path"
)

// Sections are all of them.
var Sections = []string{NewFlow, Established, Programming, ControlPath}

// Ours is the Subject that is compared with all others.
const Ours = "portway"

// A Figure is what one subject took or did, once a round.
type Figure struct {
	Section string `json:"section"`
	// Name says what was measured, for example "UDP, every packet a new flow"; figures of one
	// name and size are compared.
	Name string `json:"name"`
	// Subject did it: Ours, or a peer with its mode, for example "kube-proxy nftables".
	Subject string `json:"subject"`
	// Listeners and Endpoints of each are the size; 0: it has none.
	Listeners int `json:"listeners,omitempty"`
	Endpoints int `json:"endpoints,omitempty"`
	// Unit of the values: "ns", "s", "B", "1/s", "B/s", "cores"; "" for a ratio or a count.
	Unit string `json:"unit"`
	// Values, one a round in the order of rounds: rounds of subjects that were interleaved
	// have the same index.
	Values []float64 `json:"values"`
	// Aim; nil: none. The report judges it by the interval that has the true median.
	Aim *Aim `json:"aim,omitempty"`
	// Note is what a reader must know of it.
	Note string `json:"note,omitempty"`
	// Command repeats it.
	Command string `json:"command"`
}

// An Aim is met by a value from Min to Max.
type Aim struct {
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
}

// AtMost is the aim of a cost.
func AtMost(x float64) *Aim { return &Aim{Max: &x} }

// AtLeast is the aim of a yield.
func AtLeast(x float64) *Aim { return &Aim{Min: &x} }

// Met says whether x is what the aim wants; a nil aim wants nothing.
func (a *Aim) Met(x float64) bool {
	return a == nil || (a.Min == nil || x >= *a.Min) && (a.Max == nil || x <= *a.Max)
}

// Median of the values; of an even number the mean of the two in the middle. A Figure without
// values has none, and 0 is returned.
func (f Figure) Median() float64 {
	n := len(f.Values)
	if n == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(f.Values))
	return (v[(n-1)/2] + v[n/2]) / 2
}

// Validate returns what keeps the figure from being reported.
func (f Figure) Validate() error {
	switch {
	case !slices.Contains(Sections, f.Section):
		return fmt.Errorf("figure %q: section %q is none of %v", f.Name, f.Section, Sections)
	case f.Name == "" || f.Subject == "" || f.Command == "":
		return fmt.Errorf("figure %q of %q: a name, a subject and a command are needed", f.Name, f.Subject)
	case len(f.Values) == 0:
		return fmt.Errorf("figure %q of %q has no values", f.Name, f.Subject)
	}
	return nil
}

// Record appends the figure to the file that File names; without one it does nothing.
// Processes may do so at the same time.
func (f Figure) Record() (err error) {
	name := os.Getenv(File)
	if name == "" {
		return nil
	}
	if err := f.Validate(); err != nil {
		return err
	}
	line, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("figure %q of %q: %w", f.Name, f.Subject, err)
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = file.Write(append(line, '\n'))
	return err
}

// Read returns all figures of a file; of one that is not there none.
func Read(name string) ([]Figure, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var all []Figure
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for n := 1; lines.Scan(); n++ {
		var f Figure
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if err := f.Validate(); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		all = append(all, f)
	}
	return all, lines.Err()
}
