package lab

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// noLogs are directories with the state of etcd, nodes and fake pods.
var noLogs = regexp.MustCompile(`^(etcd|node\d+/(root|pods))$`)

// Logs returns the log files of the lab in a directory, running or not, by names
// relative to it: "kube-apiserver.log", "node1/kubelet.log",
// "node1/logs/NAMESPACE_POD_CONTAINER.log", on the full level
// "node1/logs/pods/NAMESPACE_POD_UID/CONTAINER/0.log". Only names that contain all of the
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
		case entry.IsDir() && noLogs.MatchString(name):
			return fs.SkipDir
		case !entry.Type().IsRegular() || !strings.HasSuffix(name, ".log"):
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

// kubeletLog is what a container of the full level has printed, without what the runtime
// writes before each line: time, stream, and P for a part of a line, F for its end.
func (l *Lab) kubeletLog(namespace, pod, container string) (string, error) {
	pattern := filepath.Join(l.dir, "node*", "logs", "pods", namespace+"_"+pod+"_*", container, "*.log")
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no log %s: %w", pattern, errors.Join(fs.ErrNotExist, err))
	}
	slices.SortFunc(found, func(a, b string) int { // 10.log is after 9.log
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	var all strings.Builder
	for _, file := range found {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(content)) {
			if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
				if fields[2] == "P" {
					fields[3] = strings.TrimSuffix(fields[3], "\n")
				}
				all.WriteString(fields[3])
			}
		}
	}
	return all.String(), nil
}
