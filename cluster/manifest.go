package cluster

import (
	"cmp"
	"context"
	"maps"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/topology"
)

// Objects is everything that a set of manifests holds.
type Objects struct {
	Snapshot *topology.Snapshot
	Slices   map[types.NamespacedName][]*discoveryv1.EndpointSlice
	// PassedOver lists "file: kinds" that were there but mean nothing to us.
	PassedOver []string
}

// Load reads manifests once. The error is of type Problems unless a path does
// not exist. With an error the Objects are those of the files without one.
func Load(paths []string) (*Objects, error) {
	if err := checkPaths(paths); err != nil {
		return nil, err
	}
	store := NewStore()
	config := DefaultManifestsConfig()
	config.Paths = paths
	m := newManifests(config, store)
	outcome := m.scan(true)
	if outcome.err != nil {
		return nil, outcome.err
	}
	update := store.Next()
	objects := &Objects{Snapshot: update.Snapshot, Slices: update.Slices}
	var problems Problems
	for _, f := range m.sorted() {
		if kinds := f.kindsPassedOver(); kinds != "" {
			objects.PassedOver = append(objects.PassedOver, f.name+": "+kinds)
		}
	}
	for _, r := range outcome.reports {
		problems = append(problems, r.Problems...)
	}
	problems.sort()
	return objects, problems.asError()
}

// Manifests keeps a Store equal to what a set of files holds. A file with any
// problem keeps its last good content as a whole. Not safe for concurrent use.
type Manifests struct {
	paths  []string
	store  *Store
	clock  clock.WithTicker
	config ManifestsConfig
	report func(context.Context, fileReport)

	files map[string]*manifestFile
	// problems of every file as last settled, nil before.
	problems map[string]Problems
	// listing holds the places that cannot be listed, and what we told of them.
	listing  []*Problem
	unlisted string
	listed   bool // all places could be listed at least once

	fed        map[objectKey]Object // what the Store holds of us
	written    map[objectKey]Object // the same objects as their documents have them
	namespaces map[string]*corev1.Namespace
}

func newManifests(config ManifestsConfig, store *Store) *Manifests {
	return &Manifests{
		paths: config.Paths, store: store, clock: config.Clock, config: config,
		report:     logReport,
		files:      map[string]*manifestFile{},
		fed:        map[objectKey]Object{},
		written:    map[objectKey]Object{},
		namespaces: map[string]*corev1.Namespace{},
	}
}

// fileReport is news about one file: its problems, or none after it had some.
type fileReport struct {
	File     string
	Problems Problems
	// Kept is the number of objects of the last good content that stay in use.
	Kept int
	// Recovered: it had problems before.
	Recovered bool
	// PassedOver kinds, told together with the first reading of a content.
	PassedOver string
}

// outcome is what one scan found.
type outcome struct {
	reports []fileReport // news only, sorted by file
	// recheck: a file is missing and may be in the middle of being replaced.
	recheck bool
	err     error
}

// scan reads what changed and brings the Store up to date. Unless all is set,
// files whose signature did not change are not read.
func (m *Manifests) scan(all bool) outcome {
	found, unlistable := listFiles(m.paths)
	m.listing = unlistable
	present := make(map[string]bool, len(found))
	var out outcome
	changed := map[string]bool{} // files with new content
	dirty := m.problems == nil   // what counts has to be settled anew
	for i, l := range found {
		present[l.name] = true
		f := m.files[l.name]
		if f == nil {
			f = &manifestFile{name: l.name}
			m.files[l.name] = f
		}
		f.order, f.missing = i, time.Time{}
		if !all && f.read && f.signature == l.signature && !m.racy(f) {
			continue
		}
		if f.reread(l.signature) {
			changed[f.name], dirty = true, true
		}
	}
	for name, f := range m.files {
		if present[name] || len(unlistable) > 0 {
			continue // what cannot be looked at keeps its last good content
		}
		switch {
		case f.missing.IsZero():
			f.missing = m.clock.Now()
			out.recheck = true
		case m.clock.Since(f.missing) >= m.config.Confirm:
			delete(m.files, name)
			dirty = true
		default:
			out.recheck = true
		}
	}
	if dirty {
		var effective []entry
		effective, m.problems = m.settle()
		out.err = m.feed(effective)
	}
	m.store.SetPartial(m.partial())
	out.reports = m.news(changed)
	return out
}

// partial reports whether there is content that was never read since the start: of
// a file that is broken until now, or of a place that cannot be listed.
func (m *Manifests) partial() bool {
	if len(m.listing) > 0 && !m.listed {
		return true
	}
	m.listed = true
	for _, f := range m.files {
		if !f.settled && len(m.problems[f.name]) > 0 {
			return true
		}
	}
	return false
}

// reread loads the file's present content and reports whether it is new.
func (f *manifestFile) reread(s signature) bool {
	content, err := os.ReadFile(f.name)
	switch {
	case os.IsNotExist(err): // gone since it was listed: the next scan will see
		return false
	case err != nil:
		f.read = false
		f.problems = []*Problem{unreadable(f.name, err)}
		return true
	}
	f.signature = s
	return f.load(content)
}

