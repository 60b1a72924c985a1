package cluster

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what a document may make us do through aliases. Manifests that use
// anchors at all stay far below them.
const (
	maxDepth       = 64
	maxAliasedNode = 100_000
)

// decoder stores a YAML node in a Go value as the API server's strict decoding
// would (unknown fields, duplicate keys and wrong types are errors), but
// collects all errors, each with its line and full path.
type decoder struct {
	problems []*Problem // of the document: no File, no Object
	path     []step
	aliases  int // depth of aliases we are in
	aliased  int // nodes seen inside aliases

	exhausted bool // a bound was hit: nothing more is decoded
}

// step is one step of a field path: a name or an index.
type step struct {
	name  string
	index int
}

// decode returns the problems of one object.
func decode(node *yaml.Node, into any) []*Problem {
	d := &decoder{}
	d.value(node, reflect.ValueOf(into).Elem())
	return d.problems
}

func (d *decoder) fail(node *yaml.Node, format string, args ...any) {
	d.problems = append(d.problems, &Problem{Line: node.Line, Field: d.field(), Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) field() string {
	var b strings.Builder
	for _, s := range d.path {
		switch {
		case s.name == "":
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case b.Len() > 0:
			b.WriteString("." + s.name)
		default:
			b.WriteString(s.name)
		}
	}
	return b.String()
}

func (d *decoder) within(s step, do func()) {
	d.path = append(d.path, s)
	do()
	d.path = d.path[:len(d.path)-1]
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func (d *decoder) value(node *yaml.Node, into reflect.Value) {
	if node.Kind == yaml.AliasNode {
		d.aliases++
		defer func() { d.aliases-- }()
		node = resolveAlias(node)
	}
	if !d.bounded(node) {
		return
	}
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return // as if absent; the API server drops nulls, too
	}
	if into.Kind() == reflect.Pointer {
		target := reflect.New(into.Type().Elem())
		into.Set(target)
		d.value(node, target.Elem())
		return
	}
	if reflect.PointerTo(into.Type()).Implements(unmarshaler) {
		d.unmarshal(node, into)
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.structure(node, into)
	case reflect.Map:
		d.dictionary(node, into)
	case reflect.Slice:
		d.list(node, into)
	default:
		d.scalar(node, into)
	}
}

// bounded guards against aliases that repeat or contain themselves. Once a bound
// was hit, which is told once, the rest of the object is not looked at.
func (d *decoder) bounded(node *yaml.Node) bool {
	if d.exhausted {
		return false
	}
	if d.aliases > 0 {
		d.aliased++
	}
	if len(d.path) <= maxDepth && d.aliased <= maxAliasedNode && d.aliases <= maxDepth {
		return true
	}
	d.exhausted = true
	d.fail(node, "aliases repeat too much; write the values out")
	return false
}

func (d *decoder) structure(node *yaml.Node, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.fail(node, "must be a mapping of fields, not %s", describe(node))
		return
	}
	fields := fieldsOf(into.Type())
	d.members(node, func(key, value *yaml.Node) {
		index, ok := fields[key.Value]
		if !ok {
			d.fail(key, "unknown field%s", suggest(key.Value, fields))
			return
		}
		d.value(value, into.FieldByIndex(index))
	})
}

func (d *decoder) dictionary(node *yaml.Node, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.fail(node, "must be a mapping, not %s", describe(node))
		return
	}
	into.Set(reflect.MakeMapWithSize(into.Type(), len(node.Content)/2))
	d.members(node, func(key, value *yaml.Node) {
		element := reflect.New(into.Type().Elem()).Elem()
		d.value(value, element)
		into.SetMapIndex(reflect.ValueOf(key.Value).Convert(into.Type().Key()), element)
	})
}

func (d *decoder) list(node *yaml.Node, into reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		d.fail(node, "must be a list (lines that begin with \"- \"), not %s", describe(node))
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content)))
	for i, item := range node.Content {
		d.within(step{index: i}, func() { d.value(item, into.Index(i)) })
	}
}

// members visits the members of a mapping with their path, those of merge keys
// ("<<", YAML 1.1) included where the mapping does not have them itself.
func (d *decoder) members(node *yaml.Node, visit func(key, value *yaml.Node)) {
	seen := make(map[string]int, len(node.Content)/2)
	var merged []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolveAlias(node.Content[i]), node.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, "a key must be a plain word, not %s", describe(key))
			continue
		}
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		d.within(step{name: key.Value}, func() {
			if first, twice := seen[key.Value]; twice {
				d.problems = append(d.problems, &Problem{
					Line: key.Line, Field: d.field(), first: first,
					Message: "given twice; keep one of them, the first is on line %d",
				})
				return
			}
			seen[key.Value] = key.Line
			visit(key, value)
		})
	}
	for _, value := range merged {
		d.merge(value, seen, visit)
	}
}

