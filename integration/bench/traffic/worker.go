package traffic

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Work is the environment variable that makes a process a worker of Hold.
const Work = "PORTWAY_BENCH_WORK"

// job is what a worker does, in JSON.
type job struct {
	Size
	Routed       bool
	First, Count int
}

// listenerFile is the backend's listener in a worker.
const listenerFile = 3

// A worker is a process in the client's namespace that holds both ends of connections. It
// says when they are open and, for each line it gets, how many answered; it resets them and
// ends when there are no more lines.
type worker struct {
	command *exec.Cmd
	asks    io.WriteCloser
	answers *bufio.Reader
	errors  strings.Builder
}

// startWorker starts one for the connections from the first on.
func (l *Loaded) startWorker(first, count int) (*worker, error) {
	text, err := json.Marshal(job{l.Size, l.Routed, first, count})
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(uintptr(l.listener), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	listener := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = listener.Close() }() // the worker has its own
	w := &worker{command: exec.Command("/proc/self/exe")}
	w.command.Env = append(os.Environ(), Work+"="+string(text))
	w.command.ExtraFiles = []*os.File{listener}
	w.command.Stderr = &w.errors
	if w.asks, err = w.command.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := w.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.answers = bufio.NewReader(answers)
	return w, l.Client.Start(w.command)
}

// ask returns how many connections answered.
func (w *worker) ask() (int, error) {
	if _, err := io.WriteString(w.asks, "ask\n"); err != nil {
		return 0, err
	}
	return w.answer()
}

func (w *worker) answer() (n int, err error) {
	line, err := w.answers.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscanf(line, "%d", &n)
	}
	if err != nil {
		err = fmt.Errorf("a worker said %q: %w: %s", line, err, w.errors.String())
	}
	return n, err
}

func (w *worker) end() error {
	err := errors.Join(w.asks.Close(), w.command.Wait())
	if err != nil {
		err = fmt.Errorf("a worker: %w: %s", err, w.errors.String())
	}
	return err
}

// RunWorker does a job that Work holds.
func RunWorker(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	c := NewConnections(&Site{Size: j.Size, listener: listenerFile}, j.Routed)
	c.next = j.First
	all := make([]pair, 0, j.Count/batch)
	for range j.Count / batch {
		p, err := c.keep(batch)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	fmt.Println(len(all) * batch)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answered := 0
		err := quietly(func() error {
			for _, p := range all {
				if err := p.ask(); err != nil {
					return err
				}
				answered += batch
			}
			return nil
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		fmt.Println(answered)
	}
	var err error
	for _, p := range all {
		err = errors.Join(err, p.close())
	}
	return err
}
