package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	downLimit = 10 * time.Second
	pidFile   = "lab.pid"
)

// process is the first process of a lab. Its number alone may be another's by now;
// number and start are nobody else's. The command line would not do: it is empty
// until some time after exec has let go of the parent, so that a lab just started
// would look dead.
type process struct {
	pid   int
	start string // as /proc/PID/stat has it
}

// find returns the process of a number.
func find(pid int) (process, error) {
	start, _, err := stat(pid)
	return process{pid: pid, start: start}, err
}

// alive reports whether the process runs; one that nobody has waited for does not.
func (p process) alive() bool {
	start, ended, err := stat(p.pid)
	return err == nil && start == p.start && !ended
}

func stat(pid int) (start string, ended bool, err error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false, err
	}
	// Fields are counted from the end of the name, which may contain anything.
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	if len(fields) < 20 {
		return "", false, fmt.Errorf("/proc/%d/stat: %q", pid, line)
	}
	state, threads := fields[0], fields[17]
	// The last thread takes the process namespace with it; until then only the
	// first one is a zombie.
	return fields[19], (state == "Z" || state == "X") && (threads == "0" || threads == "1"), nil
}

// kill ends the process and all that run in its process namespace.
func (p process) kill() error {
	if p.alive() {
		if err := unix.Kill(p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end lab: %w", err)
		}
	}
	for end := time.Now().Add(downLimit); p.alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d did not die", p.pid)
		}
	}
	return nil
}

// write records the process as the one of the lab in a directory.
func (p process) write(dir string) error {
	return os.WriteFile(filepath.Join(dir, pidFile), fmt.Appendln(nil, p.pid, p.start), 0o644)
}

// readProcess returns the process that write recorded.
func readProcess(dir string) (process, error) {
	content, err := os.ReadFile(filepath.Join(dir, pidFile))
	if err != nil {
		return process{}, err
	}
	pid, start, ok := strings.Cut(strings.TrimSpace(string(content)), " ")
	number, err := strconv.Atoi(pid)
	if err != nil || !ok {
		return process{}, fmt.Errorf("%s: %q", pidFile, content)
	}
	return process{pid: number, start: start}, nil
}
