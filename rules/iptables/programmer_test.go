package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// coldLoad is what a State makes of an empty kernel.
func coldLoad(t *testing.T, v Variant, s *rules.State) map[string]map[string][]string {
	t.Helper()
	_, c := inNamespace(t, v)
	mustProgram(t, newProgrammer(t, c), s)
	return readBack(t, c)
}

func check(t *testing.T, c Config, s *rules.State) {
	t.Helper()
	if diff := cmp.Diff(coldLoad(t, c.Variant, s), readBack(t, c)); diff != "" {
		t.Errorf("not as after a cold load (-want +got):\n%s", diff)
	}
}

func TestTwiceIsNothing(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		mustProgram(t, p, newWorld(1).state())
		before := p.Stats().Restores
		equal := newWorld(1).state() // not one pointer the same
		if r := mustProgram(t, p, equal); r.Operations != 0 || r.Restored || p.Stats().Restores != before {
			t.Errorf("second Program: %+v, %+v", r, p.Stats())
		}
	})
}

func TestRestartTouchesNothing(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		s := newWorld(2).state()
		mustProgram(t, newProgrammer(t, c), s)
		before := saved(t, ns, c.Variant)
		if r := mustProgram(t, newProgrammer(t, c), newWorld(2).state()); r.Operations != 0 || r.Restored || len(r.Removed) > 0 {
			t.Errorf("after a restart: %+v", r)
		}
		if diff := cmp.Diff(before, saved(t, ns, c.Variant)); diff != "" {
			t.Errorf("a restart changed (-before +after):\n%s", diff)
		}
	})
}

// A State of many Frontends takes as many commands as one of a few.
func TestCommandsDoNotGrow(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		mustProgram(t, p, manyFrontends(1))
		before := p.Stats().Commands
		mustProgram(t, p, manyFrontends(200))
		if n := p.Stats().Commands - before; n != 5 {
			t.Errorf("%d commands, want two reads a family and one restore", n)
		}
	})
}

func TestTouchesOnlyTheDifference(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		k := key("192.0.2.2 tcp 80")
		base := manyFrontends(20)
		with := func(f *rules.Frontend) *rules.State { return base.Apply(frontends{k: f}, nil) }
		front := func(route string, endpoints ...rules.Endpoint) *rules.Frontend {
			return &rules.Frontend{Owner: owner("ns/gw", "l", route), Backends: []rules.Backend{backend("ns/a", 1, endpoints...)}}
		}
		a, b, near := endpoint("10.9.0.1:80"), endpoint("10.9.0.2:80"), local("10.9.0.3:80")
		mustProgram(t, p, base)
		for _, step := range []struct {
			name string
			f    *rules.Frontend
			want int
		}{
			{"new listener", front("ns/r", a), 1 + 3 + 1 + 1 + 2},          // chain, its rules, service, endpoint, bucket and the way there
			{"one endpoint more", front("ns/r", a, b), 1 + 4 + 1},          // chain, its rules, endpoint
			{"one on this node", front("ns/r", a, b, near), 1 + 5 + 1 + 1}, // and its hairpin
			{"route renamed", front("ns/s", a, b, near), 1 + 5 + 2},
			{"endpoint replaced", front("ns/s", a, near), 1 + 4 + 1},
			{"nothing left", front("ns/s"), 1 + 2 + 3},
			{"listener removed", nil, 1 + 2 + 3}, // service, chain and bucket emptied and deleted, the way there
		} {
			if got := mustProgram(t, p, with(step.f)).Operations; got != step.want {
				t.Errorf("%s: %d operations, want %d", step.name, got, step.want)
			}
			check(t, c, with(step.f))
		}
		if s := p.Stats(); s.Failures != 0 || s.Altered != 0 {
			t.Errorf("a way other than the ordinary one was taken: %+v", s)
		}
	})
}

