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

// listFiles returns the files that the paths lead to: a file itself whatever
// its name, of a directory all *.yaml, *.yml and *.json but hidden ones. Like
// kubectl, it does not descend into directories below: in a mounted ConfigMap
// those are the hidden copies. What cannot be looked at is returned as problems;
// what does not exist is not there, which is no problem.
func listFiles(paths []string) (files []listed, problems []*Problem) {
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
	for order, path := range paths {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			problems = append(problems, unreadable(path, err))
			continue
		case !info.IsDir():
			add(path, order, info)
			continue
		}
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

func unreadable(path string, err error) *Problem {
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return &Problem{File: path, Message: fmt.Sprintf("cannot be read: %v", err)}
}

// checkPaths fails when a path does not exist, which at the start is a mistake.
func checkPaths(paths []string) error {
	if len(paths) == 0 {
		return errors.New("no manifests given; name files or directories")
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			var cause *fs.PathError
			if errors.As(err, &cause) {
				err = cause.Err
			}
			return fmt.Errorf("read manifests %s: %w", path, err)
		}
	}
	return nil
}
