package cluster

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a manifest. Message says what and what
// to do about it.
type Problem struct {
	File    string
	Line    int    // 1-based; 0 means the file as a whole
	Object  string // "Gateway default/web"; empty where no object could be made out
	Field   string // "spec.listeners[0].port"; empty for the object as a whole
	Message string

	// first is the line of an earlier mention, relative like Line while a document
	// is read; Message then holds one %d for it.
	first int
}

// Error formats the problem as "file:line: Kind namespace/name: field: message".
func (p *Problem) Error() string {
	place := p.File
	if p.Line > 0 {
		place += ":" + strconv.Itoa(p.Line)
	}
	parts := make([]string, 0, 4)
	for _, part := range []string{place, p.Object, p.Field, p.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Problems are all problems of one reading, sorted by file and line.
type Problems []*Problem

// Error returns one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, 0, len(ps))
	for _, p := range ps {
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}

// asError avoids the typed nil.
func (ps Problems) asError() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Object, b.Object), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
}
