package cluster

import (
	"reflect"
	"slices"
	"strings"
	"sync"
)

var fieldCache sync.Map // reflect.Type → map[string][]int

// fieldsOf returns the JSON names of a struct's fields and their index, those
// of inlined structs included.
func fieldsOf(t reflect.Type) map[string][]int {
	if cached, ok := fieldCache.Load(t); ok {
		if fields, ok := cached.(map[string][]int); ok {
			return fields
		}
	}
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case f.Anonymous && name == "":
		case len(f.Index) > 1 && !inlined(t, f.Index):
		case name != "":
			fields[name] = f.Index
		default:
			fields[f.Name] = f.Index
		}
	}
	fieldCache.Store(t, fields)
	return fields
}

// inlined reports whether all the structs on the way to a promoted field are
// inlined into the JSON of t: an embedded struct with a JSON name is not.
func inlined(t reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			return false
		}
		t = f.Type
	}
	return true
}

// nearest returns the name closest to what was written: the same but for case or
// one letter, one that begins so, or one two letters away, in this order; empty
// when there is none.
func nearest[V any](written string, names map[string]V) string {
	best, distance := "", 6
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		d := 2 * editDistance(strings.ToLower(written), strings.ToLower(name))
		if len(written) >= 3 && strings.HasPrefix(strings.ToLower(name), strings.ToLower(written)) {
			d = min(d, 3)
		}
		if d < distance && d < 2*len(written) {
			best, distance = name, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
