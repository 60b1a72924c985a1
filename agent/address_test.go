package agent

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"k8s.io/klog/v2/ktesting"

	inside "github.com/portway-dev/portway/internal/netns"
)

// TestWatchAddresses changes addresses in a network namespace of its own.
func TestWatchAddresses(t *testing.T) {
	if os.Getuid() != 0 {
		inside.Lacks(t, "root", os.ErrPermission)
	}
	_, ctx := ktesting.NewTestContext(t)
	ctx, stop := context.WithCancel(ctx)
	spaces, done, changed := make(chan netns.NsHandle, 1), make(chan struct{}), make(chan struct{}, 100)
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread goes with this goroutine
		space, err := netns.New()
		spaces <- space
		if err == nil {
			watchAddresses(ctx, func() { changed <- struct{}{} })
		}
	}()
	defer func() {
		stop()
		<-done
	}()
	space := <-spaces
	if !space.IsOpen() {
		inside.Lacks(t, "network namespaces", os.ErrPermission)
	}
	defer func() { _ = space.Close() }()
	handle, err := netlink.NewHandleAt(space)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err == nil {
		err = handle.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	tell := func(when string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("not told: %s", when)
		}
	}
	address := func(text string, change func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		addr, err := netlink.ParseAddr(text)
		if err == nil {
			err = change(lo, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tell("at the start")
	address("192.0.2.7/32", handle.AddrAdd)
	tell("added")
	address("169.254.7.7/32", handle.AddrAdd) // of no use to anybody
	time.Sleep(4 * gathering)
	address("2001:db8::7/128", handle.AddrAdd)
	tell("IPv6 added")
	address("192.0.2.7/32", handle.AddrDel)
	tell("removed")
	time.Sleep(4 * gathering)
	if n := len(changed); n != 0 {
		t.Errorf("told %d times too often", n)
	}
}
