package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Chapters of the page that people write, and what is explained in them, below a heading of
// its own each.
const (
	missedChapter     = "Missed aims"
	unmeasuredChapter = "Not measured"
)

// unexplained returns what the page that people write owes: for each missed aim a heading of
// its name below "Missed aims", and for each that was not measured one below "Not measured",
// with a text.
func (r results) unexplained(page string) ([]string, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	texts := explanationsIn(string(text))
	var owed []string
	owes := func(chapter, heading string) {
		body, ok := texts[chapter][anchor(heading)]
		problem := ""
		switch {
		case !ok:
			problem = fmt.Sprintf("no heading %q below %q", heading, chapter)
		case body == "":
			problem = fmt.Sprintf("nothing is said below %q", heading)
		case decimal.MatchString(body) && !command.MatchString(body):
			problem = fmt.Sprintf("figures without a command below %q: those of this run are in %s, others need what prints them", heading, "README.md")
		}
		if problem != "" && !slices.Contains(owed, problem) {
			owed = append(owed, problem)
		}
	}
	for _, want := range aimed() {
		f, _ := r.find(want)
		switch judge(f, want.Aim) {
		case missed:
			owes(missedChapter, f.Name)
		case unmeasured:
			owes(unmeasuredChapter, f.Name+notMeasured)
		default:
		}
	}
	for _, run := range r.runs() {
		for _, f := range run.Figures { // those, too, of sizes that no aim names
			if judge(f, f.Aim) == missed {
				owes(missedChapter, f.Name)
			}
		}
	}
	return owed, nil
}

var (
	decimal = regexp.MustCompile(`\d\.\d`)
	command = regexp.MustCompile("(?m)(^    |`)(\\w+=\\S* )*(go|make|nft|perf|hack/\\S+) ")
)

// explanationsIn returns the texts of a page by chapter (a heading of the second level) and anchor of the
// heading within.
func explanationsIn(page string) map[string]map[string]string {
	out := map[string]map[string]string{}
	chapter, heading := "", ""
	for _, line := range strings.Split(page, "\n") {
		level := len(line) - len(strings.TrimLeft(line, "#"))
		title := strings.TrimSpace(line[level:])
		switch {
		case level == 0 && heading != "":
			out[chapter][heading] = strings.TrimRight(out[chapter][heading]+line+"\n", "\n ") + "\n"
		case level == 0:
		case level <= 2:
			chapter, heading = title, ""
			out[chapter] = map[string]string{}
		case out[chapter] != nil:
			heading = anchor(title)
			out[chapter][heading] = ""
		}
	}
	for _, texts := range out {
		for heading, text := range texts {
			texts[heading] = strings.Trim(text, "\n")
		}
	}
	return out
}

// unfit returns why the run is not one to publish: sentences.
func (r *run) unfit() []string {
	var out []string
	e := r.Environment
	if e.Mode == "quick" {
		out = append(out, "it was quick")
	}
	if e.Commit == "unknown" || strings.HasSuffix(e.Commit, "-dirty") {
		out = append(out, "its tree is of no commit: "+e.Commit)
	}
	if e.Unprivileged {
		out = append(out, "it was not root")
	}
	for _, part := range r.Skipped {
		out = append(out, fmt.Sprintf("part %s was not asked for", part))
	}
	for _, part := range r.Failed {
		out = append(out, fmt.Sprintf("part %s failed", part))
	}
	return out
}
