package netns_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

func TestProgramTwiceDoesNothing(t *testing.T) { eachVariant(t, testProgramTwiceDoesNothing) }

func testProgramTwiceDoesNothing(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	listeners := append(onBoth(8080, "foo-1", "foo-2"), onBoth(8090, "bar-1")...)
	if got := f.program(f.serving(listeners...)).Operations; got == 0 {
		t.Error("first Program: no operations")
	}
	if got := f.program(f.state).Operations; got != 0 {
		t.Errorf("second Program of the same State: %d operations, want 0", got)
	}
	// Equal but not identical, as after a pass that rebuilt everything.
	if got := f.program(f.serving(listeners...)).Operations; got != 0 {
		t.Errorf("Program of an equal State: %d operations, want 0", got)
	}
}

// loads opens connections to a port on both addresses of the node while a test
// changes things.
type loads struct {
	t     *testing.T
	loads []*netns.Load
}

func (f *fixture) startLoads(port uint16) *loads {
	f.t.Helper()
	l := &loads{t: f.t}
	for _, addr := range nodeAddrs {
		l.loads = append(l.loads, f.Client.StartLoad(netip.AddrPortFrom(addr, port)))
	}
	f.t.Cleanup(func() { l.stop() })
	return l
}

// flow waits until some more connections were opened to every address.
func (l *loads) flow(more int64) {
	l.t.Helper()
	for _, load := range l.loads {
		want := load.Opened() + more
		poll(l.t, "traffic flows", func() bool { return load.Opened() >= want })
	}
}

func (l *loads) stop() []netns.Tally {
	l.t.Helper()
	var tallies []netns.Tally
	for _, load := range l.loads {
		tally, err := load.Stop()
		if err != nil {
			l.t.Error(err)
		}
		tallies = append(tallies, tally)
	}
	return tallies
}

// checkUnharmed fails the test when a connection was not answered, or by a server
// whose name does not begin with prefix.
func (l *loads) checkUnharmed(prefix string) {
	l.t.Helper()
	for i, tally := range l.stop() {
		if lost := tally.Total() - tally.Answered(); lost > 0 || tally.Resent > 0 {
			l.t.Errorf("%s: %d of %d connections lost: %s", nodeAddrs[i], lost, tally.Total(), tally)
		}
		for name := range tally.Answers {
			if !strings.HasPrefix(name, prefix) {
				l.t.Errorf("%s: answered by %s: %s", nodeAddrs[i], name, tally)
			}
		}
	}
}

func TestRestartUnderTraffic(t *testing.T) { eachBackend(t, testRestartUnderTraffic) }

func testRestartUnderTraffic(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	listeners := append(onBoth(8080, "foo-1", "foo-2"), onBoth(8090, "bar-1")...)
	f.program(f.serving(listeners...))
	foo, bar := f.startLoads(8080), f.startLoads(8090)
	for range b.rounds(5) {
		foo.flow(50)
		f.stop()
		foo.flow(50)
		f.start()
		foo.flow(50)
		f.program(f.serving(listeners...))
		bar.flow(50)
	}
	foo.checkUnharmed("foo-")
	bar.checkUnharmed("bar-")
}

// A programmer that starts with another State than the one left behind.
func TestRestartIntoChangeUnderTraffic(t *testing.T) {
	eachBackend(t, testRestartIntoChangeUnderTraffic)
}

