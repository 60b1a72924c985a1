package announce

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

func dialUDP(a netip.Addr) (net.Conn, error) {
	return net.Dial("udp", netip.AddrPortFrom(a, 9).String())
}

// vips returns addresses of both families on the network of the lab.
func vips(perFamily int) []netip.Addr {
	var out []netip.Addr
	for _, first := range []string{"198.51.100.100", "2001:db8:5::100"} {
		for a, n := netip.MustParseAddr(first), 0; n < perFamily; a, n = a.Next(), n+1 {
			out = append(out, a)
		}
	}
	return out
}

// queries asks as a client does, from the client's namespace.
func (l *lab) queries(tb testing.TB) *layer2.Responder {
	tb.Helper()
	r, err := layer2.New(layer2.DefaultConfig())
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.client.Do(func() error { return r.Run(ctx) }) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	eventually(tb, func() string { return "the client knows its interfaces" }, func() bool { return r.Looked() > 0 })
	return r
}

func names(owners map[netip.Addr]*node) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for a, n := range owners {
		out[a] = n.Name()
	}
	return out
}

func TestFailover(t *testing.T) {
	l := newLab(t)
	all := vips(6)
	l.startAll(t, all)
	before := l.awaitOwners(t, all)
	balanced(t, names(before), 3)
	for a, n := range before {
		l.client.awaitAt(t, a, n)
	}
	victim := before[all[0]]
	victim.process.Kill()
	after := l.awaitOwners(t, all)
	for a, n := range before {
		if n != victim && after[a] != n {
			t.Errorf("%s moved from %s, which lives", a, n.Name())
		}
	}
	for a, n := range after {
		// Its cache has been told, without asking.
		eventually(t, func() string { return fmt.Sprintf("the client knows %s at %s", a, n.Name()) }, func() bool {
			return l.client.neighbour(t, a) == n.mac.String()
		})
	}
	taken := 0
	for _, n := range l.running() {
		_, changes := n.reports()
		for _, c := range changes {
			if c.Kind == Taken && c.Node == victim.Name() {
				taken++
			}
		}
	}
	if lost := len(moved(names(before), names(after))); taken != lost || lost == 0 {
		t.Errorf("%d changes say that addresses were taken from %s, which had %d", taken, victim.Name(), lost)
	}

	victim.start(t)
	victim.set(t, readyFor(all))
	eventually(t, func() string { return "the node is back" }, func() bool {
		last, _ := victim.reports()
		return last.Counters.Members == 3 && len(last.Owners) == len(all)
	})
	if got := moved(names(after), names(l.awaitOwners(t, all))); len(got) != 0 {
		t.Errorf("%v moved when the node came back", got)
	}
}

// TestGracefulLeave stops an owner; a client that asks all the time always gets an answer.
func TestGracefulLeave(t *testing.T) {
	l := newLab(t)
	all := vips(3)
	l.startAll(t, all)
	leaving := l.awaitOwners(t, all)[all[0]]
	client := l.queries(t)
	var questions []layer2.Reach
	for _, a := range all {
		questions = append(questions, layer2.Reach{Address: a})
	}
	stopped := make(chan error, 1)
	go func() {
		code, err := leaving.process.Stop()
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		stopped <- err
	}()
	for done := false; !done; {
		select {
		case err := <-stopped:
			if err != nil {
				t.Error(err)
			}
			done = true
		default:
		}
		for a, macs := range client.Query(t.Context(), questions, 300*time.Millisecond) {
			if len(macs) == 0 {
				t.Errorf("nobody answers for %s", a)
			}
		}
	}
	for a, n := range l.awaitOwners(t, all) {
		l.client.awaitAt(t, a, n)
	}
	_, changes := leaving.reports()
	for _, c := range changes {
		if c.Kind == SplitBrain {
			t.Errorf("reported: %+v", c)
		}
	}
	before := names(l.awaitOwners(t, all))
	leaving.start(t)
	leaving.set(t, readyFor(all))
	eventually(t, func() string { return "the node is back" }, func() bool {
		last, _ := leaving.reports()
		return last.Counters.Members == 3 && len(last.Owners) == len(all)
	})
	if got := moved(before, names(l.awaitOwners(t, all))); len(got) != 0 {
		t.Errorf("%v moved when the node came back", got)
	}
}

// TestSplitBrainHeals unplugs a node from the switch, and plugs it in again.
func TestSplitBrainHeals(t *testing.T) {
	l := newLab(t)
	all := vips(3)
	l.startAll(t, all)
	before := l.awaitOwners(t, all)
	alone := before[all[0]]
	run(t, l.Namespace, "ip link set "+alone.Name()+" nomaster")
	eventually(t, func() string { return "both sides answer for everything" }, func() bool {
		inOne, inOther := 0, 0
		for _, n := range l.nodes {
			last, _ := n.reports()
			for _, o := range last.Owners {
				if o.Node == n.Name() && o.Phase == owner.Answering && n == alone {
					inOne++
				} else if o.Node == n.Name() && o.Phase == owner.Answering {
					inOther++
				}
			}
		}
		return inOne == len(all) && inOther == len(all)
	})
	for _, a := range all {
		l.client.reach(t, a)
	}
	run(t, l.Namespace, "ip link set "+alone.Name()+" master lan")
	after := l.awaitOwners(t, all)
	if got := moved(names(before), names(after)); len(got) != 0 {
		t.Errorf("%v are not where they were before", got)
	}
	for a, n := range after {
		eventually(t, func() string { return fmt.Sprintf("the client knows %s at %s", a, n.Name()) }, func() bool {
			return l.client.neighbour(t, a) == n.mac.String()
		})
	}
	// The claims of those who answered in vain were reported, each once.
	var reported []string
	for _, n := range l.nodes {
		_, changes := n.reports()
		for _, c := range changes {
			if c.Kind == SplitBrain {
				reported = append(reported, fmt.Sprintf("%s goes on at %s", c.Address, c.Node))
			}
			if c.Kind == ConflictBegan {
				t.Errorf("members take each other for strangers: %+v", c)
			}
		}
	}
	var want []string
	for a, n := range before {
		want = append(want, fmt.Sprintf("%s goes on at %s", a, n.Name()))
	}
	slices.Sort(reported)
	slices.Sort(want)
	if diff := cmp.Diff(want, reported); diff != "" {
		t.Errorf("reported (-want +got):\n%s", diff)
	}
	for _, a := range all {
		if macs := l.queries(t).Query(t.Context(), []layer2.Reach{{Address: a}}, time.Second); len(macs[a]) != 1 {
			t.Errorf("%s is answered by %v", a, macs[a])
		}
	}
}

