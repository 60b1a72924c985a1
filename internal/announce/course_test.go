package announce

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

const settleFor = 5 * time.Second

// tick is how long messages take in a simulation.
const tick = 100 * time.Millisecond

// simulation is a cluster of courses on one segment, without network or clock.
type simulation struct {
	t     testing.TB
	now   time.Time
	nodes []*simulated
	// apart says that two nodes cannot talk to each other.
	apart func(a, b *simulated) bool
	// strangers have addresses.
	strangers map[netip.Addr]bool
	// gaps counts the ticks in which a watched address was answered for by nobody.
	watched map[netip.Addr]bool
	gaps    int
}

type simulated struct {
	*course
	sim      *simulation
	up       bool
	expected int // members, this node included
	record   *owner.Record
	written  time.Time // when the record was
	met      map[string]time.Time
	seen     map[string]*owner.Record
	statuses map[netip.Addr]layer2.Status
	probing  map[netip.Addr]int // ticks left
	changes  []Change
	again    int
	owners   []Owner
}

func addresses(n int) []netip.Addr {
	out := make([]netip.Addr, 0, n)
	for a := netip.MustParseAddr("192.0.2.0"); len(out) < n; a = a.Next() {
		out = append(out, a)
	}
	return out
}

func simulate(tb testing.TB, nodes, n int) *simulation {
	tb.Helper()
	s := &simulation{t: tb, now: time.Unix(1e9, 0), strangers: map[netip.Addr]bool{}, watched: map[netip.Addr]bool{}}
	s.apart = func(_, _ *simulated) bool { return false }
	for i := range nodes {
		s.add(fmt.Sprintf("node-%d", i+1), nodes, n)
	}
	return s
}

func (s *simulation) add(name string, expected, n int) *simulated {
	node := &simulated{sim: s, expected: expected}
	node.start(name)
	node.want(n, func(netip.Addr) Address { return Address{Ready: true} })
	s.nodes = append(s.nodes, node)
	return node
}

// start begins a life without memory.
func (n *simulated) start(name string) {
	n.course = newCourse(name, settleFor)
	n.up, n.record, n.seen, n.met = true, nil, map[string]*owner.Record{}, map[string]time.Time{}
	n.statuses, n.probing = map[netip.Addr]layer2.Status{}, map[netip.Addr]int{}
}

// want has the node want the first addresses.
func (n *simulated) want(count int, f func(netip.Addr) Address) {
	want := map[netip.Addr]Address{}
	for _, a := range addresses(count) {
		want[a] = f(a)
	}
	n.set(want, nil, nil, n.sim.now)
}

// die ends without a word.
func (n *simulated) die() { n.up, n.statuses = false, nil }

// step has every node hear the others and decide.
func (s *simulation) step() {
	s.now = s.now.Add(tick)
	for _, n := range s.nodes {
		if !n.up {
			continue
		}
		alive := n.hear()
		out := n.decide(view{now: s.now, alive: alive, complete: len(alive)+1 >= n.expected, records: n.seen, statuses: maps.Clone(n.statuses)})
		n.changes, n.owners = append(n.changes, out.changes...), out.owners
		n.again += len(out.again)
		n.layer2(out.answer)
		if !out.record.Repeats(n.record) {
			n.record, n.written = &out.record, s.now
		}
	}
	for a := range s.watched {
		if len(s.answering(a)) == 0 {
			s.gaps++
		}
	}
}

// hear stands for package members.
func (n *simulated) hear() (alive []string) {
	for _, other := range n.sim.nodes {
		if other == n {
			continue
		}
		since, met := n.met[other.node]
		if !other.up || n.sim.apart(n, other) {
			delete(n.met, other.node)
			continue
		}
		alive = append(alive, other.node)
		if !met {
			since = n.sim.now
			n.met[other.node], n.written = since, n.sim.now
			delete(n.seen, other.node)
		}
		if other.record != nil && !other.written.Before(since) {
			n.seen[other.node] = other.record
		}
	}
	return alive
}

// layer2 stands for package layer2.
func (n *simulated) layer2(answer map[netip.Addr]layer2.Address) {
	for a := range n.statuses {
		if _, ok := answer[a]; !ok {
			delete(n.statuses, a)
		}
	}
	for a, want := range answer {
		before, known := n.statuses[a]
		now := layer2.Status{State: layer2.Answering}
		switch {
		case !known && want.Probe:
			n.probing[a] = 5
			now.State = layer2.Probing
		case before.State == layer2.Probing && n.probing[a] > 0:
			n.probing[a]--
			now.State = layer2.Probing
		}
		// Without a probe, a stranger is noticed only after the first announcement.
		if now.State == layer2.Answering && n.sim.strangers[a] && (known || want.Probe) {
			now = layer2.Status{State: layer2.Conflict, Stranger: &layer2.Stranger{MAC: layer2.MAC{2}}}
		}
		n.statuses[a] = now
	}
}