func testRestartIntoChangeUnderTraffic(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	bar := listener{rules.TCP, 8090, []service{{"b", 1, []string{"bar-1"}}}}
	foo := func(pods ...string) listener { return listener{rules.TCP, 8080, []service{{"a", 1, pods}}} }
	extra := listener{rules.TCP, 8070, []service{{"a", 1, []string{"foo-1"}}}}
	states := []*rules.State{
		f.serving(foo("foo-1", "foo-2"), bar, extra),
		f.serving(foo("foo-2"), bar),
		f.serving(foo("foo-1", "foo-2", "foo-1"), bar),
	}
	f.program(states[0])
	fooLoad, barLoad := f.startLoads(8080), f.startLoads(8090)
	for i := range b.rounds(6) {
		fooLoad.flow(30)
		f.stop()
		f.start()
		f.program(states[(i+1)%len(states)])
		fooLoad.flow(30)
		barLoad.flow(30)
	}
	fooLoad.checkUnharmed("foo-")
	barLoad.checkUnharmed("bar-")
	if tally := count(t, f.Client, rules.TCP, netip.AddrPortFrom(netns.NodeAddr4, 8070), 10); f.state.Len() == states[1].Len() && tally.Answered() > 0 {
		t.Errorf("a listener of an earlier process still answers: %s", tally)
	}
}

// Slot counts that grow and shrink, weights that move, endpoints that come and
// go: no connection may be refused or answered by another listener's pods.
func TestLiveUpdateUnderTraffic(t *testing.T) { eachBackend(t, testLiveUpdateUnderTraffic) }

func testLiveUpdateUnderTraffic(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, append(guidePods, netns.PodSpec{Name: "foo-3", Number: 12})...)
	bar := listener{rules.TCP, 8090, []service{{"b", 1, []string{"bar-1"}}}}
	steps := [][]service{
		{{"a", 1, []string{"foo-1"}}},
		{{"a", 1, []string{"foo-1", "foo-2"}}},
		{{"a", 90, []string{"foo-1"}}, {"b", 10, []string{"foo-2"}}},
		{{"a", 1, []string{"foo-2"}}, {"b", 2, []string{"foo-3"}}, {"c", 3, []string{"foo-1"}}},
		{{"a", 1, []string{"foo-3"}}},
		{{"a", 333, []string{"foo-1", "foo-2", "foo-3"}}, {"b", 667, []string{"foo-2"}}},
		{{"a", 1, []string{"foo-2", "foo-3"}}},
	}
	f.program(f.serving(bar, listener{rules.TCP, 8080, steps[0]}))
	foo, other := f.startLoads(8080), f.startLoads(8090)
	for round := range b.rounds(4) {
		for i, services := range steps {
			f.program(f.serving(bar, listener{rules.TCP, 8080, services}, listener{rules.TCP, 9000 + uint16(i), services}))
			foo.flow(15)
		}
		other.flow(int64(15 * (round + 1)))
	}
	foo.checkUnharmed("foo-")
	other.checkUnharmed("bar-")
}

// Rules that somebody else deleted come back with the next change, all of them.
func TestDeletedTableComesBack(t *testing.T) { eachVariant(t, testDeletedTableComesBack) }

func testDeletedTableComesBack(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1", "foo-2")...))
	to := netip.AddrPortFrom(netns.NodeAddr4, 8080)
	f.shell(b.wipes()[0])
	f.program(f.state)
	if tally := count(t, f.Client, rules.TCP, to, 20); tally.Answered() != 20 {
		t.Errorf("after the next pass without a change: %s", tally)
	}
	f.shell(b.wipes()[1])
	if tally := count(t, f.Client, rules.TCP, to, 5); tally.Refused != 5 {
		t.Errorf("without rules: %s", tally)
	}
	f.program(f.serving(append(onBoth(8080, "foo-1", "foo-2"), onBoth(8090, "bar-1")...)...))
	for _, port := range []uint16{8080, 8090} {
		to := netip.AddrPortFrom(netns.NodeAddr4, port)
		if tally := count(t, f.Client, rules.TCP, to, 20); tally.Answered() != 20 {
			t.Errorf("port %d after the next change: %s", port, tally)
		}
	}
}

// A backend that goes gets no new flow once Program has returned.
func TestRemovedEndpointGetsNothing(t *testing.T) { eachVariant(t, testRemovedEndpointGetsNothing) }

