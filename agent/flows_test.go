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
				s.offer(step.state, step.results)
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
		}, nil), rules.Results{})
	}
	pass("before there is a State", true)
	offer("10.0.0.1:53", "10.0.0.2:53")
	pass("a new listener", false, ours, conntrack.Filter{Protocol: rules.UDP})
	pass("nothing new", false)
	pass("once more", true, ours)
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
		s.offer(state, rules.Results{Errors: map[string]error{"a/other": errors.New("no")}})
		if err := s.pass(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if len(table.sweeps) > 2 {
			t.Fatalf("pass %d: looked %d times", i, len(table.sweeps))
		}
	}
	table.sweeps = nil
	s.offer(state, rules.Results{})
	if err := s.pass(t.Context(), false); err != nil || len(table.sweeps) != 2 {
		t.Errorf("when it no longer fails: looked %d times, %v", len(table.sweeps), err)
	}
}
