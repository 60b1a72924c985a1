package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// UserNamespaceEnv set to 1 makes root, too, work in a user namespace, as
	// everybody else does.
	UserNamespaceEnv = "PORTWAY_TEST_USERNS"
	// isolatedEnv marks the program started again by Isolate.
	isolatedEnv = "PORTWAY_ISOLATED"
)

// unavailable is why tests of this process cannot use namespaces; nil when they can.
var unavailable error

// Main is the TestMain of packages that use namespaces. It runs the tests in
// namespaces of their own, see Isolate. Where that is impossible it runs them
// here: tests that call Require are then skipped, or fail when the environment
// variable CI is set. The functions given run after the tests.
func Main(m *testing.M, after ...func()) {
	unavailable = Isolate()
	code := m.Run()
	for _, f := range after {
		f()
	}
	os.Exit(code)
}

// Require skips a test, or fails it in CI, when there can be no namespaces.
func Require(tb testing.TB) {
	tb.Helper()
	switch {
	case unavailable == nil && os.Getenv(isolatedEnv) == "":
		tb.Fatal("network namespaces need TestMain to call netns.Main")
	case unavailable != nil:
		Lacks(tb, "network namespaces", unavailable)
	}
}

// requireFilter does what Require does for br_netfilter, which may be a module that
// nobody has loaded.
func requireFilter(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		Lacks(tb, "br_netfilter", err)
	}
}

// Lacks skips a test, or fails it in CI, for want of something.
func Lacks(tb testing.TB, what string, err error) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf("no %s, which CI must have: %v", what, err)
	}
	tb.Skipf("no %s: %v", what, err)
}

// Isolate moves the program into a new network and mount namespace, and for
// everybody but root into a new user namespace in which it is root. It does so by
// starting the program again and, in the first process, exits with the exit code
// of the second. It returns nil in the second process and an error in the first
// where isolation is impossible. Call it before anything else.
func Isolate() error {
	if os.Getenv(isolatedEnv) != "" {
		return settle()
	}
	rights := []syscall.SysProcAttr{{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}}
	if os.Geteuid() == 0 && os.Getenv(UserNamespaceEnv) != "1" {
		asRoot := syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
		rights = append([]syscall.SysProcAttr{asRoot}, rights...)
	}
	var errs []error
	for _, attr := range rights {
		code, err := runAgain(&attr)
		if err == nil {
			os.Exit(code)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// runAgain runs this program in new namespaces and returns its exit code. An error
// means that it did not start.
func runAgain(attr *syscall.SysProcAttr) (code int, err error) {
	runtime.LockOSThread() // the child dies with this thread
	defer runtime.UnlockOSThread()
	attr.Pdeathsig = syscall.SIGKILL

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		if attr.Cloneflags&unix.CLONE_NEWUSER != 0 {
			return 0, fmt.Errorf("start in a user namespace: %w", err)
		}
		return 0, fmt.Errorf("start in a network namespace: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may be gone already; Wait tells
		}
	}()
	err = cmd.Wait()
	exit := (*exec.ExitError)(nil)
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	default:
		fmt.Fprintf(os.Stderr, "%s (in its namespaces): %v\n", os.Args[0], err)
		return 1, nil
	}
}

// settle makes the new mount namespace private and tries what tests need: a
// system may allow the namespaces and still refuse the rights in them (AppArmor on
// Ubuntu ≥ 23.10), or have no nf_tables.
func settle() error {
	// Debian keeps nft and conntrack out of the PATH of ordinary users.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Containers see /proc/sys read-only; their root may change that in here.
	if err := unix.Access("/proc/sys/net/ipv4/ip_forward", unix.W_OK); err == unix.EROFS {
		_ = unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") // New tells if it failed
	}
	if err := loopbackUp(); err != nil { // which tests use that need no namespaces
		return err
	}
	probe, err := New("probe")
	if err != nil {
		return err
	}
	defer func() { _ = probe.Close() }() // only file descriptors
	conn, err := nftables.New(nftables.WithNetNSFd(probe.Handle()))
	if err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "probe"})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("add an nf_tables table: %w", err)
	}
	return nil
}

func loopbackUp() error {
	link, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// ForTest makes a namespace for a test; it is dumped to the test's log when the
// test failed, and closed.
func ForTest(tb testing.TB, name string) *Namespace {
	tb.Helper()
	Require(tb)
	n, err := New(name)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Log(n.Dump())
		}
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}
