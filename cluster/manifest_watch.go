package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// ManifestsConfig says which files are read and how they are watched.
type ManifestsConfig struct {
	// Paths are files and directories; of a directory *.yaml, *.yml and *.json
	// are read, but no hidden files and nothing below it.
	Paths []string
	// Quiet is how long a file must rest after a write before it is read, MaxDelay
	// the longest a stream of writes can put that off.
	Quiet, MaxDelay time.Duration
	// Confirm is how long a file must be missing before its objects go: editors
	// remove a file before they write it anew. A directory of Paths that is missing
	// keeps its objects.
	Confirm time.Duration
	// Rescan is the period of a look at everything, for changes the kernel does
	// not tell about (network file systems, links that point far away).
	Rescan time.Duration
	Clock  clock.WithTicker
}

// DefaultManifestsConfig returns the defaults; Paths are left to the caller. A
// saved edit is read after 100 ms, at the latest after 500 ms.
func DefaultManifestsConfig() ManifestsConfig {
	return ManifestsConfig{
		Quiet:    100 * time.Millisecond,
		MaxDelay: 500 * time.Millisecond,
		Confirm:  250 * time.Millisecond,
		Rescan:   2 * time.Second,
		Clock:    clock.RealClock{},
	}
}

// NewManifests reads the files into the Store. It fails when a path does not
// exist; files with problems are reported through the logger of ctx and left
// out. Run keeps the Store up to date from then on.
func NewManifests(ctx context.Context, config ManifestsConfig, store *Store) (*Manifests, error) {
	if err := checkPaths(config.Paths); err != nil {
		return nil, err
	}
	m := newManifests(config, store)
	if _, err := m.rescan(ctx, true); err != nil {
		return nil, err
	}
	return m, nil
}

// Run watches the files until ctx ends. Changes reach the Store; problems are
// logged once each.
func (m *Manifests) Run(ctx context.Context) {
	watch := newFileWatch(ctx)
	defer watch.close()
	due := newTimer(m.clock)
	watch.follow(ctx, m.paths, m.sorted())
	due.set(0) // for what changed between the first reading and the watch
	ticker := m.clock.NewTicker(m.config.Rescan)
	defer ticker.Stop()
	var first time.Time // of the writes not read yet
	for {
		all := false
		select {
		case <-ctx.Done():
			due.stop()
			return
		case event := <-watch.events():
			if watch.relevant(event) {
				if first.IsZero() {
					first = m.clock.Now()
				}
				due.set(min(m.config.Quiet, first.Add(m.config.MaxDelay).Sub(m.clock.Now())))
			}
			continue
		case err := <-watch.errors():
			// The queue ran over: anything may have changed.
			klog.FromContext(ctx).V(2).Info("File events were lost, reading all files", "reason", err.Error())
			due.set(m.config.Quiet)
			continue
		case <-due.fired():
			all = true
			first = time.Time{}
		case <-ticker.C():
		}
		recheck, err := m.rescan(ctx, all)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Could not take over the manifests")
		}
		switch added := watch.follow(ctx, m.paths, m.sorted()); {
		case recheck:
			due.set(m.config.Confirm)
		case added: // nobody told what happened there before
			due.set(m.config.Quiet)
		}
	}
}

func (m *Manifests) rescan(ctx context.Context, all bool) (recheck bool, err error) {
	out := m.scan(all)
	for _, r := range out.reports {
		m.report(ctx, r)
	}
	return out.recheck, out.err
}

// logReport tells the operator about one file, one line per problem.
func logReport(ctx context.Context, r fileReport) {
	logger := klog.FromContext(ctx)
	for _, p := range r.Problems {
		if r.Objects > 0 {
			logger.Error(p, "Manifest is broken, its last good content stays in use", "file", r.File, "objects", r.Objects)
		} else {
			logger.Error(p, "Manifest is broken, nothing of it is used", "file", r.File)
		}
	}
	if len(r.Problems) == 0 && r.Recovered {
		logger.Info("Manifest is good again", "file", r.File, "objects", r.Objects)
	}
	switch {
	case r.Removed:
		logger.Info("Manifest removed, its objects go", "file", r.File, "objects", r.Objects)
	case r.TakenOver:
		logger.Info("Manifest taken over", "file", r.File, "objects", r.Objects)
	}
	if r.PassedOver != "" {
		logger.Info("Passed over kinds that mean nothing to this agent", "file", r.File, "kinds", r.PassedOver)
	}
}

// fileWatch watches the directories of manifests; without inotify it is silent
// and the periodic rescan has to do.
type fileWatch struct {
	watcher *fsnotify.Watcher
	places  map[string]*place
}

func newFileWatch(ctx context.Context) *fileWatch {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot watch files, edits are found by the periodic scan only")
		watcher = nil
	}
	return &fileWatch{watcher: watcher, places: map[string]*place{}}
}

func (w *fileWatch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close() // nothing to lose: it is read from only
	}
}

func (w *fileWatch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *fileWatch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// follow brings the watched directories up to date and reports whether there are
// new ones.
func (w *fileWatch) follow(ctx context.Context, paths []string, files []*manifestFile) (added bool) {
	if w.watcher == nil {
		return false
	}
	want := placesOf(paths, files)
	for directory := range w.places {
		if want[directory] == nil {
			_ = w.watcher.Remove(directory) // it may be gone already
			delete(w.places, directory)
		}
	}
	watched := map[string]bool{}
	for _, directory := range w.watcher.WatchList() {
		watched[directory] = true
	}
	for directory, p := range want {
		old := w.places[directory]
		if old != nil && old.inode == p.inode && watched[directory] {
			w.places[directory] = p
			continue
		}
		if watched[directory] {
			_ = w.watcher.Remove(directory) // another directory took its name
		}
		if err := w.watcher.Add(directory); err != nil {
			klog.FromContext(ctx).V(2).Info("Cannot watch directory, edits there are found by the periodic scan only",
				"directory", directory, "reason", fmt.Sprint(err))
			delete(w.places, directory)
			continue
		}
		w.places[directory] = p
		added = true
	}
	return added
}