func TestRandomStatesEndAsAColdLoad(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		w := newWorld(3)
		for range 6 {
			s := w.state()
			mustProgram(t, p, s)
			check(t, c, s)
			if r := mustProgram(t, newProgrammer(t, c), s); r.Operations != 0 {
				t.Errorf("a new process: %d operations", r.Operations)
			}
		}
		if s := p.Stats(); s.Failures != 0 || s.Altered != 0 {
			t.Errorf("a way other than the ordinary one was taken: %+v", s)
		}
	})
}

// Whatever others flush, delete or add comes back, or goes, with the next Program, and a
// look tells that one is due.
func TestStrangersFlushIsHealed(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		p := newProgrammer(t, c)
		s := newWorld(4).state()
		mustProgram(t, p, s)
		iptables := "iptables-" + string(c.Variant)
		at, _ := bucket(s.Keys()[0])
		wipe := "for t in nat filter; do " + iptables + " -t $t -F; " + iptables + " -t $t -X; done"
		for _, line := range []string{
			iptables + " -t nat -F", iptables + " -F", wipe,
			iptables + " -t nat -D PREROUTING -j PORTWAY-SERVICES",
			iptables + " -t nat -I PREROUTING -p tcp --dport 9 -j RETURN", // now in front
			iptables + " -A FORWARD -j PORTWAY-FILTER && " + iptables + " -I FORWARD -j ACCEPT",
			iptables + " -t nat -D PORTWAY-SERVICES 1",
			iptables + " -t nat -I PORTWAY-SERVICES 1 -p tcp -j ACCEPT",
			iptables + " -t nat -F " + at,
			iptables + " -t nat -I " + at + " 1 -p tcp -j ACCEPT",
			iptables + " -D PORTWAY-INVALID 1",
			iptables + " -A PORTWAY-REFUSE -j ACCEPT",
			iptables + " -N PORTWAY-OLD && " + iptables + " -A PORTWAY-OLD -j PORTWAY-REFUSE && " + iptables + " -A INPUT -j PORTWAY-OLD",
		} {
			if r := mustProgram(t, p, s); r.Operations > 0 {
				t.Errorf("before %s: not at rest: %+v", line, r)
			}
			if p.Disturbed() {
				t.Errorf("before %s: disturbed", line)
			}
			command(t, ns, line)
			if !p.Disturbed() {
				t.Errorf("after %s: not disturbed", line)
			}
			if r := mustProgram(t, p, s); !r.Restored || r.Operations == 0 || len(r.Removed) > 0 {
				t.Errorf("after %s: %+v", line, r)
			}
			check(t, c, s)
		}
		command(t, ns, wipe)
		r := mustProgram(t, p, rules.NewState(nil, nil)) // nobody wants it back, and its UDP flows are to end
		if diff := cmp.Diff(s.Keys(), r.Removed, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("removed (-want +got):\n%s", diff)
		}
		if r := mustProgram(t, p, rules.NewState(nil, nil)); len(r.Removed) > 0 || r.Operations > 0 || r.Restored {
			t.Errorf("told again: %+v", r)
		}
	})
}

const foreignRules = `
for t in iptables ip6tables; do
$t-VARIANT -t nat -N KUBE-SERVICES; $t-VARIANT -t nat -A KUBE-SERVICES -p tcp --dport 99 -m comment --comment "a \"b\"" -j RETURN
$t-VARIANT -t nat -I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
$t-VARIANT -t nat -A POSTROUTING -o eth9 -j MASQUERADE
$t-VARIANT -P FORWARD DROP; $t-VARIANT -N DOCKER-USER; $t-VARIANT -A FORWARD -j DOCKER-USER; $t-VARIANT -A DOCKER-USER -j RETURN
$t-VARIANT -N PORTWAY-FORWARD; $t-VARIANT -A PORTWAY-FORWARD -m connmark --mark 0x1000/0x1000 -j ACCEPT; $t-VARIANT -A FORWARD -j PORTWAY-FORWARD
done`

