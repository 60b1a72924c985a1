package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

func TestRestartTouchesNothing(t *testing.T) {
	ns, c := inNamespace(t)
	s := newWorld(6).state().Apply(topologies["affinity"], map[string]string{"db/gw": "d"})
	mustProgram(t, newProgrammer(t, c), s)
	before := canonical(list(t, ns, "--handle", "list", "ruleset")) // whatever is made anew has another handle
	p := newProgrammer(t, c)
	if n := mustProgram(t, p, s); n != 0 {
		t.Errorf("%d operations", n)
	}
	if diff := cmp.Diff(before, canonical(list(t, ns, "--handle", "list", "ruleset"))); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if s := p.Stats(); s.ReadBacks != 1 || s.Failures != 0 {
		t.Errorf("%+v, want that it was read back once", s)
	}
}

func TestAdoptSweepsLeftovers(t *testing.T) {
	ns, c := inNamespace(t)
	mustProgram(t, newProgrammer(t, c), newWorld(3).state())
	for _, command := range []string{
		"add chain inet portway old-chain",
		"add rule inet portway old-chain goto refuse",
		"add map inet portway old-map { type ipv4_addr : verdict; }",
		"add element inet portway old-map { 192.0.2.9 : goto old-chain }",
		"add chain inet portway older",
		"add rule inet portway older ip daddr vmap @old-map",
		"add element inet portway listeners4 { 192.0.2.77 . tcp . 7 : goto old-chain }",
		"add element inet portway hairpin4 { 192.0.2.77 . 192.0.2.78 }",
		"add element inet portway refused4 { 192.0.2.77 . udp . 7 . 5-9 }",
		"add element inet portway slots4 { 192.0.2.77 . tcp . 7 . 0xffffff : 192.0.2.78 . 7 }",
		"add rule inet portway services drop",
	} {
		nft(t, ns, strings.Fields(command)...)
	}
	s := newWorld(4).state()
	mustProgram(t, newProgrammer(t, c), s)
	checkKernel(t, c, s)
	rendered, err := Render(s, c)
	if err != nil {
		t.Fatal(err)
	}
	// All rules, too, are as in a table made anew, and, as nft sees them, all elements.
	if diff := cmp.Diff(withoutSlots(rendered), withoutSlots(list(t, ns, "list", "table", "inet", "portway"))); diff != "" {
		t.Errorf("(-want +kernel):\n%s", diff)
	}
}

// withoutSlots is canonical with the number of slots instead of the slots, which
// may be placed in any order.
func withoutSlots(listing string) string {
	slots := regexp.MustCompile(`(?s)(\tmap slots[46] \{[^}]*?elements = \{\n)(.*?)\n\}`)
	return slots.ReplaceAllStringFunc(canonical(listing), func(block string) string {
		m := slots.FindStringSubmatch(block)
		return fmt.Sprintf("%s%d slots\n}", m[1], 1+strings.Count(m[2], "\n"))
	})
}

// An element that serves a listener but names another is made anew.
func TestAdoptRepairsComments(t *testing.T) {
	const k4, k6 = "192.0.2.1 . udp . 53", "2001:db8::1 . udp . 53"
	for _, test := range []struct{ set, key, value string }{
		{"listeners4", k4, " : goto draw"},
		{"drawn4", k4, " : goto flow-2"},
		{"drawn6", k6, " : goto flow-1"},
		{"refused4", k4 + " . 0x0-0x5ba4ef", ""},
		{"refused6", k6 + " . 0x0-0x5ba4ef", ""},
	} {
		t.Run(test.set, func(t *testing.T) {
			ns, c := inNamespace(t)
			s := stateOf(topologies["udp-refused-share"])
			mustProgram(t, newProgrammer(t, c), s)
			want := canonical(list(t, ns, "list", "table", "inet", "portway"))
			nft(t, ns, fmt.Sprintf("delete element inet portway %[1]s { %[2]s }; add element inet portway %[1]s { %[2]s comment \"another\"%[3]s }",
				test.set, test.key, test.value))
			if canonical(list(t, ns, "list", "table", "inet", "portway")) == want {
				t.Fatal("the comment is the same")
			}
			mustProgram(t, newProgrammer(t, c), s)
			if diff := cmp.Diff(want, canonical(list(t, ns, "list", "table", "inet", "portway"))); diff != "" {
				t.Errorf("(-want +kernel):\n%s", diff)
			}
		})
	}
}

// A table of our name that is not ours at all.
func TestTableInTheWayIsReplaced(t *testing.T) {
	for _, declaration := range []string{
		"add map inet portway listeners4 { type ipv4_addr : verdict; }",
		"add set inet portway slots4 { type ipv4_addr; }",
		"add chain inet portway prerouting { type filter hook prerouting priority 0; }",
	} {
		ns, c := inNamespace(t)
		nft(t, ns, "add", "table", "inet", "portway")
		nft(t, ns, strings.Fields(declaration)...)
		p := newProgrammer(t, c)
		s := newWorld(5).state()
		mustProgram(t, p, s)
		checkKernel(t, c, s)
		if p.Stats().Rebuilt != 1 {
			t.Errorf("%s: %+v, want 1 rebuilt", declaration, p.Stats())
		}
	}
}

