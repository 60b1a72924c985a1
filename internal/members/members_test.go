package members

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2/ktesting"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/internal/owner"
)

func TestMain(m *testing.M) { netns.Main(m) }

// patience bounds waiting for what takes a second or two on an idle machine.
const patience = 30 * time.Second

// member runs until the test ends.
type member struct {
	*Members
	stop func()
}

// at is the address of a member on the loopback of the test's own namespace.
func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(n)}), DefaultPort)
}

func prepare(t *testing.T, line string) (keyFile string) {
	t.Helper()
	netns.Require(t)
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	keyFile = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return keyFile
}

// start starts member number n, who expects those with the other numbers.
func start(t *testing.T, keyFile string, n int, expected ...int) *member {
	t.Helper()
	logger, ctx := ktesting.NewTestContext(t)
	m, err := New(Config{Node: fmt.Sprintf("node-%d", n), Bind: at(n), KeyFile: keyFile, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []netip.AddrPort
	for _, other := range expected {
		addresses = append(addresses, at(other))
	}
	m.SetExpected(addresses)
	return &member{Members: m, stop: run(ctx, t, m)}
}

// run runs it until the function it returns is called, or the test ends.
func run(ctx context.Context, t *testing.T, m *Members) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func (m *member) awaitAlive(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s knows %v", m.config.Node, names), func() bool { return slices.Equal(m.Alive(), names) })
}

func (m *member) awaitRecord(t *testing.T, node string, ready netip.Addr) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s knows that %s is ready for %s", m.config.Node, node, ready), func() bool {
		r := m.Records()[node]
		return r != nil && r.Ready.Contains(ready)
	})
}

// record is ready for some addresses; apart from each other they make it long.
func record(first string, n int) owner.Record {
	var list []netip.Addr
	for a := netip.MustParseAddr(first); len(list) < n; a = a.Next().Next() {
		list = append(list, a)
	}
	return owner.Record{Ready: owner.NewSet(list), Prepared: true, MACs: [][6]byte{{2, 5: byte(n)}}}
}

func TestMembers(t *testing.T) {
	keyFile := prepare(t, line1)
	first, second, third := start(t, keyFile, 1), start(t, keyFile, 2, 1), start(t, keyFile, 3, 1)
	first.awaitAlive(t, "node-2", "node-3")
	second.awaitAlive(t, "node-1", "node-3")
	third.awaitAlive(t, "node-1", "node-2")
	if missing := second.Missing(); len(missing) != 0 {
		t.Errorf("missing: %v", missing)
	}

	// Short ones are gossiped, long ones go by TCP, and whoever comes later gets all.
	short, long := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.0")
	second.Publish(record("192.0.2.1", 1))
	first.awaitRecord(t, "node-2", short)
	third.awaitRecord(t, "node-2", short)
	third.Publish(record("10.0.0.0", 5000))
	if size := len(third.own.raw); size <= maxBroadcast {
		t.Fatalf("the long record has %d bytes", size)
	}
	first.awaitRecord(t, "node-3", long)
	second.awaitRecord(t, "node-3", long)
	fourth := start(t, keyFile, 4, 1)
	fourth.awaitRecord(t, "node-2", short)
	fourth.awaitRecord(t, "node-3", long)
	fourth.Publish(record("192.0.2.4", 1))
	first.awaitRecord(t, "node-4", netip.MustParseAddr("192.0.2.4"))
	first.awaitAlive(t, "node-2", "node-3", "node-4")

	// Who says goodbye is gone at once, who does not is found out.
	fourth.Publish(owner.Record{Leaving: true})
	eventually(t, "node-1 knows that node-4 is leaving", func() bool { return first.Records()["node-4"].Leaving })
	if err := fourth.Leave(patience); err != nil {
		t.Fatal(err)
	}
	fourth.stop()
	first.awaitAlive(t, "node-2", "node-3")
	second.stop()
	first.awaitAlive(t, "node-3")
	third.awaitAlive(t, "node-1")
	lost := first.Lost()
	if _, found := lost["node-2"]; !found || len(lost) != 1 {
		t.Errorf("lost: %v", lost)
	}
	first.SetExpected([]netip.AddrPort{at(1), at(2), at(3)})
	if missing := first.Missing(); !slices.Equal(missing, []netip.AddrPort{at(2)}) {
		t.Errorf("missing: %v", missing)
	}
	if r := first.Records()["node-2"]; r == nil || !r.Ready.Contains(short) {
		t.Error("the record of who is gone is forgotten")
	}

	// While it is back and has not said anything new, what it said before is not trusted,
	// but for its MAC.
	first.mu.Lock()
	first.alive["node-2"] = at(2)
	first.mu.Unlock()
	if r := first.Records()["node-2"]; r != nil {
		t.Errorf("what node-2 said before it was away is taken for true: %+v", r)
	}
	if macs := first.MACs(); !slices.Contains(macs, [6]byte{2, 5: 1}) {
		t.Errorf("the MAC of node-2 is a stranger's: %v", macs)
	}
	first.mu.Lock()
	delete(first.alive, "node-2")
	first.mu.Unlock()

	// Its next life is told apart from the last, even if the clock went back.
	again := start(t, keyFile, 2, 1)
	again.mu.Lock()
	again.start = 1
	again.mu.Unlock()
	again.Publish(record("192.0.2.9", 1))
	first.awaitAlive(t, "node-2", "node-3")
	first.awaitRecord(t, "node-2", netip.MustParseAddr("192.0.2.9"))
	if len(first.Lost()) != 0 {
		t.Errorf("lost: %v", first.Lost())
	}
}