func TestCleanupLeavesOthersAlone(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		command(t, ns, strings.ReplaceAll(foreignRules, "VARIANT", string(c.Variant)))
		before := saved(t, ns, c.Variant)
		p := newProgrammer(t, c)
		if diff := cmp.Diff(before, saved(t, ns, c.Variant)); diff != "" {
			t.Errorf("to probe left something behind (-before +after):\n%s", diff)
		}
		mustProgram(t, p, newWorld(5).state())
		command(t, ns, "iptables-"+string(c.Variant)+" -A DOCKER-USER -p tcp -j PORTWAY-REFUSE") // keeps the chain
		for range 2 {
			if err := p.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, saved(t, ns, c.Variant)); diff != "" {
				t.Errorf("after Cleanup (-before +after):\n%s", diff)
			}
		}
		mustProgram(t, p, newWorld(5).state())
	})
}

// A node whose other software changed the variant: nothing is left in the old one.
func TestOtherVariantIsSwept(t *testing.T) {
	ns, c := inNamespace(t, NFT)
	_, other := inNamespace(t, Legacy)
	other.NetNS = c.NetNS
	s := newWorld(6).state()
	mustProgram(t, newProgrammer(t, other), s)
	mustProgram(t, newProgrammer(t, c), s)
	if left := saved(t, ns, Legacy); strings.Contains(left, prefix) {
		t.Errorf("left in the legacy tables:\n%s", left)
	}
	p := newProgrammer(t, other)
	if err := p.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := saved(t, ns, NFT); strings.Contains(left, prefix) {
		t.Errorf("left in the nft tables:\n%s", left)
	}
}

func TestDetect(t *testing.T) {
	for _, test := range []struct {
		setup string
		want  Variant
	}{
		{"", plainVariant("iptables")},
		{"iptables-legacy -t nat -A OUTPUT -p 1 -j RETURN", Legacy},
		{"iptables-legacy -A OUTPUT -j RETURN; iptables-nft -t mangle -N KUBE-IPTABLES-HINT", NFT},
		{"iptables-nft -t nat -N KUBE-SERVICES; iptables-legacy -t mangle -N KUBE-KUBELET-CANARY", Legacy},
		{"iptables-nft -A OUTPUT -j RETURN; iptables-legacy -t nat -N KUBE-SERVICES", Legacy},
	} {
		ns, c := inNamespace(t, Legacy)
		fresh, _ := inNamespace(t, NFT)
		if !strings.Contains(test.setup, "legacy") {
			ns = fresh
		}
		command(t, ns, "true;"+test.setup)
		c.NetNS, c.Variant = ns.Handle(), Auto
		if got := newProgrammer(t, c).Variant(); got != test.want {
			t.Errorf("after %q: variant %s, want %s", test.setup, got, test.want)
		}
	}
}

// What the kernel refuses of one Frontend keeps no other from being served.
func TestRefusedFrontendBlocksNoOther(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		base := manyFrontends(20)
		bad := key("192.0.2.1 tcp 1030")
		good := base.Frontend(bad)
		poisoned := &rules.Frontend{Owner: owner("ns/bad", "l", "ns/r"), Backends: good.Backends}
		next := base.Apply(frontends{bad: poisoned, key("192.0.2.9 tcp 80"): good}, map[string]string{"ns/gw": "e", "ns/bad": "e"})
		mustProgram(t, p, base)
		refused := errors.New("refused by the test")
		for _, k := range p.families {
			k.fault = func(input []byte) error {
				if bytes.Contains(input, []byte("ns/bad")) {
					return refused
				}
				return nil
			}
		}
		r, err := p.Program(t.Context(), next)
		if !errors.Is(err, refused) || !errors.Is(r.Errors["ns/bad"], refused) || len(r.Errors) != 1 || !strings.Contains(err.Error(), bad.String()) {
			t.Errorf("error %v, by gateway %v", err, r.Errors)
		}
		if diff := cmp.Diff(map[string]string{"ns/gw": "e"}, r.Committed); diff != "" {
			t.Errorf("committed (-want +got):\n%s", diff)
		}
		present, err := p.families[0].present(c)
		if services, foreign := present.services(); err != nil || len(services) != 21 || services[key("192.0.2.9 tcp 80")].rule == "" || len(foreign) > 0 {
			t.Errorf("%d services: %v, foreign: %v, %v", len(services), services, foreign, err)
		}
		for _, k := range p.families {
			k.fault = nil
		}
		mustProgram(t, p, next)
		check(t, c, next)
	})
}