// An agent that could not read all it should serve keeps what the kernel holds
// beyond that, with the sets it depends on, until it knows better.
func TestPartialStateKeepsTheUnknown(t *testing.T) {
	_, c := inNamespace(t)
	all := benchState(20)
	mustProgram(t, newProgrammer(t, c), all)

	known := all.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(3): nil, benchKey(4): nil}, nil)
	p := newProgrammer(t, c)
	if n := mustProgram(t, p, known.AsPartial()); n != 0 {
		t.Errorf("%d operations, want none", n)
	}
	checkKernel(t, c, all)
	fewer := known.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(5): nil}, nil)
	mustProgram(t, p, fewer.AsPartial()) // a Frontend that this process named goes
	if got := count(t, c, listeners4); got != 19 {
		t.Errorf("%d listeners in the kernel, want 19", got)
	}
	mustProgram(t, p, fewer)
	checkKernel(t, c, fewer)
	if n := mustProgram(t, p, fewer); n != 0 {
		t.Errorf("%d operations for the same State again, want none", n)
	}
}

// An agent that could not read the endpoints of a Frontend, or its route, keeps what a
// former process made of it, until all is read; what it made itself it does not keep.
func TestPartialStateKeepsWhatWorks(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	other := key("127.1.0.1 tcp 81")
	serving := func(server int) *rules.Frontend {
		return &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{backend("ns/a", 1, local(serverAddr(server).String(), ""))}}
	}
	state := func(front, next *rules.Frontend) *rules.State {
		next.Owner.Gateway = "ns/other"
		return stateOf(map[rules.FrontendKey]*rules.Frontend{frontKey: front, other: next})
	}
	answers := func(port uint16, want int) {
		t.Helper()
		got, err := ask(ns, netip.MustParseAddr("127.3.0.1"), netip.AddrPortFrom(frontKey.Addr, port))
		switch {
		case want < 0 && !errors.Is(err, unix.ECONNREFUSED):
			t.Errorf("port %d: server %d, %v, want that it is refused", port, got, err)
		case want >= 0 && (err != nil || got != want):
			t.Errorf("port %d: server %d, %v, want %d", port, got, err, want)
		}
	}
	for name, unread := range map[string]*rules.Frontend{
		"no endpoint": {Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{backend("ns/a", 1), backend("ns/b", 0, local(serverAddr(5).String(), ""))}},
		"no route":    {Owner: owner("ns/gw", "l", "")},
	} {
		t.Run(name, func(t *testing.T) {
			mustProgram(t, newProgrammer(t, c), state(serving(0), serving(1)))
			p := newProgrammer(t, c)
			kept := func(s *rules.State) {
				t.Helper()
				results, err := p.Program(t.Context(), s)
				if !errors.Is(err, errKept) || !errors.Is(results.Errors["ns/gw"], errKept) || len(results.Errors) != 1 {
					t.Errorf("%v, errors %v", err, results.Errors)
				}
				if diff := cmp.Diff(map[string]string{"ns/other": "d"}, results.Committed); diff != "" {
					t.Errorf("committed (-want +got):\n%s", diff)
				}
				answers(frontKey.Port, 0)
			}
			before := nft(t, ns, "--handle", "list", "set", "inet", "portway", "local4")
			partial := state(unread, serving(1)).AsPartial()
			kept(partial)
			kept(partial)
			if diff := cmp.Diff(before, nft(t, ns, "--handle", "list", "set", "inet", "portway", "local4")); diff != "" {
				t.Errorf("local4 (-before +after):\n%s", diff)
			}

			// What this process found endpoints for is refused without, also when read back.
			without := serving(1)
			without.Backends[0].Endpoints = nil
			if err := p.disconnect(); err != nil {
				t.Fatal(err)
			}
			p.synced = false
			kept(state(unread, without).AsPartial())
			answers(other.Port, -1)

			s := rules.NewState(map[rules.FrontendKey]*rules.Frontend{frontKey: unread, other: without}, map[string]string{"ns/gw": "d", "ns/other": "d"})
			mustProgram(t, p, s)
			answers(frontKey.Port, -1)
			checkKernel(t, c, s)

			mustProgram(t, p, state(serving(0), serving(1)))
			p.synced = false
			mustProgram(t, p, s.AsPartial()) // it was told everything once
			answers(frontKey.Port, -1)
		})
	}
}

// The same pointer in the first complete State is looked at again.
func TestCompleteStateEndsWhatIsKept(t *testing.T) {
	_, c := inNamespace(t)
	all := benchState(3)
	mustProgram(t, newProgrammer(t, c), all)
	p := newProgrammer(t, c)
	s := all.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(1): benchFrontend(1, 0, 0)}, nil)
	if _, err := p.Program(t.Context(), s.AsPartial()); !errors.Is(err, errKept) {
		t.Errorf("%v, want that it is kept", err)
	}
	checkKernel(t, c, all)
	mustProgram(t, p, s)
	checkKernel(t, c, s)
}

// A Frontend that cannot be programmed after the table was read back keeps with its rules
// the members that they need, and no other Frontend's members stay for it afterwards.
func TestUnprogrammableFrontendKeepsItsMembers(t *testing.T) {
	_, c := inNamespace(t)
	s := benchState(3)
	mustProgram(t, newProgrammer(t, c), s)
	bad := benchFrontend(1, 0, 2)
	bad.Backends[0].Weight = rules.MaxWeight + 1
	fewer := s.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(2): nil}, nil)
	count := func() [3]int { return [3]int{count(t, c, endpoints4), count(t, c, local4), count(t, c, hairpin4)} }
	before := count()
	p := newProgrammer(t, c)
	for range 2 {
		if _, err := p.Program(t.Context(), fewer.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(1): bad}, nil)); err == nil {
			t.Fatal("no error")
		}
		if got := count(); got != before {
			t.Errorf("%d members, want %d", got, before)
		}
	}
	mustProgram(t, p, fewer)
	checkKernel(t, c, fewer)
}