// TestIPv6 has members that only have IPv6 addresses.
func TestIPv6(t *testing.T) {
	keyFile := prepare(t, line1)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	var all []*Members
	var addresses []netip.AddrPort
	for n := 1; n <= 2; n++ {
		address := netip.AddrFrom16([16]byte{0xfd, 15: byte(n)})
		prefix := &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(128, 128)}
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: prefix, Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, netip.AddrPortFrom(address, DefaultPort))
		m, err := New(Config{Node: fmt.Sprintf("node-%d", n), Bind: addresses[n-1], KeyFile: keyFile})
		if err != nil {
			t.Fatal(err)
		}
		m.SetExpected(addresses)
		run(t.Context(), t, m)
		all = append(all, m)
	}
	eventually(t, "they are members", func() bool { return len(all[0].Alive()) == 1 && len(all[1].Missing()) == 0 })
}

// TestAwayWithoutKnowing has a member taken for lost that does not notice: asked, it
// says again what it has to say.
func TestAwayWithoutKnowing(t *testing.T) {
	keyFile := prepare(t, line1)
	first, second := start(t, keyFile, 1), start(t, keyFile, 2, 1)
	first.awaitAlive(t, "node-2")
	second.awaitAlive(t, "node-1")
	second.Publish(record("192.0.2.1", 1))
	first.awaitRecord(t, "node-2", netip.MustParseAddr("192.0.2.1"))
	gone := &memberlist.Node{Name: "node-2", Addr: net.IP{127, 0, 0, 2}, Port: DefaultPort}
	(*events)(first.Members).NotifyLeave(gone)
	if _, lost := first.Lost()["node-2"]; !lost || len(first.Alive()) != 0 {
		t.Fatalf("alive: %v", first.Alive())
	}
	(*events)(first.Members).NotifyJoin(gone)
	eventually(t, "its record is trusted again", func() bool { return first.Records()["node-2"] != nil })
}

// TestForgets has members gone for long: what they said is forgotten, and that they are lost,
// both at once, but not of whom somebody notices otherwise.
func TestForgets(t *testing.T) {
	m := &Members{records: map[string]*stored{}, lost: map[string]time.Time{}, alive: map[string]netip.AddrPort{"here": at(1)}}
	long := time.Now().Add(-2 * time.Hour)
	for node, s := range map[string]struct{ seen, lost time.Time }{
		"here":    {},
		"gone":    {long, long},
		"noticed": {long, long},
		"lately":  {time.Now(), long},
		"left":    {long, time.Time{}},
	} {
		m.records[node] = &stored{Record: &owner.Record{Node: node}, seen: s.seen}
		if !s.lost.IsZero() {
			m.lost[node] = s.lost
		}
	}
	m.lost["silent"], m.lost["silent lately"] = long, time.Now() // who never said anything
	for _, node := range []string{"here", "noticed", "silent", "unknown"} {
		m.Noticed(node)
	}
	m.forget()
	if got := slices.Sorted(maps.Keys(m.Records())); !slices.Equal(got, []string{"here", "lately", "noticed"}) {
		t.Errorf("records of %v", got)
	}
	if got := slices.Sorted(maps.Keys(m.Lost())); !slices.Equal(got, []string{"lately", "noticed", "silent lately"}) {
		t.Errorf("lost: %v", got)
	}
}

// TestOtherKey has a member whose key nobody else has.
func TestOtherKey(t *testing.T) {
	first := start(t, prepare(t, line1), 1)
	stranger := start(t, prepare(t, line2), 2, 1)
	first.Publish(record("192.0.2.1", 1))
	eventually(t, "a message is refused", func() bool { return first.Refused() > 0 })
	if len(first.Alive()) != 0 || len(stranger.Records()) != 0 {
		t.Errorf("alive %v, records of the stranger %v", first.Alive(), stranger.Records())
	}
}

// TestKeyFileIsFollowed puts a new key, and then nothing useful, into the file.
func TestKeyFileIsFollowed(t *testing.T) {
	keyFile := prepare(t, line1)
	m, err := New(Config{Node: "node-1", Bind: at(1), KeyFile: keyFile, keyPoll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	run(t.Context(), t, m)
	if err := os.WriteFile(keyFile, []byte(line2+"\n"+line1), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new key is understood, the old one used", func() bool {
		keys := m.keys.ring.GetKeys()
		return len(keys) == 2 && string(keys[0]) == string(key1[:]) && string(keys[1]) == string(key2[:])
	})
	if err := os.WriteFile(keyFile, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a bad file is reported", func() bool { return m.Err() != nil })
	if keys := m.keys.ring.GetKeys(); len(keys) != 2 {
		t.Errorf("%d keys", len(keys))
	}
}

func TestNewRefuses(t *testing.T) {
	keyFile := prepare(t, line1)
	_, err := New(Config{})
	for _, want := range []string{"name of this node", "bind address", "file with the members' key"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %q: %v", want, err)
		}
	}
	_, err = New(Config{Node: "node-2", Bind: netip.MustParseAddrPort("192.0.2.99:7946"), KeyFile: keyFile})
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("no address of this node: %v", err)
	}
	start(t, keyFile, 1)
	_, err = New(Config{Node: "node-2", Bind: at(1), KeyFile: keyFile})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "choose another one, on all nodes") {
		t.Errorf("the port is taken: %v", err)
	}
}