func TestInvalidFrontendKeepsItsRules(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		base := manyFrontends(3)
		mustProgram(t, p, base)
		before := readBack(t, c)
		bad := key("192.0.2.1 tcp 1024")
		next := base.Apply(frontends{bad: {Owner: owner("ns/other", "l", ""), Select: 9}}, map[string]string{"ns/gw": "e", "ns/other": "e"})
		r, err := p.Program(t.Context(), next)
		if err == nil || r.Errors["ns/other"] == nil || len(r.Errors) != 1 || r.Committed["ns/gw"] != "e" || r.Operations != 0 {
			t.Errorf("%v, %+v", err, r)
		}
		if diff := cmp.Diff(before, readBack(t, c)); diff != "" {
			t.Errorf("changed (-before +after):\n%s", diff)
		}
	})
}

// A partial State sweeps nothing that no State of the process named.
func TestPartialStateKeepsTheUnknown(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		s := manyFrontends(4)
		mustProgram(t, newProgrammer(t, c), s)
		before := readBack(t, c)
		p := newProgrammer(t, c)
		known := key("192.0.2.1 tcp 1024")
		partial := rules.NewState(frontends{known: s.Frontend(known)}, map[string]string{"ns/gw": "d"}).AsPartial()
		if r := mustProgram(t, p, partial); r.Operations != 0 || len(r.Removed) > 0 {
			t.Errorf("a partial State: %+v", r)
		}
		if diff := cmp.Diff(before, readBack(t, c)); diff != "" {
			t.Errorf("changed (-before +after):\n%s", diff)
		}
		empty := rules.NewState(nil, nil)
		if r := mustProgram(t, p, empty.AsPartial()); len(r.Removed) != 1 || r.Removed[0] != known {
			t.Errorf("a known one goes: %+v", r)
		}
		if r := mustProgram(t, p, empty); len(r.Removed) != 3 {
			t.Errorf("a complete State: %+v", r)
		}
		check(t, c, empty)
	})
}

// An agent that could not read the endpoints of a Frontend keeps what a former process made
// of it until all is read; what it made itself it does not keep.
func TestPartialStateKeepsWhatWorks(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		k, other := key("192.0.2.1 tcp 80"), key("192.0.2.1 tcp 81")
		serving := func(gateway string, endpoints ...rules.Endpoint) *rules.Frontend {
			return &rules.Frontend{Owner: owner(gateway, "l", "ns/r"), Backends: []rules.Backend{backend("ns/a", 1, endpoints...)}}
		}
		e := local("10.0.0.1:80")
		mustProgram(t, newProgrammer(t, c), stateOf(frontends{k: serving("ns/a", e), other: serving("ns/b", e)}))
		before := readBack(t, c)
		p := newProgrammer(t, c)
		unread := stateOf(frontends{k: serving("ns/a"), other: serving("ns/b", e)}).AsPartial()
		for range 2 {
			r, err := p.Program(t.Context(), unread)
			if !errors.Is(err, errKept) || !errors.Is(r.Errors["ns/a"], errKept) || len(r.Errors) != 1 || r.Operations != 0 || len(r.Removed) > 0 {
				t.Errorf("%v, %+v", err, r)
			}
			if diff := cmp.Diff(before, readBack(t, c)); diff != "" {
				t.Errorf("changed (-before +after):\n%s", diff)
			}
		}
		gone := stateOf(frontends{k: serving("ns/a"), other: serving("ns/b")})
		if r, err := p.Program(t.Context(), gone.AsPartial()); len(r.Errors) != 1 || r.Errors["ns/a"] == nil || r.Operations == 0 {
			t.Errorf("%v, %+v, want that its own goes", err, r)
		}
		mustProgram(t, p, gone)
		check(t, c, gone)
	})
}

