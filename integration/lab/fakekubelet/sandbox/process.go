package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// EnterCommand is the first argument with which this program, started again, is
// Enter.
const EnterCommand = "enter-container"

// Mount shows a file or a directory of the node in a container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Spec is a container to be run.
type Spec struct {
	Args     []string
	Env      []string
	Dir      string // working directory; empty: /
	Hostname string
	Root     string // an existing directory; the container's root is mounted over it
	Image    string // the directory with the image's files; empty: the machine's programs
	ReadOnly bool   // the container's root
	Mounts   []Mount
	Files    map[string]string // written into the root

	UID, GID   int
	Groups     []int
	Privileged bool
	// BootID that the kernel shows the container as its own.
	BootID string
	// Capabilities that may be had at all, by number; unused when Privileged.
	Capabilities []int
	NoNewPrivs   bool
	HostPID      bool
}

// Process is a running container: its first process. When that ends, the kernel
// kills all others of the container (HostPID apart).
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// Start runs a container in a network; nil is the node's own.
func Start(spec Spec, network *Network, log *os.File) (*Process, error) {
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }()
	cmd := exec.Command("/proc/self/exe", EnterCommand)
	cmd.Args[0] = "fakekubelet"
	cmd.ExtraFiles = []*os.File{reader}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	if !spec.HostPID {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	}
	start := cmd.Start
	if network != nil {
		start = func() error { return network.place.Do(cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start container: %w", err), writer.Close())
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// The exit code is in cmd.ProcessState.
		_ = cmd.Wait()
	}()
	_, err = writer.Write(encoded)
	if err := errors.Join(err, writer.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("hand over container: %w", err), p.Signal(unix.SIGKILL))
	}
	return p, nil
}

// Done is closed when the container has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID is the first process, as the node numbers it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exit returns the exit code of a container that has ended, and the signal that
// ended it, if one did.
func (p *Process) Exit() (code, signal int) {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), int(status.Signal())
	}
	return p.cmd.ProcessState.ExitCode(), 0
}

// Signal sends a signal to the first process; it is no error if that has ended.
func (p *Process) Signal(signal syscall.Signal) error {
	err := p.cmd.Process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Exec runs a command inside a running container.
func (p *Process) Exec(args []string, out io.Writer) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(p.PID()), "-m", "-n", "-p", "-u", "-i", "-r", "-w", "--"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd
}
