package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// table writes rows below a head, without the columns that are empty in every row.
func table(w io.Writer, head []string, rows [][]string) {
	var columns []int
	for i := range head {
		if slices.ContainsFunc(rows, func(row []string) bool { return row[i] != "" }) {
			columns = append(columns, i)
		}
	}
	line := func(row []string) {
		fmt.Fprint(w, "|")
		for _, i := range columns {
			fmt.Fprintf(w, " %s |", strings.ReplaceAll(row[i], "|", `\|`))
		}
		fmt.Fprintln(w)
	}
	line(head)
	fmt.Fprintln(w, "|"+strings.Repeat("---|", len(columns)))
	for _, row := range rows {
		line(row)
	}
	fmt.Fprintln(w)
}

// besideMark is on what the rounds say, and not the turns within them.
const besideMark = " †"

// table writes the table of a group of the run, what must be known of it and was not told before, and
// what repeats it.
func (g group) table(w io.Writer, r *run, told []note) {
	rows := make([][]string, 0, len(g.figures))
	for _, f := range g.figures {
		row := []string{size(f), f.Subject, near(f.Median(), f.Unit, f.Aim), spread(f.Values, f.Unit), "", "", "", ""}
		if e, byRound, ok := r.besideOurs(f); ok {
			row[4] = e.ratio()
			if byRound {
				row[4] += besideMark
			}
		}
		if f.Aim != nil || strings.Contains(f.Name, ratioTo) {
			row[5] = estimated(f.Values).interval(f.Unit, f.Aim)
		}
		row[6], row[7] = aim(f.Aim, f.Unit), judge(f, f.Aim).write(f.Name)
		rows = append(rows, row)
	}
	table(w, []string{"listeners × endpoints", "subject", "median", "min to max", "÷ " + figure.Ours + " (95 %)", "95 %", "aim", "verdict"}, rows)
	g.notes(w, told)
	g.commands(w)
}

// alone writes one table of figures that no other subject has.
func alone(w io.Writer, all []figure.Figure) {
	rows := make([][]string, 0, len(all))
	for _, f := range all {
		rows = append(rows, []string{
			f.Name, size(f), near(f.Median(), f.Unit, f.Aim), spread(f.Values, f.Unit), estimated(f.Values).interval(f.Unit, f.Aim),
			aim(f.Aim, f.Unit), judge(f, f.Aim).write(f.Name), f.Note,
		})
	}
	table(w, []string{"figure", "listeners × endpoints", "median", "min to max", "95 %", "aim", "verdict", "note"}, rows)
	group{figures: all}.commands(w)
}

// commands writes what repeats the figures.
func (g group) commands(w io.Writer) {
	for _, command := range g.distinct(func(f figure.Figure) string { return f.Command }) {
		fmt.Fprintf(w, "    %s\n", command)
	}
	fmt.Fprintln(w)
}

// distinct returns what a function says of the figures, each once and without "".
func (g group) distinct(of func(figure.Figure) string) []string {
	var out []string
	for _, f := range g.figures {
		if s := of(f); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// benchmarks writes a table a package: one row each, and of memory only what is worth a word.
func benchmarks(w io.Writer, all []benchmark) {
	var packages []string
	for _, b := range all {
		if !slices.Contains(packages, b.Package) {
			packages = append(packages, b.Package)
		}
	}
	for _, pkg := range packages {
		fmt.Fprintf(w, "### %s\n\n", pkg)
		var out [][]string
		for _, r := range rows(all, pkg) {
			line := []string{r.name, "", "", "", ""}
			var others []string
			for _, m := range r.metrics {
				median := figure.Figure{Values: m.Values}.Median()
				switch m.Unit {
				case "sec/op":
					line[1], line[2] = in(median, m.Unit), spread(m.Values, m.Unit)
				case "B/op":
					if median > 0 {
						line[3] = in(median, m.Unit)
					}
				case "allocs/op":
				default:
					others = append(others, metric(median, m.Unit))
				}
			}
			line[4] = strings.Join(others, ", ")
			out = append(out, line)
		}
		table(w, []string{"benchmark", "time", "min to max", "allocated", "other metrics"}, out)
	}
}

// metric writes one that a benchmark has named itself, such as p50-µs.
func metric(x float64, unit string) string {
	if name, unit, ok := cutLast(unit, "-"); ok {
		unit = strings.TrimSuffix(unit, "/op")
		if unit == "B" {
			return name + " " + in(x, unit)
		}
		return fmt.Sprintf("%s %s %s", name, digits(x, 3), unit)
	}
	return in(x, unit)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