// TestSilentMember closes the members' port of an owner, which goes on answering for much
// longer than who is gone is remembered; then it is killed.
func TestSilentMember(t *testing.T) {
	l := newLab(t)
	all := vips(3)
	const forgetAfter = 4 * time.Second
	for _, n := range l.nodes {
		n.forgetAfter = forgetAfter
	}
	l.startAll(t, all)
	before := l.awaitOwners(t, all)
	silent := before[all[0]]
	run(t, silent.Namespace, `nft 'table inet f { chain i { type filter hook input priority 0; meta l4proto { tcp, udp } th dport 7946 drop; }; chain o { type filter hook output priority 0; meta l4proto { tcp, udp } th dport 7946 drop; }; }'`)
	others := slices.DeleteFunc(slices.Clone(l.nodes), func(n *node) bool { return n == silent })
	for _, n := range others {
		eventually(t, func() string { return n.Name() + " says that a member is silent" }, func() bool {
			last, _ := n.reports()
			return len(last.Problems) == 1 && last.Problems[0].Reason == ReasonSilent && last.Counters.Members == 2 && last.Counters.Silent == 1
		})
	}
	for since := time.Now(); time.Since(since) < 2*forgetAfter && !t.Failed(); time.Sleep(100 * time.Millisecond) {
		for _, n := range l.nodes {
			last, _ := n.reports()
			for _, o := range last.Owners {
				if o.Node != before[o.Address].Name() || o.Phase != owner.Answering {
					t.Errorf("%s thinks that %s is at %s, phase %d", n.Name(), o.Address, o.Node, o.Phase)
				}
			}
		}
	}
	silent.process.Kill()
	after := l.awaitOwners(t, all)
	for a, n := range after {
		l.client.awaitAt(t, a, n)
	}
}

// TestStranger has a host outside of the cluster take an address that is about to be
// announced, and go away.
func TestStranger(t *testing.T) {
	l := newLab(t)
	all := vips(1)
	stranger := l.attach(t, "stranger", 8)
	for _, a := range all {
		if err := stranger.AddAddress("eth0", netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range l.nodes {
		n.start(t)
		n.set(t, readyFor(all))
	}
	for _, a := range all {
		eventually(t, func() string { return "all nodes know of the conflict about " + a.String() }, func() bool {
			for _, n := range l.nodes {
				last, _ := n.reports()
				if !slices.ContainsFunc(last.Owners, func(o Owner) bool { return o.Address == a && o.Phase == owner.Conflict }) {
					return false
				}
			}
			return true
		})
	}
	mac := stranger.readMAC(t)
	reported := map[netip.Addr]int{}
	for _, n := range l.nodes {
		_, changes := n.reports()
		for _, c := range changes {
			reported[c.Address]++
			if c.Kind != ConflictBegan || c.Stranger.MAC != mac || c.Stranger.Interface != "eth0" {
				t.Errorf("%s reported %s: %+v", n.Name(), c.Kind, c)
			}
		}
	}
	if want := map[netip.Addr]int{all[0]: 1, all[1]: 1}; !maps.Equal(want, reported) {
		t.Errorf("reported: %v", reported)
	}
	run(t, stranger.Namespace, "ip address flush dev eth0")
	for a, n := range l.awaitOwners(t, all) {
		l.client.awaitAt(t, a, n)
	}
}

// TestLocalEndpoint moves an address to the node that has an endpoint.
func TestLocalEndpoint(t *testing.T) {
	l := newLab(t)
	all := vips(1)
	only := func(name string) {
		for _, n := range l.nodes {
			addresses := readyFor(all)
			for a := range addresses {
				addresses[a] = Address{Ready: n.Name() == name}
			}
			n.set(t, addresses)
		}
	}
	for _, n := range l.nodes {
		n.start(t)
	}
	for _, name := range []string{"node-2", "node-3"} {
		only(name)
		eventually(t, func() string { return "all is at " + name }, func() bool {
			owners, err := l.owners(all)
			return err == nil && owners[all[0]].Name() == name && owners[all[1]].Name() == name
		})
	}
	for _, a := range all {
		l.client.awaitAt(t, a, l.nodes[2])
	}
	only("nobody")
	eventually(t, func() string { return "nobody owns anything" }, func() bool {
		for _, n := range l.nodes {
			last, _ := n.reports()
			if slices.ContainsFunc(last.Owners, func(o Owner) bool { return o.Node != "" }) {
				return false
			}
		}
		return true
	})
	if macs := l.queries(t).Query(t.Context(), []layer2.Reach{{Address: all[0]}}, 300*time.Millisecond); len(macs[all[0]]) != 0 {
		t.Errorf("answered by %v", macs)
	}
}
