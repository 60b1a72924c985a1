package cluster

import (
	"os"
	"path/filepath"
)

// Reads reports whether Manifests of these paths would read the file, also where
// links lead to it or the file does not exist yet. Whoever writes a file asks,
// so as not to be read back.
func Reads(paths []string, file string) bool {
	// A write may replace a link or go where it leads.
	for _, name := range []string{file, realPath(file, maxLinks)} {
		for _, path := range paths {
			if samePlace(path, name) || isManifest(filepath.Base(name)) && samePlace(path, filepath.Dir(name)) {
				return true
			}
			entries, err := os.ReadDir(path)
			if err != nil {
				continue // a file, or nothing yet
			}
			for _, entry := range entries {
				if isManifest(entry.Name()) && samePlace(filepath.Join(path, entry.Name()), name) {
					return true
				}
			}
		}
	}
	return false
}

// samePlace reports whether two paths lead to the same file or directory, or
// would once it exists.
func samePlace(a, b string) bool {
	if realPath(a, maxLinks) == realPath(b, maxLinks) {
		return true
	}
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other) // bind mounts, hard links
}

// maxLinks is the number of dangling links in a row that realPath follows.
const maxLinks = 40

// realPath returns the absolute path with all links resolved, as far as it exists.
func realPath(path string, links int) string {
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	if path == filepath.Dir(path) {
		return path
	}
	directory := realPath(filepath.Dir(path), links)
	path = filepath.Join(directory, filepath.Base(path))
	target, err := os.Readlink(path)
	if err != nil || links == 0 {
		return path
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(directory, target)
	}
	return realPath(target, links-1)
}
