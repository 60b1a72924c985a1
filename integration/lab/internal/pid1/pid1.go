// Package pid1 is the first process of the lab and of each node: it makes the
// mount namespace it was started in private, starts one command and reaps
// orphans until that command ends. When it dies, the kernel kills everything in
// its process namespace; that is how a lab goes down and how a node crashes.
package pid1

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/integration/lab/internal/cgroup"
)

// CloneFlags are the namespaces that the first process must be started in, apart
// from the network namespace.
const CloneFlags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// Config says what the first process prepares before it starts the command.
type Config struct {
	Hostname string
	// Binds are "FROM:TO": a directory of the lab shown in place of one of the
	// machine, so that nothing that runs here writes into the latter.
	Binds []string
	// Cgroups mounts the control groups anew; Group is made and joined, if it is not
	// empty.
	Cgroups bool
	Group   string
	// Shared lets mounts spread among the mount namespaces made from this one.
	Shared  bool
	Command []string
}

// Run prepares the namespaces, runs the command and returns its exit code.
func Run(c Config) (int, error) {
	if os.Getpid() != 1 {
		return 0, fmt.Errorf("not the first process of a process namespace, but %d", os.Getpid())
	}
	if err := prepare(c); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(c.Command[0])
	if err != nil {
		return 0, err
	}
	child, err := os.StartProcess(path, c.Command, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for children: %w", err)
		case pid == child.Pid:
			return status.ExitStatus(), nil
		}
	}
}

func prepare(c Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for _, bind := range c.Binds {
		from, to, _ := strings.Cut(bind, ":")
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", bind, err)
		}
	}
	if c.Cgroups {
		if err := cgroup.Mount(); err != nil {
			return err
		}
	}
	if c.Group != "" {
		if err := cgroup.Join(c.Group); err != nil {
			return err
		}
	}
	if c.Shared {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			return fmt.Errorf("share mounts: %w", err)
		}
	}
	if c.Hostname == "" {
		return nil
	}
	return unix.Sethostname([]byte(c.Hostname))
}