// run steps for a while.
func (s *simulation) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.step()
	}
}

// answering are the nodes that answer for an address.
func (s *simulation) answering(a netip.Addr) []string {
	var out []string
	for _, n := range s.nodes {
		if n.up && n.statuses[a].State == layer2.Answering {
			out = append(out, n.node)
		}
	}
	return out
}

// owners demands that each of the first addresses is answered for by one node, which all
// nodes name as its owner, and returns it.
func (s *simulation) owners(n int) map[netip.Addr]string {
	s.t.Helper()
	out := map[netip.Addr]string{}
	for _, a := range addresses(n) {
		who := s.answering(a)
		if len(who) != 1 {
			s.t.Fatalf("%s is answered for by %v", a, who)
		}
		out[a] = who[0]
	}
	for _, node := range s.nodes {
		for _, o := range node.owners {
			if node.up && out[o.Address] != "" && (o.Node != out[o.Address] || o.Phase != owner.Answering || o.Since.IsZero()) {
				s.t.Fatalf("%s thinks %+v, %s answers", node.node, o, out[o.Address])
			}
		}
	}
	return out
}

// moved are the addresses with another owner.
func moved(before, after map[netip.Addr]string) (out []netip.Addr) {
	for a := range before {
		if before[a] != after[a] {
			out = append(out, a)
		}
	}
	return out
}

func (n *simulated) kinds() map[ChangeKind]int {
	out := map[ChangeKind]int{}
	for _, c := range n.changes {
		out[c.Kind]++
	}
	return out
}

func balanced(t *testing.T, owners map[netip.Addr]string, nodes int) {
	t.Helper()
	load := map[string]int{}
	for _, node := range owners {
		load[node]++
	}
	for node, n := range load {
		if float64(n) > 1.25*float64(len(owners))/float64(nodes)+1 {
			t.Errorf("%s owns %d of %d", node, n, len(owners))
		}
	}
}

func TestColdStart(t *testing.T) {
	t.Run("together", func(t *testing.T) {
		s := simulate(t, 3, 100)
		s.run(2 * time.Second)
		balanced(t, s.owners(100), 3)
	})
	t.Run("one after the other", func(t *testing.T) {
		s := simulate(t, 1, 100)
		s.nodes[0].expected = 3
		s.run(2 * time.Second)
		s.add("node-2", 3, 100)
		s.run(2 * time.Second)
		s.add("node-3", 3, 100)
		s.run(2 * time.Second)
		balanced(t, s.owners(100), 3)
	})
	t.Run("one is late", func(t *testing.T) {
		s := simulate(t, 2, 100)
		s.nodes[0].expected, s.nodes[1].expected = 3, 3
		s.run(settleFor - time.Second)
		if who := s.answering(addresses(1)[0]); len(who) != 0 {
			t.Errorf("%v answers before it has waited for the others", who)
		}
		s.run(3 * time.Second)
		before := s.owners(100)
		balanced(t, before, 2)
		late := s.add("node-3", 3, 100)
		s.run(settleFor + 2*time.Second)
		if got := moved(before, s.owners(100)); len(got) != 0 {
			t.Errorf("a late one made %d addresses move", len(got))
		}
		// What is new is shared out at once, most of it to who has nothing.
		for _, n := range s.nodes {
			n.want(150, func(netip.Addr) Address { return Address{Ready: true} })
		}
		s.run(2 * time.Second)
		s.owners(150)
		if len(late.claims) <= 50/3 {
			t.Errorf("of 50 new addresses the one without any gets %d", len(late.claims))
		}
	})
	t.Run("of one among others that have settled", func(t *testing.T) {
		s := simulate(t, 1, 20)
		s.run(time.Second)
		late := s.add("node-2", 5, 20)
		s.run(ripen + 2*tick)
		s.nodes[0].die()
		s.step()
		s.step()
		if late.statuses[addresses(1)[0]].State != layer2.Answering {
			t.Error("it waits for nodes that are not there, though it knows all that is known")
		}
	})
	t.Run("not prepared", func(t *testing.T) {
		s := simulate(t, 2, 50)
		s.nodes[1].course = newCourse("node-2", settleFor) // it has been told nothing yet
		s.run(time.Second)
		s.nodes[1].want(50, func(netip.Addr) Address { return Address{Ready: true} })
		s.run(2 * time.Second)
		balanced(t, s.owners(50), 2)
	})
}

