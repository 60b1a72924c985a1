package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/conntrack"
	"github.com/portway-dev/portway/rules"
)

const flowMark = 0x1000

// trackedFlow is an entry of a fakeTable.
type trackedFlow struct {
	name   string
	flow   rules.Flow
	marked bool
}

// fakeTable is a connection tracking table.
type fakeTable struct {
	entries []trackedFlow
	sweeps  []conntrack.Filter
	err     error
}

func (f *fakeTable) sweep(_ context.Context, filter conntrack.Filter, stale func(rules.Flow) bool) (int, error) {
	f.sweeps = append(f.sweeps, filter)
	if f.err != nil {
		return 0, f.err
	}
	before := len(f.entries)
	f.entries = slices.DeleteFunc(f.entries, func(e trackedFlow) bool {
		return e.flow.Protocol == filter.Protocol && (filter.MarkMask == 0 || e.marked) && stale(e.flow)
	})
	return before - len(f.entries), nil
}

func (f *fakeTable) names() []string {
	names := []string{}
	for _, e := range f.entries {
		names = append(names, e.name)
	}
	return names
}

func frontendTo(draining string, endpoints ...string) *rules.Frontend {
	backend := rules.Backend{Ref: "a/s", Weight: 1}
	for _, e := range endpoints {
		backend.Endpoints = append(backend.Endpoints, rules.Endpoint{Addr: netip.MustParseAddrPort(e)})
	}
	if draining != "" {
		backend.Draining = []netip.AddrPort{netip.MustParseAddrPort(draining)}
	}
	return &rules.Frontend{Owner: rules.Owner{Gateway: "a/g"}, Backends: []rules.Backend{backend}}
}

func keyAt(protocol rules.Protocol, port uint16) rules.FrontendKey {
	return rules.FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: protocol, Port: port}
}

func flowTo(protocol rules.Protocol, port uint16, endpoint string) rules.Flow {
	return rules.Flow{
		Protocol: protocol, Src: netip.MustParseAddrPort("198.51.100.1:1000"),
		Dst: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), Endpoint: netip.MustParseAddrPort(endpoint),
	}
}

func nothingListed() map[netip.Addr]bool { return nil }

// committed adds that something was committed, as it nearly always is.
func committed(r rules.Results) rules.Results {
	r.Committed = map[string]string{"a/fine": "1:x"}
	return r
}

// sweptTable has flows of every kind.
func sweptTable() *fakeTable {
	return &fakeTable{entries: []trackedFlow{
		{"to a", flowTo(rules.UDP, 53, "10.0.0.1:53"), true},
		{"to b", flowTo(rules.UDP, 53, "10.0.0.2:53"), true},
		{"from before", flowTo(rules.UDP, 53, "192.0.2.1:53"), false},
		{"by another to b", flowTo(rules.UDP, 53, "10.0.0.2:53"), false},
		{"of others", flowTo(rules.UDP, 99, "10.0.0.2:53"), false},
		{"of others with our mark", flowTo(rules.UDP, 99, "10.0.0.2:53"), true},
		{"tcp to b", flowTo(rules.TCP, 53, "10.0.0.2:53"), true},
		{"tcp from before", flowTo(rules.TCP, 53, "192.0.2.1:53"), false},
	}}
}

