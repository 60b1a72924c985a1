package traffic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	// temporaryPrefix is before the process ID of whom a directory belongs to.
	temporaryPrefix = "portway-traffic-"
	// waits makes a process of this program say where its temporary directory is, and wait.
	waits = "PORTWAY_BENCH_WAITS"
)

// temporary gives the process a directory of its own for temporary files, where those are that
// it starts, too, and returns what removes it; SIGINT and SIGTERM do so before they end the
// process. Of whom was killed the next one removes the directory. The process that is started
// again in namespaces has that of the first, which does not come to its end: both remove it.
func temporary() (remove func(), err error) {
	dir := os.TempDir()
	if !strings.HasPrefix(filepath.Base(dir), temporaryPrefix) {
		if err := sweep(dir); err != nil {
			return nil, err
		}
		dir = filepath.Join(dir, temporaryPrefix+strconv.Itoa(os.Getpid()))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Setenv("TMPDIR", dir)); err != nil {
			return nil, err
		}
	}
	remove = func() { _ = os.RemoveAll(dir) } // what is left the next one sweeps
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		s := (<-signals).(syscall.Signal)
		remove()
		signal.Reset(s)
		_ = syscall.Kill(os.Getpid(), s)
	}()
	return remove, nil
}

// sweep removes this user's temporary directories whose processes are gone.
func sweep(in string) error {
	dirs, err := filepath.Glob(filepath.Join(in, temporaryPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), temporaryPrefix))
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another sweeps, too
		}
		if err != nil {
			return err
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() || !info.IsDir() {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func TestSweep(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	in := t.TempDir()
	for name, stays := range map[string]bool{
		temporaryPrefix + strconv.Itoa(gone.Process.Pid): false,
		temporaryPrefix + strconv.Itoa(os.Getpid()):      true,
		temporaryPrefix + "x":                            true,
		strconv.Itoa(gone.Process.Pid):                   true,
	} {
		if err := os.MkdirAll(filepath.Join(in, name, "inside"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := sweep(in); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(in, name)); stays != (err == nil) {
			t.Errorf("%s: want it to stay: %t; got %v", name, stays, err)
		}
	}
}

// TestInterruptRemoves: a process that a signal ends leaves no temporary directory.
func TestInterruptRemoves(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		in := t.TempDir()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), waits+"=1", "TMPDIR="+in)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdin, err := cmd.StdinPipe() // it ends with it, whatever happens
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stdin.Close() }()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var dir string
		if _, err := fmt.Fscanln(out, &dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "inside")); err != nil || filepath.Dir(dir) != in {
			t.Errorf("%q in %s: %v", dir, in, err)
		}
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "signal: "+s.String()) {
			t.Errorf("%s: the process has ended with %v", s, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s leaves %s: %v", s, dir, err)
		}
	}
}

// waitInTemporary is the process that TestInterruptRemoves ends.
func waitInTemporary() {
	if err := os.Mkdir(filepath.Join(os.TempDir(), "inside"), 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Println(os.TempDir())
	_, _ = os.Stdin.Read(make([]byte, 1))
}
