package cluster

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// manifestFile is one file and what we know of it.
type manifestFile struct {
	name  string // as the user would write it: a given path, or one below it
	order int    // of the paths on the command line, then of names

	signature signature
	sum       [sha256.Size]byte
	read      bool // sum is set

	// documents of the last reading by the hash of their text: an edit costs the
	// parsing of what changed.
	documents map[[sha256.Size]byte]*document

	entries   []entry    // of the last reading; lines are those of the file
	problems  []*Problem // of the last reading
	skipped   []string
	good      []entry   // of the last reading without problems
	settled   bool      // there was such a reading since the start
	takenOver bool      // good holds other objects than when we last told
	missing   time.Time // since when it was not found, zero while it is there
	reported  string    // the problems we last told about
}

// load reads a content and reports whether it is a new one.
func (f *manifestFile) load(content []byte) bool {
	sum := sha256.Sum256(content)
	if f.read && sum == f.sum {
		return false
	}
	f.sum, f.read = sum, true
	f.entries, f.problems, f.skipped = nil, nil, nil
	known := f.documents
	f.documents = map[[sha256.Size]byte]*document{}
	empty := true
	for c := range split(content) {
		empty = false
		id := sha256.Sum256(c.text)
		doc := known[id]
		if doc == nil {
			doc = readDocument(c.text)
		}
		f.documents[id] = doc
		f.add(doc, c.offset)
	}
	if empty && len(f.good) > 0 {
		f.fail("is empty; delete the file to remove its objects")
	}
	f.duplicates()
	return true
}

func (f *manifestFile) fail(message string) {
	f.problems = append(f.problems, &Problem{File: f.name, Message: message})
}

func (f *manifestFile) add(doc *document, offset int) {
	for _, e := range doc.entries {
		e.line += offset
		f.entries = append(f.entries, e)
	}
	for _, p := range doc.problems {
		moved := *p
		moved.File = f.name
		if moved.Line > 0 {
			moved.Line += offset
		}
		if moved.first > 0 {
			moved.Message = fmt.Sprintf(moved.Message, moved.first+offset)
			moved.first = 0
		}
		f.problems = append(f.problems, &moved)
	}
	f.skipped = append(f.skipped, doc.skipped...)
}

// duplicates finds objects that the file holds twice.
func (f *manifestFile) duplicates() {
	lines := map[objectKey]int{}
	for _, e := range f.entries {
		first, twice := lines[e.key]
		if !twice {
			lines[e.key] = e.line
			continue
		}
		f.problems = append(f.problems, duplicateOf(f.name, e, f.name, first))
	}
}

// sameObjects reports whether two contents hold the same objects. Documents that
// were not parsed again share theirs, so this is cheap for a large file.
func sameObjects(a, b []entry) bool {
	if len(a) != len(b) {
		return false
	}
	had := make(map[objectKey]Object, len(a))
	for _, e := range a {
		had[e.key] = e.object
	}
	return !slices.ContainsFunc(b, func(e entry) bool {
		object := had[e.key]
		return object != e.object && !reflect.DeepEqual(object, e.object)
	})
}

func duplicateOf(file string, e entry, otherFile string, otherLine int) *Problem {
	return &Problem{
		File: file, Line: e.line, Object: e.key.String(),
		Message: fmt.Sprintf("is also in %s:%d; remove or rename one of them", otherFile, otherLine),
	}
}

// kindsPassedOver lists the kinds in the file that were passed over.
func (f *manifestFile) kindsPassedOver() string {
	sorted := slices.Clone(f.skipped)
	slices.Sort(sorted)
	return strings.Join(slices.Compact(sorted), ", ")
}
