package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

// inode identifies the network namespace of the calling thread.
func inode(t *testing.T) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestMainIsolates(t *testing.T) {
	Require(t)
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	inUse := func(l net.Interface) bool { return l.Flags&net.FlagUp != 0 && l.Flags&net.FlagLoopback == 0 }
	if len(links) > 3 || slices.ContainsFunc(links, inUse) { // a fresh namespace: lo and fallback tunnels
		t.Errorf("tests run in a namespace in use: %v", links)
	}
	var parent, own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/proc/"+strconv.Itoa(os.Getppid())+"/ns/net", &parent); err == nil && parent.Ino == own.Ino {
		t.Error("tests run in the namespace of the machine")
	}
}

func TestDoReturns(t *testing.T) {
	a, b := ForTest(t, "a"), ForTest(t, "b")
	before := inode(t)
	seen := map[uint64]bool{before: true}
	sentinel := errors.New("sentinel")
	err := a.Do(func() error {
		seen[inode(t)] = true
		if err := b.Do(func() error { seen[inode(t)] = true; return nil }); err != nil {
			return err
		}
		return sentinel
	})
	if !errors.Is(err, sentinel) {
		t.Errorf("Do returned %v, want the error of its function", err)
	}
	if len(seen) != 3 {
		t.Errorf("saw %d namespaces, want 3", len(seen))
	}
	if after := inode(t); after != before {
		t.Errorf("thread is in namespace %d after Do, came from %d", after, before)
	}
}

func TestSysctlStaysInside(t *testing.T) {
	a, b := ForTest(t, "a"), ForTest(t, "b")
	before, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Forward(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		for n, want := range map[*Namespace]string{a: "1", b: "0"} {
			if got, err := n.Sysctl(key); err != nil || got != want {
				t.Errorf("%s of %s is %q (%v), want %s", key, n.Name(), got, err, want)
			}
		}
	}
	if after, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); string(after) != string(before) {
		t.Errorf("ip_forward outside changed from %q to %q", before, after)
	}
	if err := a.SetSysctl("kernel/hostname", "x"); err == nil {
		t.Error("a sysctl of the whole machine was written")
	}
}

func TestStartRunsInside(t *testing.T) {
	a, b := ForTest(t, "a"), ForTest(t, "b")
	if err := Connect(a, "left", b, "right"); err != nil {
		t.Fatal(err)
	}
	out, err := a.Output("cat", "/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "left:") || strings.Contains(out, "right:") {
		t.Errorf("command does not see the links of its namespace:\n%s", out)
	}
	cmd := exec.Command("sleep", "60")
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if cmd.SysProcAttr.Pdeathsig != unix.SIGKILL {
		t.Error("command would outlive this process")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
}

func TestConnectCarriesBothFamilies(t *testing.T) {
	a, b := ForTest(t, "a"), ForTest(t, "b")
	if err := Connect(a, "left", b, "right"); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{"192.0.2.1/24", "192.0.2.2/24"}, {"2001:db8::1/64", "2001:db8::2/64"}} {
		left, right := netip.MustParsePrefix(pair[0]), netip.MustParsePrefix(pair[1])
		if err := errors.Join(a.AddAddress("left", left), b.AddAddress("right", right)); err != nil {
			t.Fatal(err)
		}
		var listener net.Listener
		err := b.Do(func() (err error) {
			listener, err = net.Listen("tcp", netip.AddrPortFrom(right.Addr(), 80).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		err = a.Do(func() error {
			conn, err := net.DialTimeout("tcp", listener.Addr().String(), connectTimeout)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if dump := a.Dump(); !strings.Contains(dump, "192.0.2.1/24") {
		t.Errorf("dump does not show the addresses:\n%s", dump)
	}
}
