package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/portway-dev/portway/integration/lab/internal/netns"
)

// program is what a process runs and where.
type program struct {
	name   string // of its log file, too
	args   []string
	env    []string // in addition to the machine's
	place  *netns.Handle
	clone  uintptr // further namespaces
	logDir string
}

// process is a started program.
type process struct {
	program
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func (p program) logFile() string { return filepath.Join(p.logDir, p.name+".log") }

// start starts the program; its log is appended to, so that it survives restarts.
func (p program) start() (*process, error) {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: p.clone}
	run := cmd.Start
	if p.place != nil {
		run = func() error { return p.place.Do(cmd.Start) }
	}
	if err := run(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	started := &process{program: p, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(started.done)
		// The exit code is in cmd.ProcessState.
		_ = cmd.Wait()
	}()
	return started, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended returns how the process ended, nil while it runs.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %s, see %s", p.name, p.cmd.ProcessState, p.logFile())
	default:
		return nil
	}
}

// killLimit is what a death may take.
const killLimit = 10 * time.Second

// kill ends the process at once, as a power failure would, and with it its group: it may
// only be what entered a namespace for its child. It waits for the end of all of them.
func (p *process) kill() error {
	if p.ended() != nil {
		return nil
	}
	late := time.Now().Add(killLimit)
	for {
		err := syscall.Kill(-p.pid(), syscall.SIGKILL)
		switch {
		case errors.Is(err, syscall.ESRCH):
			<-p.done
			return nil
		case err != nil:
			return fmt.Errorf("kill %s: %w", p.name, err)
		case time.Now().After(late):
			return fmt.Errorf("%s did not die", p.name)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
