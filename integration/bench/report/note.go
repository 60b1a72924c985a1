package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// A note is what must be known of the figures of some subjects.
type note struct {
	text     string
	subjects []string
}

func (n note) String() string { return strings.Join(n.subjects, ", ") + ": " + n.text }

// subjects of the group, in its order.
func (g group) subjects() []string {
	return g.distinct(func(f figure.Figure) string { return f.Subject })
}

// noted returns every note of the group once, and apart from these the sentences that all of its figures' notes
// end with.
func (g group) noted() (notes []note, shared string) {
	texts := g.distinct(func(f figure.Figure) string { return f.Note })
	all := !slices.ContainsFunc(g.figures, func(f figure.Figure) bool { return f.Note == "" })
	if all && len(texts) > 1 {
		shared = commonEnd(texts)
	}
	for _, text := range texts {
		n := note{text: strings.TrimSpace(strings.TrimSuffix(text, shared))}
		for _, f := range g.figures {
			if f.Note == text && !slices.Contains(n.subjects, f.Subject) {
				n.subjects = append(n.subjects, f.Subject)
			}
		}
		if n.text != "" {
			notes = append(notes, n)
		}
	}
	return notes, shared
}

// commonEnd returns the whole sentences that all texts end with.
func commonEnd(texts []string) string {
	sentences := strings.SplitAfter(texts[0], ". ")
	for i := range sentences {
		end := strings.Join(sentences[i:], "")
		if !slices.ContainsFunc(texts, func(s string) bool { return s != end && !strings.HasSuffix(s, ". "+end) }) {
			return end
		}
	}
	return ""
}

// repeated returns the notes on subjects that more than one of the groups has.
func repeated(groups []group) []note {
	var all []note
	var times []int
	ofSubjects := map[string]bool{}
	for _, g := range groups {
		notes, _ := g.noted()
		for _, n := range notes {
			at := slices.IndexFunc(all, func(of note) bool { return of.text == n.text })
			if at < 0 {
				at, all, times = len(all), append(all, note{text: n.text}), append(times, 0)
			}
			times[at]++
			for _, subject := range n.subjects {
				if !slices.Contains(all[at].subjects, subject) {
					all[at].subjects = append(all[at].subjects, subject)
				}
			}
			if len(n.subjects) < len(g.subjects()) {
				ofSubjects[n.text] = true
			}
		}
	}
	var out []note
	for i, n := range all {
		if times[i] > 1 && ofSubjects[n.text] {
			out = append(out, n)
		}
	}
	return out
}

// list writes notes that the tables below do not repeat.
func list(w io.Writer, notes []note) {
	if len(notes) == 0 {
		return
	}
	fmt.Fprint(w, "Who is in the tables below:\n\n")
	for _, n := range notes {
		fmt.Fprintf(w, "- %s\n", n)
	}
	fmt.Fprintln(w)
}

// notes writes every note but those told before once, with its subjects unless it is of all of them.
func (g group) notes(w io.Writer, told []note) {
	notes, shared := g.noted()
	for _, n := range notes {
		switch {
		case slices.ContainsFunc(told, func(of note) bool { return of.text == n.text }):
		case len(n.subjects) < len(g.subjects()):
			fmt.Fprintf(w, "%s\n\n", n)
		default:
			fmt.Fprintf(w, "%s\n\n", n.text)
		}
	}
	if shared != "" {
		fmt.Fprintf(w, "%s\n\n", shared)
	}
}
