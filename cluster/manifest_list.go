package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// listed is one file that the paths of the user lead to now.
type listed struct {
	name      string
	order     int // index of the path it belongs to
	signature signature
}

// signature tells without reading that a file is the one we read.
type signature struct {
	size  int64
	inode uint64
	mtime time.Time
}

// listing finds the files that the paths lead to.
type listing struct {
	paths []string
	// directories are those paths that led to one when they last led anywhere.
	directories map[string]bool
}

func newListing(paths []string) *listing {
	return &listing{paths: paths, directories: map[string]bool{}}
}

// files returns the files that the paths lead to: a regular file itself whatever
// its name, of a directory all *.yaml, *.yml and *.json but hidden ones and those
// that are no regular files. Like kubectl, it does not descend into directories
// below: in a mounted ConfigMap those are the hidden copies.
//
// What cannot be looked at is returned as problems, and so is a directory that
// is gone: it was not edited, it was unmounted or moved. A file that does not
// exist is not there, which is no problem.
func (l *listing) files() (files []listed, problems []*Problem) {
	seen := map[string]bool{}
	add := func(name string, order int, info fs.FileInfo) {
		id := name
		if absolute, err := filepath.Abs(name); err == nil {
			id = absolute
		}
		if !seen[id] {
			seen[id] = true
			files = append(files, listed{name: name, order: order, signature: signatureOf(info)})
		}
	}
	for order, path := range l.paths {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if l.directories[path] {
				problems = append(problems, &Problem{File: path, Message: "the directory is gone; bring it back, empty if its objects are to go"})
			}
			continue
		case err != nil:
			problems = append(problems, unreadable(path, err))
			continue
		case info.Mode().IsRegular():
			delete(l.directories, path)
			add(path, order, info)
			continue
		case !info.IsDir():
			problems = append(problems, &Problem{File: path, Message: notRegular(info.Mode())})
			continue
		}
		l.directories[path] = true
		names, err := os.ReadDir(path)
		if err != nil {
			problems = append(problems, unreadable(path, err))
			continue
		}
		for _, entry := range names {
			if !isManifest(entry.Name()) {
				continue
			}
			name := filepath.Join(path, entry.Name())
			info, err := os.Stat(name) // follows symlinks
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				problems = append(problems, unreadable(name, err))
			case info.Mode().IsRegular():
				add(name, order, info)
			}
		}
	}
	slices.SortStableFunc(files, func(a, b listed) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.name, b.name))
	})
	return files, problems
}

// isManifest reports whether a file of a directory is read. Names that begin
// with a dot are editors' and mounts' own.
func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	default:
		return false
	}
}

func signatureOf(info fs.FileInfo) signature {
	s := signature{size: info.Size(), mtime: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

// covers reports whether a problem of listing is about the file or its directory.
func covers(problems []*Problem, file string) bool {
	return slices.ContainsFunc(problems, func(p *Problem) bool {
		place := filepath.Clean(p.File)
		return place == filepath.Clean(file) || place == filepath.Dir(file)
	})
}

// checkPaths fails when a path does not exist or is none that is ever read, which
// at the start is a mistake.
func checkPaths(paths []string) error {
	if len(paths) == 0 {
		return errors.New("no manifests given; name files or directories")
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			var cause *fs.PathError
			if errors.As(err, &cause) {
				err = cause.Err
			}
			return fmt.Errorf("read manifests %s: %w", path, err)
		case !info.IsDir() && !info.Mode().IsRegular():
			return fmt.Errorf("read manifests: %s %s", path, notRegular(info.Mode()))
		}
	}
	return nil
}
