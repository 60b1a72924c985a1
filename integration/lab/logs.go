package lab

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Logs returns the log files of the lab in a directory, running or not, by names
// relative to it: "kube-apiserver.log", "node1/kubelet.log",
// "node1/logs/NAMESPACE_POD_CONTAINER.log". Only names that contain all of the
// words are returned.
func Logs(dir string, words ...string) ([]string, error) {
	dir = orDefault(dir, DefaultDir())
	var found []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && (entry.Name() == "pods" || entry.Name() == "root" || entry.Name() == "etcd"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".log"):
			return nil
		}
		for _, word := range words {
			if !strings.Contains(name, word) {
				return nil
			}
		}
		found = append(found, name)
		return nil
	})
	return found, err
}

// PrintLogs writes the logs that Logs finds, each under its name, the last lines of
// each; 0: all lines.
func PrintLogs(w io.Writer, dir string, lines int, words ...string) error {
	names, err := Logs(dir, words...)
	if err != nil {
		return err
	}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(orDefault(dir, DefaultDir()), name))
		if err != nil {
			return err
		}
		all := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
		if lines > 0 {
			all = all[max(0, len(all)-lines):]
		}
		if _, err := fmt.Fprintf(w, "==> %s <==\n%s\n", name, strings.Join(all, "\n")); err != nil {
			return err
		}
	}
	return nil
}