func TestFailureIsToldAndMended(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		w := newWorld(8)
		mustProgram(t, p, w.state())
		s := w.state()
		lost := errors.New("lost")
		for _, k := range p.families {
			k.fault = func([]byte) error { return lost }
		}
		r, err := p.Program(t.Context(), s)
		if !errors.Is(err, lost) {
			t.Fatalf("%v", err)
		}
		for gateway := range s.Digests() {
			if r.Errors[gateway] == nil {
				t.Errorf("gateway %s has no error", gateway)
			}
		}
		for _, k := range p.families {
			k.fault = nil
		}
		mustProgram(t, p, s)
		check(t, c, s)
	})
}

// What cannot be deleted is told, blames no Gateway and keeps nothing from being served.
func TestUndeletableChainIsTold(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, c := n.T, n.c
		p := newProgrammer(t, c)
		s := manyFrontends(3)
		gone := key("192.0.2.1 tcp 1024")
		next := s.Apply(frontends{gone: nil, key("192.0.2.2 tcp 80"): s.Frontend(gone)}, map[string]string{"ns/gw": "e"})
		mustProgram(t, p, s)
		busy := errors.New("busy")
		p.families[0].fault = func(input []byte) error {
			if bytes.Contains(input, []byte("-X ")) {
				return busy
			}
			return nil
		}
		r, err := p.Program(t.Context(), next)
		if !errors.Is(err, busy) || len(r.Errors) > 0 || r.Committed["ns/gw"] != "e" || !slices.Equal(r.Removed, []rules.FrontendKey{gone}) {
			t.Errorf("%v, %+v", err, r)
		}
		p.families[0].fault = nil
		if r := mustProgram(t, p, next); len(r.Removed) > 0 || r.Restored || r.Operations != 2 { // its chain emptied and deleted; its endpoints are in use
			t.Errorf("then: %+v", r)
		}
		check(t, c, next)
	})
}

func TestUnableSaysWhatIsMissing(t *testing.T) {
	_, c := inNamespace(t, NFT)
	t.Setenv("PATH", "/nowhere")
	var unable *UnableError
	if _, err := New(c); !errors.As(err, &unable) || !strings.Contains(err.Error(), "command iptables") {
		t.Errorf("%v, want an UnableError about the command", err)
	}
	c.Variant = Auto
	if _, err := New(c); !errors.As(err, &unable) {
		t.Errorf("%v, want an UnableError", err)
	}
	if _, err := New(Config{Mark: 3, PacketMark: 0, Variant: "x", NetNS: -1}); err == nil {
		t.Error("want an error about everything in the Config")
	}
}

// A lock that another one holds, or that a container does not have, says nothing of the
// kernel.
func TestLockIsTold(t *testing.T) {
	_, c := inNamespace(t, Legacy)
	t.Setenv("XTABLES_LOCKFILE", "/nowhere/xtables.lock")
	var unable *UnableError
	if _, err := New(c); !errors.Is(err, errLocked) || errors.As(err, &unable) {
		t.Errorf("%v, want that there is no access to the lock", err)
	}
}

func TestWarnsOfManyListeners(t *testing.T) {
	p := &Programmer{state: manyFrontends(manyListeners)}
	if got := p.Limitations(); len(got) != 0 {
		t.Errorf("%q", got)
	}
	for _, n := range []int{manyListeners + 1, 10_000} {
		p.state = manyFrontends(n)
		want := fmt.Sprintf("%d listeners with iptables: %s; cure: nftables", n, listenerCost)
		if got := p.Limitations(); !slices.Equal(got, []string{want}) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Each variant says in its own words that it has no right.
func TestMissingRightIsTold(t *testing.T) {
	eachVariant(t, func(n *node) {
		if syscall.Getuid() != 0 {
			n.Skip("to give up a right takes root")
		}
		n.c.NetNS = 0
		result := make(chan error)
		go func() { // this thread is not used again
			runtime.LockOSThread()
			err := unix.Setns(n.ns.Handle(), unix.CLONE_NEWNET)
			if err == nil {
				err = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0) // what a command gets
			}
			if err == nil {
				_, err = New(n.c)
			}
			result <- err
		}()
		if err := <-result; !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") || strings.Contains(err.Error(), "\n") {
			n.Errorf("%v, want that the right is missing", err)
		}
	})
}
