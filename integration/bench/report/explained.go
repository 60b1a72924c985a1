package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// Chapters of the page that people write, and what is explained in them, below a heading of
// its own each.
const (
	missedChapter     = "Missed aims"
	unmeasuredChapter = "Not measured"
)

// unexplained returns what is wrong with the page that people write: it owes a heading with a text for
// each missed aim below "Missed aims", and for each that was not measured below "Not measured"; a
// heading there that no longer says so of any is to go. Of an aim that is not decided it may have one.
func (r results) unexplained(page string) ([]string, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	chapters := explanationsIn(string(text))
	var problems []string
	say := func(problem string) {
		if problem != "" && !slices.Contains(problems, problem) {
			problems = append(problems, problem)
		}
	}
	allowed := map[string][]string{}
	look := func(f figure.Figure, a *figure.Aim) {
		switch judge(f, a) {
		case missed:
			say(chapters.lack(missedChapter, f.Name))
			allowed[missedChapter] = append(allowed[missedChapter], anchor(f.Name))
		case undecided:
			allowed[missedChapter] = append(allowed[missedChapter], anchor(f.Name))
		case unmeasured:
			say(chapters.lack(unmeasuredChapter, f.Name+notMeasured))
			allowed[unmeasuredChapter] = append(allowed[unmeasuredChapter], anchor(f.Name+notMeasured))
		default:
		}
	}
	for _, want := range aimed() {
		f, _ := r.find(want)
		look(f, want.Aim)
	}
	for _, run := range r.runs() {
		for _, f := range run.Figures { // those, too, of sizes that no aim names
			look(f, f.Aim)
		}
	}
	for _, of := range []struct{ chapter, why string }{
		{missedChapter, "no aim of that name is missed"}, {unmeasuredChapter, "no figure of that name is missing"},
	} {
		for _, e := range chapters[of.chapter] {
			if !slices.Contains(allowed[of.chapter], anchor(e.heading)) {
				say(fmt.Sprintf("heading %q below %q: %s any more; remove it with its text", e.heading, of.chapter, of.why))
			}
		}
	}
	return problems, nil
}

// An explanation is a heading of a page and the text below it.
type explanation struct{ heading, text string }

// pageChapters are the explanations of a page by chapter, in its order.
type pageChapters map[string][]explanation

// lack says what is missing of an explanation, or nothing.
func (c pageChapters) lack(chapter, heading string) string {
	at := slices.IndexFunc(c[chapter], func(e explanation) bool { return anchor(e.heading) == anchor(heading) })
	switch {
	case at < 0:
		return fmt.Sprintf("no heading %q below %q", heading, chapter)
	case c[chapter][at].text == "":
		return fmt.Sprintf("nothing is said below %q", heading)
	case decimal.MatchString(c[chapter][at].text) && !command.MatchString(c[chapter][at].text):
		return fmt.Sprintf("figures without a command below %q: those of this run are in README.md, others need what prints them", heading)
	}
	return ""
}

var (
	decimal = regexp.MustCompile(`\d\.\d`)
	command = regexp.MustCompile("(?m)(^    |`)(\\w+=\\S* )*(go|make|nft|perf|hack/\\S+) ")
)

// explanationsIn reads a page: a heading of the second level begins a chapter, one of the third an explanation.
func explanationsIn(page string) pageChapters {
	out := pageChapters{}
	chapter, within := "", false // an explanation
	for _, line := range strings.Split(page, "\n") {
		level := len(line) - len(strings.TrimLeft(line, "#"))
		title := strings.TrimSpace(line[level:])
		switch {
		case level == 1 || level == 2:
			chapter, within = title, false
		case level == 3:
			out[chapter] = append(out[chapter], explanation{heading: title})
			within = true
		case within:
			out[chapter][len(out[chapter])-1].text += line + "\n"
		}
	}
	for _, all := range out {
		for i := range all {
			all[i].text = strings.Trim(all[i].text, "\n ")
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
