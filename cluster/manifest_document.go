package cluster

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// document is what one YAML document holds. Lines are relative to it, so that
// it can be used again when text moved in front of it.
type document struct {
	entries  []entry
	problems []*Problem
	skipped  []string // kinds that were passed over, once per object
}

// entry is one object and the line it begins on.
type entry struct {
	key    objectKey
	object Object
	line   int
}

// readDocument parses, decodes, defaults and validates one document.
func readDocument(text []byte) *document {
	doc := &document{}
	root, broken := parseYAML(text)
	switch {
	case broken != nil:
		doc.problems = append(doc.problems, &Problem{Line: broken.Line, Message: broken.Message})
	case root != nil:
		doc.read(root)
	}
	return doc
}

func (doc *document) fail(line int, object, format string, args ...any) {
	doc.problems = append(doc.problems, &Problem{Line: line, Object: object, Message: fmt.Sprintf(format, args...)})
}

// read reads the object of a node; a List holds several.
func (doc *document) read(node *yaml.Node) {
	node = resolveAlias(node)
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return
	}
	if node.Kind != yaml.MappingNode {
		doc.fail(node.Line, "", "must be an API object with apiVersion, kind and metadata, not %s", describe(node))
		return
	}
	apiVersion, name := memberText(node, "apiVersion"), memberText(node, "kind")
	if name == "" {
		doc.fail(node.Line, "", "kind is missing; every object needs apiVersion, kind and metadata")
		return
	}
	if name == "List" && apiVersion == "v1" {
		doc.readList(node)
		return
	}
	k, ok := kinds[name]
	switch {
	case ok && slices.Contains(k.versions, apiVersion):
		doc.readObject(node, k)
	case isPassedOver(apiVersion, name):
		doc.skipped = append(doc.skipped, name)
	default:
		doc.fail(lineOf(node, "kind"), objectName(node, name, false), "%s", unknownKind(apiVersion, name))
	}
}

func (doc *document) readList(node *yaml.Node) {
	items, _ := child(node, "items")
	if items == nil {
		doc.fail(node.Line, "List", "items are missing; give the list its objects or remove it")
		return
	}
	items = resolveAlias(items)
	if items.Kind == yaml.ScalarNode && items.Tag == "!!null" {
		return
	}
	if items.Kind != yaml.SequenceNode {
		doc.fail(items.Line, "List", "items must be a list, not %s", describe(items))
		return
	}
	for _, item := range items.Content {
		if item.Kind == yaml.MappingNode && memberText(item, "kind") == "List" {
			doc.fail(item.Line, "List", "a List inside a List is not read; move its items out")
			continue
		}
		doc.read(item)
	}
}

func (doc *document) readObject(node *yaml.Node, k kind) {
	object := k.empty()
	problems := decode(node, object)
	if len(problems) == 0 {
		problems = doc.validate(node, object, k)
	}
	name := objectName(node, k.name, k.cluster)
	for _, p := range problems {
		p.Object = name
	}
	doc.problems = append(doc.problems, problems...)
	if len(problems) == 0 {
		doc.entries = append(doc.entries, entry{key: keyOf(object), object: object, line: node.Line})
	}
}

func (doc *document) validate(node *yaml.Node, object Object, k kind) []*Problem {
	defaultMeta(object, k)
	k.defaults(object)
	var problems []*Problem
	for _, err := range append(validateMeta(object, k), k.validate(object)...) {
		problems = append(problems, &Problem{Line: lineOf(node, err.Field), Field: err.Field, Message: err.ErrorBody()})
	}
	return problems
}

// memberText returns a string member of a mapping, empty when there is none.
func memberText(node *yaml.Node, key string) string {
	if value, _ := child(node, key); value != nil {
		return resolveAlias(value).Value
	}
	return ""
}

// objectName names an object that may not have been decoded.
func objectName(node *yaml.Node, kind string, cluster bool) string {
	key := objectKey{kind: kind}
	if meta, _ := child(node, "metadata"); meta != nil {
		meta = resolveAlias(meta)
		key.Name, key.Namespace = memberText(meta, "name"), memberText(meta, "namespace")
	}
	switch {
	case key.Name == "":
		return kind
	case cluster:
		key.Namespace = ""
	case key.Namespace == "":
		key.Namespace = "default"
	}
	return key.String()
}
