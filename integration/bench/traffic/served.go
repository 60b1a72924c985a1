package traffic

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// ServerWork is the environment variable that makes a process the backend's server.
const ServerWork = "PORTWAY_BENCH_SERVER"

// serverListener is the backend's listener in the server.
const serverListener = 3

// serve starts a process that answers the backend's connections, on the processor of the
// measurement, until it is killed. It takes them away from Open.
func (l *Loaded) serve() (server *netns.Process, pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	fd, err := unix.FcntlInt(uintptr(l.listener), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	listener := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = listener.Close() }() // the server has its own
	cmd := exec.Command("taskset", "-c", strconv.Itoa(l.cpu), self)
	cmd.Env = append(os.Environ(), ServerWork+"=1")
	cmd.ExtraFiles = []*os.File{listener}
	if server, err = l.Pods[0].Run(cmd); err != nil {
		return nil, 0, err
	}
	go func() {
		<-server.Done()
		if said := server.Stderr(); said != "" { // one that is killed says nothing
			fmt.Printf("%s: the server has ended: %s", l.Name, said)
		}
	}()
	return server, cmd.Process.Pid, nil
}

// RunServer reads a byte from each connection, answers it, waits for the end and closes. It
// returns what keeps it from going on, and no signal does: Go's scheduler sends them.
func RunServer() error {
	return quietly(func() error {
		for {
			fd, _, err := unix.Accept4(serverListener, unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue // nobody came within the patience
			}
			if err != nil {
				return fmt.Errorf("accept: %w", err)
			}
			if err := errors.Join(answerOne(fd), unix.Close(fd)); err != nil {
				return err
			}
		}
	})
}

func answerOne(fd int) error {
	if err := read(fd, 1); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := again(func() error {
		_, err := unix.Write(fd, []byte{1})
		return err
	}); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := read(fd, 0); err != nil {
		return fmt.Errorf("read the end: %w", err)
	}
	return nil
}

// again makes a system call until no signal interrupts it: with a time limit the kernel does not
// start it over itself.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Exchange opens a number of connections one after the other, sends a byte on each, waits
// for the server's and closes. The calling thread must be in the client's namespace.
func (c *Connections) Exchange(count int) error {
	for range count {
		fd, to, err := c.connectOne()
		if err == nil {
			err = read(fd, 1)
		}
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
		if err != nil {
			return fmt.Errorf("TCP connection %d to %s: %w", c.next, to, err)
		}
	}
	return nil
}