func TestOwnerDiesAndComesBack(t *testing.T) {
	s := simulate(t, 3, 100)
	s.run(2 * time.Second)
	before := s.owners(100)
	dead := s.nodes[1]
	dead.die()
	s.step()
	s.step()
	// At once, without a probe: those addresses were ours.
	for a := range before {
		if who := s.answering(a); len(who) != 1 {
			t.Errorf("%s is answered for by %v", a, who)
		}
	}
	s.run(time.Second)
	after := s.owners(100)
	for _, a := range moved(before, after) {
		if before[a] != "node-2" {
			t.Errorf("%s moved from %s", a, before[a])
		}
	}
	taken := 0
	for _, n := range []*simulated{s.nodes[0], s.nodes[2]} {
		for _, c := range n.changes {
			if c.Kind == Taken && c.Node == "node-2" {
				taken++
			}
		}
	}
	if want := len(moved(before, after)); taken != want {
		t.Errorf("%d reported as taken from node-2, want %d", taken, want)
	}
	dead.start("node-2")
	dead.want(100, func(netip.Addr) Address { return Address{Ready: true} })
	s.run(settleFor + 2*time.Second)
	if got := moved(after, s.owners(100)); len(got) != 0 {
		t.Errorf("%d addresses moved when the node came back", len(got))
	}
}

// TestDrain has others take over before the owner stops.
func TestDrain(t *testing.T) {
	s := simulate(t, 3, 100)
	s.run(2 * time.Second)
	before := s.owners(100)
	for a := range before {
		s.watched[a] = true
	}
	leaving := s.nodes[0]
	leaving.draining = true
	s.run(time.Second)
	after := s.owners(100)
	if s.gaps != 0 {
		t.Errorf("addresses were without an answer for %d ticks", s.gaps)
	}
	if len(leaving.claims) != 0 || slices.Contains(slices.Collect(maps.Values(after)), "node-1") {
		t.Errorf("the node that is drained still has %d claims", len(leaving.claims))
	}
	if kinds := leaving.kinds(); kinds[Yielded] != len(moved(before, after)) || kinds[SplitBrain] != 0 {
		t.Errorf("it reported %v", kinds)
	}
	leaving.draining = false
	s.run(time.Second)
	if got := moved(after, s.owners(100)); len(got) != 0 {
		t.Errorf("%d addresses moved back", len(got))
	}
}

// TestAllDrained has those answer that are drained, when all are: also for what is lost, left
// or new, and until one is not.
func TestAllDrained(t *testing.T) {
	s := simulate(t, 3, 100)
	s.run(2 * time.Second)
	before := s.owners(100)
	for a := range before {
		s.watched[a] = true
	}
	for _, n := range s.nodes {
		n.draining = true
	}
	s.run(time.Second)
	if got := moved(before, s.owners(100)); len(got) != 0 || s.gaps != 0 {
		t.Errorf("%d addresses moved, without an answer for %d ticks", len(got), s.gaps)
	}
	s.nodes[0].leaving = true
	s.run(time.Second)
	if owners := slices.Collect(maps.Values(s.owners(100))); slices.Contains(owners, "node-1") || s.gaps != 0 {
		t.Errorf("the one that leaves owns addresses, or there were gaps of %d ticks", s.gaps)
	}
	s.nodes[0].die()
	s.nodes[1].die()
	s.run(time.Second)
	s.owners(100)
	s.nodes[0].start("node-1")
	s.nodes[0].draining = true
	for _, n := range []*simulated{s.nodes[0], s.nodes[2]} {
		n.want(120, func(netip.Addr) Address { return Address{Ready: true} })
	}
	s.run(2 * time.Second)
	s.owners(120)
	s.gaps = 0
	s.nodes[0].draining = false
	s.run(2 * time.Second)
	for a, node := range s.owners(120) {
		if node != "node-1" {
			t.Errorf("%s stays with %s, which is drained", a, node)
		}
	}
	if s.gaps != 0 {
		t.Errorf("addresses were without an answer for %d ticks", s.gaps)
	}
	// The last one answers to the end.
	for _, n := range s.nodes {
		n.leaving = true
	}
	s.run(time.Second)
	if s.gaps != 0 {
		t.Error("nobody answers when all leave")
	}
}

// TestSplitBrain cuts a cluster in two and has it find together again.
func TestSplitBrain(t *testing.T) {
	for name, minority := range map[string]int{"one node": 1, "two of four": 2} {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, 4, 100)
			s.run(2 * time.Second)
			before := s.owners(100)
			side := func(n *simulated) bool { return slices.Index(s.nodes, n) < minority }
			s.apart = func(a, b *simulated) bool { return side(a) != side(b) }
			s.run(2 * time.Second)
			for a := range before {
				if who := s.answering(a); len(who) != 2 {
					t.Fatalf("%s is answered for by %v", a, who)
				}
			}
			s.apart = func(_, _ *simulated) bool { return false }
			s.run(time.Second)
			if got := moved(before, s.owners(100)); len(got) != 0 {
				t.Errorf("%d addresses are not where they were before", len(got))
			}
			reported, again := 0, 0
			for _, n := range s.nodes {
				reported += n.kinds()[SplitBrain]
				again += n.again
			}
			if reported != 100 || again < 100 {
				t.Errorf("%d reported and %d announced again, of 100", reported, again)
			}
		})
	}
}

