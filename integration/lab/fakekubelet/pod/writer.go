package pod

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// payload is one file of a volume.
type payload struct {
	content []byte
	mode    fs.FileMode
}

const dataLink = "..data"

// writeVolume makes a directory hold exactly these files, by relative path. A
// reader sees either all of the old or all of the new ones, as with upstream's
// kubelet: names are symlinks into ..data, itself a symlink that is swapped.
// Nothing is written when nothing changes.
func writeVolume(dir string, files map[string]payload) (changed bool, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if old != "" && holds(filepath.Join(dir, old), files) {
		return false, nil
	}
	next, err := os.MkdirTemp(dir, "..volume-")
	if err != nil {
		return false, err
	}
	if err := os.Chmod(next, 0o755); err != nil {
		return false, err
	}
	for name, file := range files {
		if err := writePayload(filepath.Join(next, name), file); err != nil {
			return false, err
		}
	}
	swap := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(next), swap); err != nil {
		return false, err
	}
	if err := os.Rename(swap, filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	if err := linkNames(dir, files); err != nil {
		return false, err
	}
	if old == "" {
		return true, nil
	}
	return true, os.RemoveAll(filepath.Join(dir, old))
}

func writePayload(path string, file payload) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, file.content, file.mode); err != nil {
		return err
	}
	// Not subject to the umask.
	return os.Chmod(path, file.mode)
}

// linkNames makes the visible names: the first parts of all paths.
func linkNames(dir string, files map[string]payload) error {
	want := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		want[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case strings.HasPrefix(name, ".."):
		case want[name]:
			delete(want, name)
		default:
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("show %s: %w", name, err)
		}
	}
	return nil
}

// holds reports whether a directory holds exactly these files.
func holds(dir string, files map[string]payload) bool {
	count := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		count++
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		file, ok := files[name]
		if !ok {
			return fs.ErrNotExist
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(content, file.content) {
			return fs.ErrInvalid
		}
		return nil
	})
	return err == nil && count == len(files)
}
