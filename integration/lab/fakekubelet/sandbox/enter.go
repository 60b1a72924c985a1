package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const lastCapability = 63 // more than there are; the kernel says where they end

// Enter is what the first process of a container does before it becomes the
// pod's command: it reads its Spec, makes its root and gives up its rights. It
// returns only if that fails.
func Enter() error {
	// Capabilities belong to the thread, and execve takes those of the caller.
	runtime.LockOSThread()
	pipe := os.NewFile(3, "spec")
	var spec Spec
	if err := json.NewDecoder(pipe).Decode(&spec); err != nil {
		return fmt.Errorf("read spec: %w", err)
	}
	if err := pipe.Close(); err != nil {
		return err
	}
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if err := makeRoot(spec); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	if spec.Dir != "" {
		if err := os.Chdir(spec.Dir); err != nil {
			return err
		}
	}
	path, err := lookPath(spec)
	if err != nil {
		return err
	}
	if err := dropRights(spec); err != nil {
		return fmt.Errorf("drop rights: %w", err)
	}
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, spec.Args, spec.Env))
}

// lookPath searches the path of the container, not of the kubelet.
func lookPath(spec Spec) (string, error) {
	for _, env := range spec.Env {
		if path, ok := strings.CutPrefix(env, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return "", err
			}
		}
	}
	return exec.LookPath(spec.Args[0])
}

func dropRights(spec Spec) error {
	if !spec.Privileged {
		if err := boundCapabilities(spec.Capabilities); err != nil {
			return err
		}
	}
	if spec.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := unix.Setgroups(spec.Groups); err != nil {
		return err
	}
	if err := unix.Setresgid(spec.GID, spec.GID, spec.GID); err != nil {
		return err
	}
	return unix.Setresuid(spec.UID, spec.UID, spec.UID)
}

// boundCapabilities limits what a program gets when it is executed: root gets what
// is in the bounding set, everybody else nothing. The inheritable set goes, too.
func boundCapabilities(kept []int) error {
	keep := map[int]bool{}
	for _, c := range kept {
		keep[c] = true
	}
	for c := range lastCapability + 1 {
		if keep[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last one of this kernel
		}
		if err != nil {
			return err
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&header, &data[0])
}