// TestCutOffRestart has a node lose its memory while it is cut off: it claims everything,
// and gives it all back.
func TestCutOffRestart(t *testing.T) {
	s := simulate(t, 3, 50)
	s.run(2 * time.Second)
	s.nodes[0].die()
	s.run(time.Second)
	before := s.owners(50)
	s.apart = func(a, b *simulated) bool { return a == s.nodes[0] || b == s.nodes[0] }
	s.nodes[0].start("node-1")
	s.nodes[0].want(50, func(netip.Addr) Address { return Address{Ready: true} })
	s.run(settleFor + 2*time.Second)
	if len(s.nodes[0].claims) != 50 {
		t.Fatalf("the node that is alone claims %d", len(s.nodes[0].claims))
	}
	s.apart = func(_, _ *simulated) bool { return false }
	s.run(time.Second)
	if got := moved(before, s.owners(50)); len(got) != 0 {
		t.Errorf("%d addresses moved to the node that had been cut off", len(got))
	}
}

// TestNotReady has an owner lose what it needs to own an address, and then everybody.
func TestNotReady(t *testing.T) {
	s := simulate(t, 2, 1)
	s.run(2 * time.Second)
	a := addresses(1)[0]
	s.watched[a] = true
	first := s.answering(a)[0]
	for _, n := range s.nodes {
		n.want(1, func(netip.Addr) Address { return Address{Ready: n.node != first} })
	}
	s.run(time.Second)
	if got := s.owners(1)[a]; got == first || s.gaps != 0 {
		t.Errorf("%s owns it, %d ticks without an answer", got, s.gaps)
	}
	for _, n := range s.nodes {
		n.want(1, func(netip.Addr) Address { return Address{} })
	}
	s.run(time.Second)
	if who := s.answering(a); len(who) != 0 || s.nodes[0].owners[0].Node != "" {
		t.Errorf("%v answers and %+v is shown where nobody is ready", who, s.nodes[0].owners[0])
	}
	for _, n := range s.nodes {
		n.want(1, func(netip.Addr) Address { return Address{Ready: true} })
	}
	s.run(2 * time.Second)
	s.owners(1)
	for _, n := range s.nodes {
		n.want(0, nil)
	}
	s.run(time.Second)
	if len(s.nodes[0].record.Claims)+len(s.nodes[1].record.Claims) != 0 {
		t.Error("an address that is no longer wanted is still claimed")
	}
}

// TestSomeReady has some nodes ready for some addresses only.
func TestSomeReady(t *testing.T) {
	s := simulate(t, 3, 30)
	few := addresses(10)
	for i, n := range s.nodes {
		n.want(30, func(a netip.Addr) Address { return Address{Ready: i == 0 || !slices.Contains(few, a)} })
	}
	s.run(2 * time.Second)
	owners := s.owners(30)
	for _, a := range few {
		if owners[a] != "node-1" {
			t.Errorf("%s owns %s", owners[a], a)
		}
	}
	balanced(t, owners, 3)
}

// TestConflict has a stranger who has an address: the owner goes on owning it, so that
// the others do not try it one after the other.
func TestConflict(t *testing.T) {
	s := simulate(t, 3, 1)
	a := addresses(1)[0]
	s.strangers[a] = true
	s.run(10 * time.Second)
	if who := s.answering(a); len(who) != 0 {
		t.Errorf("%v answers", who)
	}
	kinds := map[ChangeKind]int{}
	name := ""
	for _, n := range s.nodes {
		maps.Copy(kinds, n.kinds())
		if o := n.owners[0]; name == "" {
			name = o.Node
		} else if o.Node != name || o.Phase != owner.Conflict {
			t.Errorf("%s thinks %+v", n.node, o)
		}
	}
	if len(kinds) != 1 || kinds[ConflictBegan] != 1 {
		t.Errorf("reported: %v", kinds)
	}
	// Whoever comes next looks first, too.
	for _, n := range s.nodes {
		if n.node == name {
			n.die()
		}
	}
	s.step()
	s.step()
	if who := s.answering(a); len(who) != 0 {
		t.Errorf("%v answers", who)
	}
	s.run(time.Second)
	delete(s.strangers, a)
	s.run(time.Second)
	s.owners(1)
	for _, n := range s.nodes {
		maps.Copy(kinds, n.kinds())
	}
	if kinds[ConflictEnded] != 1 || kinds[Taken] != 0 {
		t.Errorf("reported: %v", kinds)
	}
}
