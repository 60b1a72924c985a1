package cluster

import (
	"cmp"
	"context"
	"maps"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/topology"
)

// Objects is everything that a set of manifests holds.
type Objects struct {
	Snapshot *topology.Snapshot
	Slices   map[types.NamespacedName][]*topology.EndpointSlice
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
	paths   []string
	store   *Store
	clock   clock.WithTicker
	config  ManifestsConfig
	listing *listing
	report  func(context.Context, fileReport)

	files map[string]*manifestFile
	// problems of every file as last settled, nil before.
	problems map[string]Problems
	// unlistable are the places that cannot be listed, toldUnlistable what we told
	// of them by their names.
	unlistable     []*Problem
	toldUnlistable map[string]string
	listed         bool // all places could be listed at least once

	fed        map[objectKey]Object // what the Store holds of us
	written    map[objectKey]Object // the same objects as their documents have them
	namespaces map[string]*corev1.Namespace
}

func newManifests(config ManifestsConfig, store *Store) *Manifests {
	return &Manifests{
		paths: config.Paths, store: store, clock: config.Clock, config: config,
		listing:        newListing(config.Paths),
		report:         logReport,
		files:          map[string]*manifestFile{},
		toldUnlistable: map[string]string{},
		fed:            map[objectKey]Object{},
		written:        map[objectKey]Object{},
		namespaces:     map[string]*corev1.Namespace{},
	}
}

// fileReport is news about one file, or about a place that cannot be listed: its
// problems, or none after it had some.
type fileReport struct {
	File     string
	Problems Problems
	// Objects of the last good content, which are in use unless Removed.
	Objects int
	// Recovered: it had problems before.
	Recovered bool
	// TakenOver: other objects are in use than before, and not for the first time.
	TakenOver bool
	// Removed: it is gone and was confirmed to be.
	Removed bool
	// PassedOver kinds, told together with the first reading of a content.
	PassedOver string
}

// outcome is what one scan found.
type outcome struct {
	reports []fileReport // news only: files removed, files, places, each sorted
	// recheck: a file is missing and may be in the middle of being replaced.
	recheck bool
	err     error
}

// scan reads what changed and brings the Store up to date. Unless all is set,
// files whose signature did not change are not read.
func (m *Manifests) scan(all bool) outcome {
	var found []listed
	found, m.unlistable = m.listing.files()
	present := make(map[string]bool, len(found))
	var out outcome
	changed := map[string]bool{} // files with new content
	first := m.problems == nil
	dirty := first // what counts has to be settled anew
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
	out.reports, out.recheck = m.dropMissing(present)
	dirty = dirty || len(out.reports) > 0
	if dirty {
		var effective []entry
		effective, m.problems = m.settle()
		out.err = m.feed(effective)
	}
	m.store.SetPartial(m.partial())
	out.reports = append(out.reports, m.news(changed, first)...)
	return out
}

// dropMissing forgets the files that were missing for long enough and reports
// whether others still may be in the middle of being replaced. What cannot be
// looked at keeps its last good content.
func (m *Manifests) dropMissing(present map[string]bool) (removed []fileReport, recheck bool) {
	for _, f := range m.sorted() {
		switch {
		case present[f.name]:
		case covers(m.unlistable, f.name):
			f.missing = time.Time{} // it has all its time anew when its place is back
		case f.missing.IsZero():
			f.missing = m.clock.Now()
			recheck = true
		case m.clock.Since(f.missing) >= m.config.Confirm:
			delete(m.files, f.name)
			removed = append(removed, fileReport{File: f.name, Objects: len(f.good), Removed: true})
		default:
			recheck = true
		}
	}
	return removed, recheck
}

// partial reports whether there is content that was never read since the start: of
// a file that is broken until now, or of a place that cannot be listed.
func (m *Manifests) partial() bool {
	if len(m.unlistable) > 0 && !m.listed {
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
	content, err := readManifest(f.name)
	switch {
	case os.IsNotExist(err): // gone since it was listed: the next scan will see
		return false
	case err != nil:
		f.read = false
		f.entries, f.skipped = nil, nil
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
			f.takenOver = f.takenOver || !sameObjects(f.good, f.entries)
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

// news returns what was not told before. At the first reading everything is taken
// over, which is not news.
func (m *Manifests) news(changed map[string]bool, first bool) []fileReport {
	var reports []fileReport
	for _, f := range m.sorted() {
		now := m.problems[f.name]
		report := fileReport{File: f.name, Objects: len(f.good), TakenOver: f.takenOver && !first}
		f.takenOver = false
		if changed[f.name] {
			report.PassedOver = f.kindsPassedOver()
		}
		told := now.Error() == f.reported
		if !told {
			report.Problems, report.Recovered = now, f.reported != "" && len(now) == 0
			f.reported = now.Error()
		}
		if !told || report.TakenOver || report.PassedOver != "" {
			reports = append(reports, report)
		}
	}
	return append(reports, m.placeNews()...)
}

// placeNews returns what was not told before about places that cannot be listed.
func (m *Manifests) placeNews() []fileReport {
	var reports []fileReport
	now := make(map[string]string, len(m.unlistable))
	for _, p := range m.unlistable {
		now[p.File] = p.Message
		if m.toldUnlistable[p.File] != p.Message {
			reports = append(reports, fileReport{File: p.File, Problems: Problems{p}, Objects: m.objectsOf(p)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.toldUnlistable)) {
		if _, still := now[name]; !still {
			reports = append(reports, fileReport{File: name, Recovered: true, Objects: m.objectsOf(&Problem{File: name})})
		}
	}
	m.toldUnlistable = now
	return reports
}

// objectsOf counts the objects in use of a place.
func (m *Manifests) objectsOf(place *Problem) int {
	n := 0
	for _, f := range m.files {
		if covers([]*Problem{place}, f.name) {
			n += len(f.good)
		}
	}
	return n
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
