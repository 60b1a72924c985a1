package traffic

import (
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
)

// TestNobodyMindsSignals: those of Go's scheduler come while a connection waits, at the server or
// at the client, and interrupt system calls that have a time limit.
func TestNobodyMindsSignals(t *testing.T) {
	netns.Require(t)
	l, err := Subjects()[0].Load(Size{Listeners: 1, Endpoints: 1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	server, pid, err := l.serve()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Kill()
	done := make(chan struct{})
	var signals sync.WaitGroup
	err = l.Client.Do(func() error {
		client := unix.Gettid()
		signals.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = unix.Tgkill(pid, pid, syscall.SIGURG) // the test says if it is gone
					_ = unix.Tgkill(unix.Getpid(), client, syscall.SIGURG)
				}
			}
		})
		return NewConnections(l.Site, true).Exchange(1000)
	})
	close(done)
	signals.Wait()
	if err != nil {
		t.Errorf("%v; the server has said %q", err, server.Stderr())
	}
}