func TestFlowSweeper(t *testing.T) {
	udp, tcp := keyAt(rules.UDP, 53), keyAt(rules.TCP, 53)
	state := func(u, t *rules.Frontend) *rules.State {
		return rules.NewState(map[rules.FrontendKey]*rules.Frontend{udp: u, tcp: t}, nil)
	}
	ab := frontendTo("", "10.0.0.1:53", "10.0.0.2:53")
	a := frontendTo("", "10.0.0.1:53")
	none := frontendTo("")
	type step struct {
		state   *rules.State
		results rules.Results
	}
	failed := errors.New("no buffer space")
	tests := map[string]struct {
		endTCP bool
		steps  []step // the last one is what is tested
		gone   []string
	}{
		"the first look ends what is from before": {
			steps: []step{{state: state(ab, ab)}},
			gone:  []string{"from before"},
		},
		"and what leads to endpoints that are gone": {
			steps: []step{{state: state(a, a)}},
			gone:  []string{"to b", "from before", "by another to b"},
		},
		"an endpoint goes": {
			steps: []step{{state: state(ab, ab)}, {state: state(a, a)}},
			gone:  []string{"to b"},
		},
		"an endpoint drains": {
			steps: []step{{state: state(ab, ab)}, {state: state(frontendTo("10.0.0.2:53", "10.0.0.1:53"), a)}},
		},
		"an endpoint comes": {
			steps: []step{{state: state(a, a)}, {state: state(ab, a)}},
		},
		"the last endpoint goes": {
			steps: []step{{state: state(ab, ab)}, {state: state(none, ab)}},
			gone:  []string{"to a", "to b"},
		},
		"a listener goes": {
			steps: []step{
				{state: state(ab, ab)},
				{state: rules.NewState(map[rules.FrontendKey]*rules.Frontend{tcp: ab}, nil), results: rules.Results{Removed: []rules.FrontendKey{udp}}},
			},
			gone: []string{"to a", "to b"},
		},
		"a listener that another has taken over is not gone": {
			steps: []step{{state: state(ab, ab), results: rules.Results{Removed: []rules.FrontendKey{udp}}}},
			gone:  []string{"from before"},
		},
		"a State that lacks a listener takes nothing away by itself": {
			steps: []step{{state: state(ab, ab)}, {state: rules.NewState(map[rules.FrontendKey]*rules.Frontend{tcp: ab}, nil).AsPartial()}},
		},
		"what could not be programmed is not ended": {
			steps: []step{
				{state: state(ab, ab)},
				{state: state(a, a), results: rules.Results{Errors: map[string]error{"a/g": failed}}},
			},
		},
		"but later": {
			steps: []step{
				{state: state(ab, ab)},
				{state: state(a, ab), results: rules.Results{Errors: map[string]error{"a/g": failed}}},
				{state: state(a, ab)},
			},
			gone: []string{"to b", "from before", "by another to b"},
		},
		"tcp on request": {
			endTCP: true,
			steps:  []step{{state: state(ab, ab)}, {state: state(ab, a)}},
			gone:   []string{"tcp to b"},
		},
		"tcp on request, at the start": {
			endTCP: true,
			steps:  []step{{state: state(ab, a)}},
			gone:   []string{"from before", "tcp to b"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			table := &fakeTable{}
			s := newFlowSweeper(flowMark, test.endTCP, newInstruments())
			s.sweep = table.sweep
			for i, step := range test.steps {
				if i == len(test.steps)-1 {
					table.entries = sweptTable().entries
				}
				s.offer(step.state, committed(step.results), nothingListed)
				if err := s.pass(t.Context(), false); err != nil {
					t.Fatal(err)
				}
			}
			want := slices.DeleteFunc(sweptTable().names(), func(name string) bool { return slices.Contains(test.gone, name) })
			if diff := cmp.Diff(want, table.names()); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFlowSweeperLooksNoMoreThanItMust: to walk the table costs the kernel time.
func TestFlowSweeperLooksNoMoreThanItMust(t *testing.T) {
	table := &fakeTable{}
	s := newFlowSweeper(flowMark, false, newInstruments())
	s.sweep = table.sweep
	ours := conntrack.Filter{Protocol: rules.UDP, Mark: flowMark, MarkMask: flowMark}
	pass := func(what string, full bool, want ...conntrack.Filter) {
		t.Helper()
		table.sweeps = nil
		if err := s.pass(t.Context(), full); (err != nil) != (table.err != nil) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, table.sweeps); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	offer := func(endpoints ...string) {
		s.offer(rules.NewState(map[rules.FrontendKey]*rules.Frontend{
			keyAt(rules.UDP, 53): frontendTo("", endpoints...), keyAt(rules.TCP, 80): frontendTo("", endpoints...),
		}, nil), rules.Results{}, nothingListed)
	}
	pass("before there is a State", true)
	offer("10.0.0.1:53", "10.0.0.2:53")
	pass("a new listener", false, ours, conntrack.Filter{Protocol: rules.UDP})
	pass("nothing new", false)
	pass("once more", true, ours, conntrack.Filter{Protocol: rules.UDP})
	pass("and not again", true)
	offer("10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53")
	pass("an endpoint more", false)
	offer("10.0.0.1:53")
	table.err = errors.New("no")
	pass("endpoints less", false, ours)
	table.err = nil
	pass("after a failure", true, ours)
}

// TestFlowSweeperDespiteAGatewayThatFails: it must not be why all flows are looked at
// with every pass.
func TestFlowSweeperDespiteAGatewayThatFails(t *testing.T) {
	table := &fakeTable{}
	s := newFlowSweeper(flowMark, false, newInstruments())
	s.sweep = table.sweep
	state := rules.NewState(map[rules.FrontendKey]*rules.Frontend{keyAt(rules.UDP, 53): frontendTo("", "10.0.0.1:53")}, nil)
	for i := range 10 {
		s.offer(state, committed(rules.Results{Errors: map[string]error{"a/other": errors.New("no")}}), nothingListed)
		if err := s.pass(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if len(table.sweeps) > 2 {
			t.Fatalf("pass %d: looked %d times", i, len(table.sweeps))
		}
	}
	table.sweeps = nil
	s.offer(state, rules.Results{}, nothingListed)
	if err := s.pass(t.Context(), false); err != nil || len(table.sweeps) != 2 {
		t.Errorf("when it no longer fails: looked %d times, %v", len(table.sweeps), err)
	}
}

// sweeperBench is a sweeper beside a table, which has taken over a State with the
// UDP endpoints a and b.
func sweeperBench(t *testing.T, endTCP bool, entries ...trackedFlow) (*flowSweeper, *fakeTable, func(full bool) []string) {
	t.Helper()
	table := &fakeTable{}
	s := newFlowSweeper(flowMark, endTCP, newInstruments())
	s.sweep = table.sweep
	look := func(full bool) []string {
		t.Helper()
		if err := s.pass(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		return table.names()
	}
	s.offer(udpState("10.0.0.1:53", "10.0.0.2:53"), committed(rules.Results{}), nothingListed)
	look(false)
	look(true)
	table.entries = entries
	return s, table, look
}

func udpState(endpoints ...string) *rules.State {
	return rules.NewState(map[rules.FrontendKey]*rules.Frontend{keyAt(rules.UDP, 53): frontendTo("", endpoints...)}, nil)
}

// TestFlowsOfTheNextStateAreLeftAlone: it is in the kernel before the sweep for the one
// before has ended.
func TestFlowsOfTheNextStateAreLeftAlone(t *testing.T) {
	s, _, look := sweeperBench(t, false,
		trackedFlow{"to b", flowTo(rules.UDP, 53, "10.0.0.2:53"), true}, trackedFlow{"to c", flowTo(rules.UDP, 53, "10.0.0.3:53"), true})
	s.offer(udpState("10.0.0.1:53"), committed(rules.Results{}), nothingListed)
	s.announce(udpState("10.0.0.1:53", "10.0.0.3:53"))
	if got := look(false); !slices.Equal(got, []string{"to c"}) {
		t.Errorf("left %v, want the flow to c", got)
	}
}

// TestFlowsAfterAFailure: what another Gateway's failure kept from being looked at is
// not forgotten.
func TestFlowsAfterAFailure(t *testing.T) {
	s, _, look := sweeperBench(t, false, trackedFlow{"to c", flowTo(rules.UDP, 53, "10.0.0.3:53"), true})
	s.offer(udpState("10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"), committed(rules.Results{Errors: map[string]error{"a/other": errors.New("no")}}), nothingListed)
	look(false)
	s.offer(udpState("10.0.0.1:53", "10.0.0.2:53"), committed(rules.Results{}), nothingListed)
	if got := look(false); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

// TestFlowsBesideAMissingObject: endpoints that could not be read are not gone, and
// nothing is in the kernel where everything failed.
func TestFlowsBesideAMissingObject(t *testing.T) {
	entry := trackedFlow{"to b", flowTo(rules.UDP, 53, "10.0.0.2:53"), true}
	s, _, look := sweeperBench(t, false, entry)
	s.offer(udpState().AsPartial(), committed(rules.Results{}), nothingListed)
	s.offer(udpState(), rules.Results{Errors: map[string]error{"a/g": errors.New("no")}}, nothingListed)
	if got := look(true); len(got) != 1 {
		t.Error("ended a flow whose endpoints could not be read, or programmed")
	}
	s.offer(udpState(), committed(rules.Results{}), nothingListed)
	if got := look(false); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

// TestFlowsMadeMeanwhile: a packet that was on its way when the rules changed.
func TestFlowsMadeMeanwhile(t *testing.T) {
	s, table, look := sweeperBench(t, false)
	s.offer(rules.NewState(nil, nil), committed(rules.Results{Removed: []rules.FrontendKey{keyAt(rules.UDP, 53)}}), nothingListed)
	look(false)
	table.entries = []trackedFlow{{"late", flowTo(rules.UDP, 53, "10.0.0.2:53"), true}}
	if got := look(true); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

// TestFlowsBegunByTheNode: a process that got a client's datagrams until now answers
// once more, and the flow of that answer would be the client's from then on.
func TestFlowsBegunByTheNode(t *testing.T) {
	before := flowTo(rules.UDP, 54, "192.0.2.1:54")
	answer := rules.Flow{Protocol: rules.UDP, Src: before.Dst, Dst: before.Src, Endpoint: before.Src}
	elsewhere := rules.Flow{Protocol: rules.UDP, Src: before.Dst, Dst: netip.MustParseAddrPort("198.51.100.9:53"), Endpoint: netip.MustParseAddrPort("198.51.100.9:53")}
	s, _, look := sweeperBench(t, false, trackedFlow{"before", before, false}, trackedFlow{"answer", answer, false}, trackedFlow{"elsewhere", elsewhere, false})
	state := udpState("10.0.0.1:53", "10.0.0.2:53").Apply(map[rules.FrontendKey]*rules.Frontend{keyAt(rules.UDP, 54): frontendTo("", "10.0.0.1:53")}, nil)
	s.offer(state, committed(rules.Results{}), nothingListed)
	if got := look(false); !slices.Equal(got, []string{"elsewhere"}) {
		t.Errorf("left %v", got)
	}
}

// TestTCPFlowsToPodsThatLive: neither a pod that is not ready nor one whose Service is
// no backend any more is gone for good.
func TestTCPFlowsToPodsThatLive(t *testing.T) {
	tcp := func(endpoints ...string) *rules.State {
		return rules.NewState(map[rules.FrontendKey]*rules.Frontend{keyAt(rules.TCP, 53): frontendTo("", endpoints...)}, nil)
	}
	s, _, look := sweeperBench(t, true,
		trackedFlow{"to b", flowTo(rules.TCP, 53, "10.0.0.2:53"), true}, trackedFlow{"to c", flowTo(rules.TCP, 53, "10.0.0.3:53"), true})
	s.offer(tcp("10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"), committed(rules.Results{}), nothingListed)
	look(false)
	s.offer(tcp("10.0.0.1:53"), committed(rules.Results{}), func() map[netip.Addr]bool {
		return map[netip.Addr]bool{netip.MustParseAddr("10.0.0.2"): true}
	})
	if got := look(false); !slices.Equal(got, []string{"to b"}) {
		t.Errorf("left %v, want the flow to the pod that is still listed", got)
	}
}

// TestTCPFlowsLingerUntilThePodIsGone: its Service lists it for as long.
func TestTCPFlowsLingerUntilThePodIsGone(t *testing.T) {
	s, _, look := sweeperBench(t, true, trackedFlow{"to b", flowTo(rules.TCP, 53, "10.0.0.2:53"), true})
	offer := func(f *rules.Frontend) {
		s.offer(rules.NewState(map[rules.FrontendKey]*rules.Frontend{keyAt(rules.TCP, 53): f}, nil), committed(rules.Results{}), nothingListed)
	}
	offer(frontendTo("", "10.0.0.1:53", "10.0.0.2:53"))
	look(false)
	lingers := frontendTo("", "10.0.0.1:53")
	lingers.Backends[0].Lingering = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53")}
	offer(lingers)
	if got := look(false); len(got) != 1 {
		t.Error("ended while the pod is there")
	}
	offer(frontendTo("", "10.0.0.1:53"))
	if got := look(false); len(got) != 0 {
		t.Errorf("left %v after it is gone", got)
	}
}
