// Package netns makes network namespaces and works inside them. A namespace made
// here is anonymous: it lives as long as a handle or a process holds it.
package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const threadSelf = "/proc/thread-self/ns/net"

// Handle holds one network namespace open. Its methods may be called from any
// goroutine.
type Handle struct{ file *os.File }

// New makes a network namespace with nothing in it but a loopback that is down.
func New() (*Handle, error) {
	var made *Handle
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		made, err = Open(threadSelf)
		return err
	})
	return made, err
}

// Open takes hold of the namespace a path names, such as /proc/1/ns/net.
func Open(path string) (*Handle, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Handle{file: file}, nil
}

// FD is the file descriptor that holds the namespace; Close ends it.
func (h *Handle) FD() int { return int(h.file.Fd()) }

// Close lets go of the namespace.
func (h *Handle) Close() error { return h.file.Close() }

// Do calls f on a thread that is in the namespace. Sockets that f opens and
// processes that it starts are in the namespace and stay there; goroutines that
// it starts are not.
func (h *Handle) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(h.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Netlink opens a netlink handle in the namespace. The caller closes it.
func (h *Handle) Netlink() (*netlink.Handle, error) {
	var handle *netlink.Handle
	err := h.Do(func() error {
		var err error
		handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return handle, err
}

// Sysctl writes a setting below /proc/sys/net, such as "ipv4/ip_forward". The
// kernel shows that directory per network namespace of the reading thread.
func (h *Handle) Sysctl(name, value string) error {
	return h.Do(func() error { return WriteSysctl(name, value) })
}

// WriteSysctl writes a setting below /proc/sys/net of the namespace the calling
// thread is in.
func WriteSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}

// onOwnThread calls f on a thread that no other goroutine shares. A thread that
// cannot return to the namespace it came from is thrown away.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := os.Open(threadSelf)
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer func() { _ = origin.Close() }()
		defer func() {
			if unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		result <- f()
	}()
	return <-result
}
