// Package cgroup gives each node of the full level control groups of its own, in the
// version that the machine has: one tree per controller (1) or one tree (2). It mounts
// the trees anew in the mount namespace of its caller and leaves the machine's mounts
// alone; what it makes is below Root only.
package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Root is the group above all that labs make.
	Root = "portway-lab"
	// Mounted is where the trees are mounted, in whichever namespace.
	Mounted = "/sys/fs/cgroup"

	procs       = "cgroup.procs"
	removeLimit = 10 * time.Second
)

// kubeletNeeds are the controllers without which a kubelet does not start.
var kubeletNeeds = []string{"cpu", "cpuacct", "cpuset", "memory", "pids"}

// tree is a hierarchy of version 1, or the only one of version 2.
type tree struct {
	dir         string   // below Mounted
	controllers []string // version 1: mount options; version 2: none
}

// Version is that of the control groups of this machine, 1 or 2. An error says what
// the nodes of the full level lack.
func Version() (int, error) {
	trees, err := find()
	if err != nil {
		return 0, err
	}
	if trees[0].controllers == nil {
		return 2, nil
	}
	var have []string
	for _, t := range trees {
		have = append(have, t.controllers...)
	}
	for _, need := range kubeletNeeds {
		if !slices.Contains(have, need) {
			return 1, fmt.Errorf("control groups of version 1 without the controller %s", need)
		}
	}
	return 1, nil
}

// find reads which trees there are. A tree of version 2 beside those of version 1 has
// no controllers and is left alone.
func find() ([]tree, error) {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	return parse(string(content))
}

func parse(content string) ([]tree, error) {
	var v1 []tree
	unified := false
	for line := range strings.Lines(content) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) != 3 {
			return nil, fmt.Errorf("find control groups: line %q", line)
		}
		if fields[1] == "" {
			unified = true
			continue
		}
		v1 = append(v1, tree{dir: strings.TrimPrefix(fields[1], "name="), controllers: strings.Split(fields[1], ",")})
	}
	switch {
	case len(v1) > 0:
		return v1, nil
	case unified:
		return []tree{{}}, nil
	}
	return nil, errors.New("this machine has no control groups")
}

// Mount mounts the trees at Mounted. Their root is that of the control group namespace
// of the caller.
func Mount() error {
	trees, err := find()
	if err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if trees[0].controllers == nil {
		return mount("cgroup2", Mounted, flags, "")
	}
	if err := mount("tmpfs", Mounted, flags, "mode=755"); err != nil {
		return err
	}
	for _, t := range trees {
		at := filepath.Join(Mounted, t.dir)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		options := strings.Join(t.controllers, ",")
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := mount("cgroup", at, flags, options); err != nil {
			return err
		}
		if len(t.controllers) == 1 {
			continue
		}
		for _, c := range t.controllers {
			if err := os.Symlink(t.dir, filepath.Join(Mounted, c)); err != nil {
				return err
			}
		}
	}
	return nil
}

func mount(kind, at string, flags uintptr, options string) error {
	if err := unix.Mount(kind, at, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s %s at %s: %w", kind, options, at, err)
	}
	return nil
}

// Join makes a group, if it is missing, and moves the calling process into it.
func Join(group string) error {
	trees, err := find()
	if err != nil {
		return err
	}
	for _, t := range trees {
		if err := t.make(group); err != nil {
			return err
		}
		if err := write(filepath.Join(Mounted, t.dir, group, procs), "0"); err != nil {
			return err
		}
	}
	return nil
}

// make makes a group and those above it. In a new group of version 1 nobody may run
// before its CPUs are said; of version 2, it has no controllers before the one above
// gives it some.
func (t tree) make(group string) error {
	at := filepath.Join(Mounted, t.dir)
	for _, part := range strings.Split(group, "/") {
		above := at
		at = filepath.Join(at, part)
		if t.controllers == nil {
			if err := giveControllers(above); err != nil {
				return err
			}
		}
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if !slices.Contains(t.controllers, "cpuset") {
			continue
		}
		// Also in one that exists: who made it may not be that far.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(above, at, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherit copies a setting from the group above unless it is set.
func inherit(above, at, file string) error {
	content, err := os.ReadFile(filepath.Join(at, file))
	if err != nil || len(bytes.TrimSpace(content)) > 0 {
		return err
	}
	if content, err = os.ReadFile(filepath.Join(above, file)); err != nil {
		return err
	}
	return write(filepath.Join(at, file), string(content))
}

// giveControllers passes on what a group of version 2 has. A group with processes of
// its own, such as that of the node itself while its first process is there, keeps
// them: the kubelet passes them on later.
func giveControllers(group string) error {
	content, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var all []string
	for _, c := range bytes.Fields(content) {
		all = append(all, "+"+string(c))
	}
	err = write(filepath.Join(group, "cgroup.subtree_control"), strings.Join(all, " "))
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

func write(file, content string) error {
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	return nil
}

// Exec becomes a command in a group; with own, in a control group namespace that has the
// group for its root. Threads have namespaces of their own: the one that calls exec is
// all that is left of the process.
func Exec(group string, own bool, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	if err := Join(group); err != nil {
		return err
	}
	runtime.LockOSThread()
	if own {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("make control group namespace: %w", err)
		}
	}
	return unix.Exec(path, command, os.Environ())
}

// MountAndRemove is Remove for a process in a mount namespace that was made for it.
func MountAndRemove(group string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := Mount(); err != nil {
		return err
	}
	return Remove(group)
}

// Remove removes a group with all below it once their processes are dead, and then
// Root if it was the last.
func Remove(group string) error {
	trees, err := find()
	if err != nil {
		return err
	}
	late := time.Now().Add(removeLimit)
	for _, t := range trees {
		top := filepath.Join(Mounted, t.dir, Root)
		for {
			err := removeAll(filepath.Join(Mounted, t.dir, group))
			if err == nil {
				break
			}
			if time.Now().After(late) {
				return fmt.Errorf("control group: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err := os.Remove(top); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// removeAll removes directories only: the files of a group go with it.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	err = unix.Rmdir(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rmdir %s: %w", dir, err)
	}
	return nil
}
