package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/utils/clock"
)

// place is a directory whose events we want: those of all its manifests, or of
// some names.
type place struct {
	inode uint64
	all   bool
	names map[string]bool
}

// placesOf returns the directories to watch, links resolved: every directory
// given, the parents of all paths (they see a path itself come, go and change
// its target) and the directories that linked files really are in.
func placesOf(paths []string, files []*manifestFile) map[string]*place {
	places := map[string]*place{}
	want := func(directory, name string) {
		resolved, err := filepath.EvalSymlinks(directory)
		if err != nil {
			return
		}
		if resolved, err = filepath.Abs(resolved); err != nil {
			return
		}
		info, err := os.Stat(resolved)
		if err != nil || !info.IsDir() {
			return
		}
		p := places[resolved]
		if p == nil {
			p = &place{inode: signatureOf(info).inode, names: map[string]bool{}}
			places[resolved] = p
		}
		if name == "" {
			p.all = true
		} else {
			p.names[name] = true
		}
	}
	for _, path := range paths {
		clean := filepath.Clean(path)
		if absolute, err := filepath.Abs(clean); err == nil {
			clean = absolute
		}
		want(filepath.Dir(clean), filepath.Base(clean))
		if info, err := os.Stat(clean); err == nil && info.IsDir() {
			want(clean, "")
		}
	}
	for _, f := range files {
		if target, err := filepath.EvalSymlinks(f.name); err == nil {
			want(filepath.Dir(target), filepath.Base(target))
		}
	}
	return places
}

// relevant reports whether an event can have changed what we read. Hidden names
// count only with two dots, as those of mounted ConfigMaps: an editor's swap
// file must not put off the reading.
func (w *fileWatch) relevant(event fsnotify.Event) bool {
	if event.Op == fsnotify.Chmod {
		return false
	}
	directory, name := filepath.Split(event.Name)
	p := w.places[filepath.Clean(directory)]
	switch {
	case p == nil:
		return true // the watched directory itself
	case p.names[name]:
		return true
	default:
		return p.all && (isManifest(name) || strings.HasPrefix(name, ".."))
	}
}

// timer is a clock.Timer that can be set again without draining it.
type timer struct {
	clock clock.Clock
	timer clock.Timer
}

func newTimer(c clock.Clock) *timer { return &timer{clock: c} }

func (t *timer) set(d time.Duration) {
	t.stop()
	t.timer = t.clock.NewTimer(d)
}

func (t *timer) stop() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

func (t *timer) fired() <-chan time.Time {
	if t.timer == nil {
		return nil
	}
	return t.timer.C()
}