func testRemovedEndpointGetsNothing(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1", "foo-2")...))
	f.program(f.serving(onBoth(8080, "foo-2")...))
	for _, addr := range nodeAddrs {
		for _, protocol := range protocols {
			if got := count(t, f.Client, protocol, netip.AddrPortFrom(addr, 8080), 100); got.Answers["foo-2"] != 100 {
				t.Errorf("%s %s: %s, want all from foo-2", addr, protocol, got)
			}
		}
	}
}

func TestEstablishedConnectionOutlivesItsListener(t *testing.T) {
	eachVariant(t, testEstablishedConnectionOutlivesItsListener)
}

func testEstablishedConnectionOutlivesItsListener(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(onBoth(8080, "foo-1")...))
	for _, addr := range nodeAddrs {
		f.program(f.serving(onBoth(8080, "foo-1")...))
		to := netip.AddrPortFrom(addr, 8080)
		conn, err := f.Client.Dial(netip.AddrPort{}, to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(testDeadline()); err != nil {
			t.Fatal(err)
		}
		f.stop()
		if err := conn.Echo("the programmer is gone"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		f.start()
		f.program(f.serving(onBoth(8080, "foo-2")...))
		if err := conn.Echo("the endpoint is gone"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		f.program(f.serving(onBoth(8090, "bar-1")...))
		if err := conn.Echo("the listener is gone"); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if tally := count(t, f.Client, rules.TCP, to, 5); tally.Refused != 5 {
			t.Errorf("%s: new connections to the listener that is gone: %s", addr, tally)
		}
	}
}

// foreign is a ruleset as other programs leave it.
const foreign = `
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 203.0.113.200 tcp dport 80 counter packets 0 bytes 0 dnat to 10.0.0.1:80
	}
}
table inet portway-like {
	comment "not ours"
	set addresses {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8, 192.168.0.0/16 }
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr @addresses ip daddr 240.0.0.1 drop
	}
}
table ip6 portway {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
`

func TestCleanupLeavesStrangersAlone(t *testing.T) { eachVariant(t, testCleanupLeavesStrangersAlone) }

func testCleanupLeavesStrangersAlone(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.loadRules(foreign)
	before := f.nft("list", "ruleset")
	f.program(f.serving(onBoth(8080, "foo-1", "foo-2")...))
	to := netip.AddrPortFrom(netns.NodeAddr4, 8080)
	if tally := count(t, f.Client, rules.TCP, to, 10); tally.Answered() != 10 {
		t.Errorf("beside foreign tables: %s", tally)
	}
	f.cleanup()
	if diff := cmp.Diff(before, f.nft("list", "ruleset")); diff != "" {
		t.Errorf("foreign tables (-before +after clean-up):\n%s", diff)
	}
	if tally := count(t, f.Client, rules.TCP, to, 10); tally.Refused != 10 {
		t.Errorf("after clean-up: %s, want the node itself to refuse", tally)
	}
	f.cleanup() // with nothing left to remove
	f.program(f.state)
	if tally := count(t, f.Client, rules.TCP, to, 10); tally.Answered() != 10 {
		t.Errorf("programmed again after clean-up: %s", tally)
	}
}

// shell runs a script on the node.
func (f *fixture) shell(script string) { outputOf(f.t, f.Node, "sh", "-ec", script) }

// nft runs the nft tool in the node's namespace.
func (f *fixture) nft(args ...string) string { return nftIn(f.t, f.Node, args...) }

func nftIn(t *testing.T, n *netns.Namespace, args ...string) string {
	t.Helper()
	return outputOf(t, n, "nft", args...)
}

// outputOf runs a command in a namespace and returns what it prints.
func outputOf(t *testing.T, n *netns.Namespace, command string, args ...string) string {
	t.Helper()
	out, err := n.Output(command, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *fixture) loadRules(ruleset string) {
	f.t.Helper()
	loadRules(f.t, f.Node, ruleset)
}