// racy reports that a file was written so shortly before now that a later write
// may have left the same signature (time stamps have the kernel's tick).
func (m *Manifests) racy(f *manifestFile) bool {
	return m.clock.Since(f.signature.mtime) < 2*time.Second
}

// sorted returns the files in the order of the paths and then of their names.
func (m *Manifests) sorted() []*manifestFile {
	return slices.SortedFunc(maps.Values(m.files), func(a, b *manifestFile) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.name, b.name))
	})
}

// settle decides which content of every file counts: the present one, or the
// last good one where the present one has problems or takes an object that
// another file holds. The holder is the file that had the object before, else
// the first in order; the other one is the broken edit.
func (m *Manifests) settle() (effective []entry, problems map[string]Problems) {
	files := m.sorted()
	problems = map[string]Problems{}
	for _, f := range files {
		problems[f.name] = f.problems
	}
	content := func(f *manifestFile) []entry {
		if len(problems[f.name]) > 0 {
			return f.good
		}
		return f.entries
	}
	for m.collide(files, content, problems) {
		// One file fell back to its good content: look again.
	}
	for _, f := range files {
		if problems[f.name].sort(); len(problems[f.name]) == 0 {
			f.good, f.settled = f.entries, true
		}
		effective = append(effective, f.good...)
	}
	return effective, problems
}

// collide finds the first file whose content takes an object of another file and
// adds the problems to whichever of the two loses. False when there is none.
// Good contents never collide, so each round leaves one file less to lose.
func (m *Manifests) collide(files []*manifestFile, content func(*manifestFile) []entry, problems map[string]Problems) bool {
	type place struct {
		file *manifestFile
		line int
	}
	holders := map[objectKey]place{}
	for _, f := range files {
		found := map[string]Problems{}
		for _, e := range content(f) {
			holder, taken := holders[e.key]
			if !taken || holder.file == f {
				holders[e.key] = place{file: f, line: e.line}
				continue
			}
			loser := place{file: f, line: e.line}
			if f.holds(e.key) && !holder.file.holds(e.key) {
				loser, holder = holder, loser
			}
			e.line = loser.line
			found[loser.file.name] = append(found[loser.file.name], duplicateOf(loser.file.name, e, holder.file.name, holder.line))
		}
		for name, ps := range found {
			problems[name] = append(slices.Clone(problems[name]), ps...)
		}
		if len(found) > 0 {
			return true
		}
	}
	return false
}

// holds reports whether the file's last good content has the object.
func (f *manifestFile) holds(key objectKey) bool {
	return slices.ContainsFunc(f.good, func(e entry) bool { return e.key == key })
}

// news returns what was not told before.
func (m *Manifests) news(changed map[string]bool) []fileReport {
	var reports []fileReport
	for _, f := range m.sorted() {
		now := m.problems[f.name]
		report := fileReport{File: f.name, Kept: len(f.good)}
		if changed[f.name] {
			report.PassedOver = f.kindsPassedOver()
		}
		told := now.Error() == f.reported
		if !told {
			report.Problems, report.Recovered = now, f.reported != "" && len(now) == 0
			f.reported = now.Error()
		}
		if !told || report.PassedOver != "" {
			reports = append(reports, report)
		}
	}
	if now := Problems(m.listing); now.Error() != m.unlisted {
		m.unlisted = now.Error()
		for _, p := range now {
			reports = append(reports, fileReport{File: p.File, Problems: Problems{p}})
		}
	}
	return reports
}

// feed gives the Store the difference to what it got before.
func (m *Manifests) feed(effective []entry) error {
	want := make(map[objectKey]Object, len(effective))
	for _, e := range effective {
		want[e.key] = e.object
	}
	m.impliedNamespaces(want)
	var put, remove []Object
	for key, object := range m.fed {
		if want[key] == nil {
			remove = append(remove, object)
			delete(m.fed, key)
			delete(m.written, key)
		}
	}
	for key, object := range want {
		if m.written[key] == object {
			continue
		}
		m.written[key] = object
		next := object
		if old := m.fed[key]; old != nil {
			next = withGeneration(old, object)
		}
		m.fed[key] = next
		put = append(put, next)
	}
	return m.store.Apply(put, remove)
}

// impliedNamespaces adds the namespaces that occur without a document.
func (m *Manifests) impliedNamespaces(want map[objectKey]Object) {
	for key := range maps.Clone(want) {
		if key.Namespace == "" {
			continue
		}
		id := objectKey{kind: "Namespace", NamespacedName: types.NamespacedName{Name: key.Namespace}}
		if want[id] != nil {
			continue
		}
		implied := m.namespaces[key.Namespace]
		if implied == nil {
			implied = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: key.Namespace, Generation: 1}}
			defaultNamespace(implied)
			m.namespaces[key.Namespace] = implied
		}
		want[id] = implied
	}
}