func (d *decoder) merge(value *yaml.Node, seen map[string]int, visit func(key, value *yaml.Node)) {
	d.aliases++
	defer func() { d.aliases-- }()
	value = resolveAlias(value)
	if !d.bounded(value) {
		return
	}
	switch value.Kind {
	case yaml.SequenceNode:
		for _, one := range value.Content {
			d.merge(one, seen, visit)
		}
	case yaml.MappingNode:
		d.members(value, func(key, member *yaml.Node) {
			if _, own := seen[key.Value]; !own {
				seen[key.Value] = key.Line
				visit(key, member)
			}
		})
	default:
		d.fail(value, "\"<<\" merges mappings, not %s; write the fields out", describe(value))
	}
}

func (d *decoder) scalar(node *yaml.Node, into reflect.Value) {
	ok := node.Kind == yaml.ScalarNode
	want := "a string"
	switch into.Kind() {
	case reflect.String:
		switch {
		case ok && (node.Tag == "!!str" || node.Tag == "!!timestamp"):
			into.SetString(node.Value)
		case ok && (node.Tag == "!!int" || node.Tag == "!!float" || node.Tag == "!!bool"):
			d.fail(node, "must be a string, not the %s %s; put it in quotes", typeOf(node), node.Value)
			return
		default:
			ok = false
		}
	case reflect.Bool:
		want = "true or false"
		ok = ok && node.Tag == "!!bool" && node.Decode(into.Addr().Interface()) == nil
	case reflect.Int32, reflect.Int64, reflect.Int:
		want = "a whole number"
		var n int64
		n, ok = wholeNumber(node)
		if ok && into.OverflowInt(n) || !ok && isBeyond64Bits(node) {
			most := int64(1)<<(into.Type().Bits()-1) - 1
			d.fail(node, "the number %s is out of range; it must be %d to %d", node.Value, -most-1, most)
			return
		}
		if ok {
			into.SetInt(n)
		}
	default:
		// No kind we read has such a field; a new version of the API might.
		d.unmarshal(node, into)
		return
	}
	if !ok {
		d.fail(node, "must be %s, not %s", want, describe(node))
	}
}

func wholeNumber(node *yaml.Node) (int64, bool) {
	if node.Kind != yaml.ScalarNode || node.Tag != "!!int" {
		return 0, false
	}
	var n int64
	if err := node.Decode(&n); err != nil {
		return 0, false
	}
	return n, true
}

// isBeyond64Bits reports whether a node is a whole number that wholeNumber cannot
// hold; YAML takes the larger ones for floats.
func isBeyond64Bits(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && (node.Tag == "!!int" || node.Tag == "!!float") &&
		strings.Trim(node.Value, "+-_0123456789") == ""
}

// unmarshal hands a value to a type that reads JSON itself: times, ports that
// may be names.
func (d *decoder) unmarshal(node *yaml.Node, into reflect.Value) {
	tree := d.plain(node)
	if d.exhausted {
		return
	}
	text, err := json.Marshal(tree)
	if err == nil {
		err = json.Unmarshal(text, into.Addr().Interface())
	}
	if err != nil {
		d.fail(node, "cannot be read as %s: %v", typeName(into.Type()), err)
	}
}

// plain turns a node into what encoding/json makes of the same JSON.
func (d *decoder) plain(node *yaml.Node) any {
	if node.Kind == yaml.AliasNode {
		d.aliases++
		defer func() { d.aliases-- }()
		node = resolveAlias(node)
	}
	if !d.bounded(node) {
		return nil
	}
	switch node.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		d.members(node, func(key, value *yaml.Node) { m[key.Value] = d.plain(value) })
		return m
	case yaml.SequenceNode:
		l := make([]any, 0, len(node.Content))
		for i, item := range node.Content {
			d.within(step{index: i}, func() { l = append(l, d.plain(item)) })
		}
		return l
	default:
		var v any
		switch node.Tag {
		case "!!int", "!!float", "!!bool", "!!null":
			if node.Decode(&v) == nil {
				return v
			}
		}
		return node.Value
	}
}

func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	switch node.Tag {
	case "!!int", "!!float", "!!bool":
		return node.Value
	case "!!null":
		return "nothing"
	default:
		return strconv.Quote(node.Value)
	}
}

// typeOf names the type of a plain number or boolean.
func typeOf(node *yaml.Node) string {
	if node.Tag == "!!bool" {
		return "boolean"
	}
	return "number"
}

func typeName(t reflect.Type) string {
	switch t.Name() {
	case "Time", "MicroTime":
		return "a time such as 2006-01-02T15:04:05Z"
	case "IntOrString":
		return "a number or a name"
	default:
		return t.Name()
	}
}

// suggest proposes the field that was probably meant.
func suggest(name string, fields map[string][]int) string {
	if best := nearest(name, fields); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	known := make([]string, 0, len(fields))
	for field := range fields {
		known = append(known, field)
	}
	slices.Sort(known)
	return "; remove it, the fields here are " + strings.Join(known, ", ")
}
