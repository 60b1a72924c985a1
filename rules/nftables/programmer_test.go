package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// v0.3.0 loses elements silently beyond a message of 64 KiB (about 630 of these)
// and answers beyond the default receive buffer.
func TestEveryElementArrives(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 629, 640, 50_000} {
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			t.Parallel()
			_, c := inNamespace(t)
			frontends := make(map[rules.FrontendKey]*rules.Frontend)
			for i := 0; i*benchEndpoints < slots; i++ {
				frontends[benchKey(i)] = benchFrontend(i, 0, min(benchEndpoints, slots-i*benchEndpoints))
			}
			s := stateOf(frontends)
			mustProgram(t, newProgrammer(t, c), s)
			if got := count(t, c, slots4); got != slots {
				t.Errorf("%d slots in the kernel, want %d", got, slots)
			}
			if got := count(t, c, listeners4); got != len(frontends) {
				t.Errorf("%d listeners in the kernel, want %d", got, len(frontends))
			}
		})
	}
}

func TestTwiceIsNothing(t *testing.T) {
	_, c := inNamespace(t)
	p := newProgrammer(t, c)
	s := newWorld(1).state()
	mustProgram(t, p, s)
	before := p.Stats()
	if n := mustProgram(t, p, s); n != 0 {
		t.Errorf("second Program: %d operations", n)
	}
	equal := newWorld(1).state() // not one pointer the same
	if n := mustProgram(t, p, equal); n != 0 {
		t.Errorf("Program of an equal State: %d operations", n)
	}
	if diff := cmp.Diff(before, p.Stats()); diff != "" {
		t.Errorf("stats changed (-before +after):\n%s", diff)
	}
	checkKernel(t, c, s)
}

func TestTouchesOnlyTheDifference(t *testing.T) {
	_, c := inNamespace(t)
	p := newProgrammer(t, c)
	k := key("192.0.2.1 tcp 80")
	base := benchState(100)
	with := func(f *rules.Frontend) *rules.State {
		return base.Apply(map[rules.FrontendKey]*rules.Frontend{k: f}, nil)
	}
	replaced := benchFrontend(1, 0, 10)
	replaced.Backends[0].Endpoints[3] = benchFrontend(1, 21, 1).Backends[0].Endpoints[0]
	renamed := benchFrontend(1, 0, 10)
	renamed.Owner.Route = "other/route"
	lingering := benchFrontend(1, 0, 10)
	lingering.Backends[0].Lingering = []netip.AddrPort{netip.MustParseAddrPort("10.255.0.1:80")}
	mustProgram(t, p, base)
	for _, step := range []struct {
		name string
		f    *rules.Frontend
		want int
	}{
		{"new listener", benchFrontend(1, 0, 10), 1 + 10},
		{"one endpoint replaced", replaced, 2 + 1}, // its element in endpoints4
		{"back", benchFrontend(1, 0, 10), 2 + 1},
		{"another lingers", lingering, 1},
		{"it is gone", benchFrontend(1, 0, 10), 1},
		{"route renamed", renamed, 2},
		{"back", benchFrontend(1, 0, 10), 2},
		{"one endpoint added", benchFrontend(1, 0, 11), 2 + 1 + 3}, // number 10 is local
		{"it is removed", benchFrontend(1, 0, 10), 2 + 2 + 1 + 3},  // its slot first leads elsewhere
		{"nothing left to lead to", benchFrontend(1, 0, 0), 2 + 10},
		{"listener removed", nil, 1},
	} {
		t.Run(step.name, func(t *testing.T) {
			if got := mustProgram(t, p, with(step.f)); got != step.want {
				t.Errorf("%d operations, want %d", got, step.want)
			}
			checkKernel(t, c, with(step.f))
		})
	}
	if s := p.Stats(); s.ReadBacks != 0 || s.Failures != 0 {
		t.Errorf("a way other than the incremental one was taken: %+v", s)
	}
}

// TestMessagesAreCounted: the numbers are what strace(1) shows of both sockets.
func TestMessagesAreCounted(t *testing.T) {
	ns, c := inNamespace(t)
	p := newProgrammer(t, c)
	k := key("192.0.2.1 tcp 80")
	base := benchState(100)
	mustProgram(t, p, base)
	mustProgram(t, p, base) // reads the ladder once
	if results, err := p.Program(t.Context(), base); err != nil || results.Sent != 1 || results.Received != 1 {
		t.Errorf("nothing to do: sent %d, received %d messages, want 1 and 1: %v", results.Sent, results.Received, err)
	}
	nft(t, ns, "add table inet others")
	if p.Disturbed() {
		t.Error("disturbed by a table of others")
	}
	if results, err := p.Program(t.Context(), base); err != nil || results.Sent < 10 || results.Received < results.Sent {
		t.Errorf("after a look: sent %d, received %d messages, want more than ten: %v", results.Sent, results.Received, err)
	}
	for _, step := range []struct {
		name           string
		f              *rules.Frontend
		sent, received int
	}{
		{"new listener", benchFrontend(1, 0, 10), 5, 3},
		{"an endpoint more", benchFrontend(1, 0, 11), 9, 7},
		{"listener removed", nil, 10, 6},
	} {
		results, err := p.Program(t.Context(), base.Apply(map[rules.FrontendKey]*rules.Frontend{k: step.f}, nil))
		if err != nil {
			t.Fatal(err)
		}
		if results.Sent != step.sent || results.Received != step.received {
			t.Errorf("%s: sent %d, received %d messages, want %d and %d", step.name, results.Sent, results.Received, step.sent, step.received)
		}
	}
}

func TestRandomStatesEndAsAColdLoad(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			_, c := inNamespace(t)
			p := newProgrammer(t, c)
			if seed%2 == 1 { // many small batches
				p.limit = &cost{bytes: 8800, messages: 50}
				if err := p.disconnect(); err != nil {
					t.Fatal(err)
				}
			}
			w := newWorld(seed)
			w.clients = seed == 0
			for range 25 {
				s := w.state()
				mustProgram(t, p, s)
				checkKernel(t, c, s)
			}
			if s := p.Stats(); s.ReadBacks != 0 || s.Failures != 0 {
				t.Errorf("a way other than the incremental one was taken: %+v", s)
			}
		})
	}
}

// A batch fails: before it is sent, or after the kernel committed it. Whatever
// the batch, the next Program must mend everything.
func TestFaultAtAnyBatch(t *testing.T) {
	t.Parallel()
	errFault := errors.New("injected")
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%t", after), func(t *testing.T) {
			t.Parallel()
			_, c := inNamespace(t)
			w := newWorld(7)
			for batch := 0; ; batch++ {
				p := newProgrammer(t, c)
				p.limit = &cost{bytes: 8800, messages: 60}
				if err := p.disconnect(); err != nil {
					t.Fatal(err)
				}
				mustProgram(t, p, w.state())
				first := p.Stats().Batches
				p.fault = func(n int) (error, error) {
					switch {
					case n != first+batch:
						return nil, nil
					case after:
						return nil, errFault
					}
					return errFault, nil
				}
				s := w.state()
				results, err := p.Program(t.Context(), s)
				if err == nil { // it has no such batch
					if batch < 5 {
						t.Errorf("only %d batches", batch)
					}
					break
				}
				if !errors.Is(err, errFault) {
					t.Fatalf("batch %d: %v", batch, err)
				}
				for gateway := range s.Digests() {
					if results.Errors[gateway] == nil && results.Committed[gateway] == "" {
						t.Errorf("batch %d: gateway %s is neither committed nor in error", batch, gateway)
					}
				}
				p.fault = nil
				mustProgram(t, p, s)
				checkKernel(t, c, s)
				if err := p.Cleanup(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// The kernel commits a batch and loses its answers: the error that must never be
// taken for success, nor for nothing done.
func TestLostAnswersAreNoticed(t *testing.T) {
	_, c := inNamespace(t)
	c.SocketBuffer = minSocketBuffer
	p := newProgrammer(t, c)
	p.limit = &cost{bytes: 200_000, messages: 100_000}
	if err := p.disconnect(); err != nil {
		t.Fatal(err)
	}
	s := benchState(100)
	if _, err := p.Program(t.Context(), s); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("%v, want ENOBUFS", err)
	}
	p.limit = nil
	mustProgram(t, p, s)
	checkKernel(t, c, s)
}

// After an error of the socket the batch may be committed as well as not: nothing
// is sent again before the connections and what is known of the kernel are new.
func TestSocketErrorIsNoRefusal(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOBUFS, unix.EPERM, unix.EINTR, unix.EAGAIN, unix.EBADF} {
		t.Run(errno.Error(), func(t *testing.T) {
			_, c := inNamespace(t)
			p := newProgrammer(t, c)
			mustProgram(t, p, benchState(10))
			before := p.Stats()
			p.fault = func(batch int) (error, error) {
				if batch > before.Batches {
					return nil, nil
				}
				return nil, &netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", errno)}
			}
			s := benchState(100)
			results, err := p.Program(t.Context(), s)
			if !errors.Is(err, errno) {
				t.Fatalf("%v, want %v", err, errno)
			}
			if bad := s.Frontend(benchKey(50)).Owner.Gateway; results.Errors[bad] == nil {
				t.Errorf("errors %v, want one for %s", results.Errors, bad)
			}
			if got := p.Stats().Batches - before.Batches; got != 1 {
				t.Errorf("%d batches, want none behind the failed one", got)
			}
			if p.conn != nil || p.query != nil || p.synced {
				t.Error("still connected, or trusting the model of the kernel")
			}
			if got := count(t, c, listeners4); got != 100 {
				t.Errorf("%d listeners: the batch was not committed", got)
			}
			mustProgram(t, p, s)
			if got := p.Stats(); got.ReadBacks != before.ReadBacks+1 || got.Failures != before.Failures+1 {
				t.Errorf("%+v, want 1 failure and that the table was read back", got)
			}
			checkKernel(t, c, s)
		})
	}
}

func TestSmallBuffers(t *testing.T) {
	_, c := inNamespace(t)
	c.SocketBuffer = minSocketBuffer
	p := newProgrammer(t, c)
	s := benchState(2000)
	mustProgram(t, p, s)
	checkKernel(t, c, s)
	if p.Stats().Batches < 10 {
		t.Errorf("%d batches: the buffers were not small", p.Stats().Batches)
	}
	// One Frontend that does not fit into a batch.
	large := &rules.Frontend{Owner: owner("a/b", "c", "d/e")}
	for i := range 5 {
		b := rules.Backend{Ref: fmt.Sprintf("ns/svc-%d", i), Weight: 1}
		b.Endpoints = benchFrontend(i, 0, 800).Backends[0].Endpoints
		large.Backends = append(large.Backends, b)
	}
	for _, f := range []*rules.Frontend{large, benchFrontend(0, 0, 1), large, nil} {
		next := s.Apply(map[rules.FrontendKey]*rules.Frontend{key("192.0.2.1 tcp 80"): f}, nil)
		mustProgram(t, p, next)
		checkKernel(t, c, next)
	}
	if s := p.Stats(); s.Failures != 0 {
		t.Errorf("%+v", s)
	}
}

// Nobody needs to be root: the same in a user namespace.
func TestUserNamespace(t *testing.T) {
	netns.Require(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestSmallBuffers|TestGolden)$", "-test.count=1")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PORTWAY_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, netns.UserNamespaceEnv+"=1", "CI=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTableDeletedByAStranger(t *testing.T) {
	ns, c := inNamespace(t)
	p := newProgrammer(t, c)
	base := benchState(20)
	mustProgram(t, p, base)
	next := base.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(3): benchFrontend(3, 5, 2)}, nil)

	nft(t, ns, "delete", "table", "inet", "portway")
	if results, err := p.Program(t.Context(), next); err != nil || !results.Restored {
		t.Errorf("restored %t, error %v", results.Restored, err)
	}
	checkKernel(t, c, next)
	if results, err := p.Program(t.Context(), next); err != nil || results.Restored {
		t.Errorf("restored %t again, error %v", results.Restored, err)
	}

	nft(t, ns, "flush", "ruleset")
	nft(t, ns, "add", "table", "inet", "portway") // the same name, but not our table
	mustProgram(t, p, base)
	checkKernel(t, c, base)
	if s := p.Stats(); s.Vanished != 2 || s.Failures != 0 {
		t.Errorf("%+v, want 2 vanished", s)
	}

	nft(t, ns, "add", "table", "ip", "other") // moves the generation, no more
	mustProgram(t, p, next)
	if s := p.Stats(); s.Vanished != 2 {
		t.Errorf("%+v, want 2 vanished", s)
	}
}

// The table and its elements stay, but not all of its rules.
func TestRulesFlushedByAStranger(t *testing.T) {
	handle := regexp.MustCompile(`# handle (\d+)`)
	deleteRule := func(chain string) func(*testing.T, *netns.Namespace) {
		return func(t *testing.T, ns *netns.Namespace) {
			t.Helper()
			for line := range strings.Lines(nft(t, ns, "--handle", "list", "chain", "inet", "portway", chain)) {
				if m := handle.FindStringSubmatch(line); m != nil && !strings.HasSuffix(strings.Fields(line)[0], "chain") {
					nft(t, ns, "delete", "rule", "inet", "portway", chain, "handle", m[1])
					return
				}
			}
			t.Fatalf("no rule in chain %s", chain)
		}
	}
	base := benchState(20)
	other := base.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(3): benchFrontend(3, 5, 2)}, nil)
	for _, test := range []struct {
		name    string
		strange func(*testing.T, *netns.Namespace)
		states  []*rules.State // until it must be mended
	}{
		{"table flushed", func(t *testing.T, ns *netns.Namespace) {
			t.Helper()
			nft(t, ns, "flush", "table", "inet", "portway")
		}, []*rules.State{base}},
		{"table flushed and a change", func(t *testing.T, ns *netns.Namespace) {
			t.Helper()
			nft(t, ns, "flush", "table", "inet", "portway")
		}, []*rules.State{other}},
		{"rule added", func(t *testing.T, ns *netns.Namespace) {
			t.Helper()
			nft(t, ns, "insert", "rule", "inet", "portway", "services", "drop")
		}, []*rules.State{other}},
		{"rule of all listeners deleted", deleteRule("postrouting"), []*rules.State{base}},
		{"the same and a change", deleteRule("postrouting"), []*rules.State{other}},
		{"rule of the ladder deleted", deleteRule("random-10"), []*rules.State{base}},
		// The pass with a change leaves the ladder to one without.
		{"the same and a change first", deleteRule("random-10"), []*rules.State{other, other}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns, c := inNamespace(t)
			p := newProgrammer(t, c)
			mustProgram(t, p, base)
			mustProgram(t, p, base)
			want := chainsOf(nft(t, ns, "list", "table", "inet", "portway"))
			before := p.Stats()

			test.strange(t, ns)
			if chainsOf(nft(t, ns, "list", "table", "inet", "portway")) == want {
				t.Fatal("the stranger changed nothing")
			}
			for _, s := range test.states {
				mustProgram(t, p, s)
			}
			if diff := cmp.Diff(want, chainsOf(nft(t, ns, "list", "table", "inet", "portway"))); diff != "" {
				t.Errorf("rules (-want +kernel):\n%s", diff)
			}
			checkKernel(t, c, test.states[0])
			if s := p.Stats(); s.Altered != before.Altered+1 || s.Vanished != 0 || s.Failures != 0 {
				t.Errorf("%+v, want 1 altered", s)
			}

			nft(t, ns, "add", "table", "ip", "other") // moves the generation, no more
			before = p.Stats()
			mustProgram(t, p, test.states[0])
			if diff := cmp.Diff(before, p.Stats()); diff != "" {
				t.Errorf("stats changed (-before +after):\n%s", diff)
			}
			now, err := p.query.generation()
			if err != nil {
				t.Fatal(err)
			}
			if p.generation != now || p.unread {
				t.Error("the next pass would look at the rules again")
			}
		})
	}
}

// chainsOf returns the part of a listing that has the chains, behind the sets.
func chainsOf(listing string) string {
	_, chains, _ := strings.Cut(listing, "\n\tchain")
	return chains
}

// A Frontend that the kernel refuses does not keep the others from it, and what is
// in its way is gone with the next Program.
func TestRefusedFrontendBlocksNoOther(t *testing.T) {
	ns, c := inNamespace(t)
	p := newProgrammer(t, c)
	mustProgram(t, p, benchState(1))
	nft(t, ns, "add", "element", "inet", "portway", "listeners4", "{ 203.0.113.0 . tcp . 1050 : goto random-1 }")

	s := benchState(100)
	results, err := p.Program(t.Context(), s)
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "203.0.113.0 tcp 1050") {
		t.Errorf("error %v, want EEXIST and the frontend", err)
	}
	bad := s.Frontend(benchKey(50)).Owner.Gateway
	if got := slices.Collect(maps.Keys(results.Errors)); !slices.Equal(got, []string{bad}) {
		t.Errorf("errors for gateways %v, want %s", got, bad)
	}
	if got := len(readKernel(t, c).programs); got != 100 {
		t.Errorf("%d listeners, want 100", got)
	}
	mustProgram(t, p, s)
	checkKernel(t, c, s)
}

func TestInvalidFrontendKeepsItsOldRules(t *testing.T) {
	_, c := inNamespace(t)
	p := newProgrammer(t, c)
	s := benchState(3)
	mustProgram(t, p, s)
	bad := benchFrontend(1, 0, 2)
	bad.Backends[0].Weight = rules.MaxWeight + 1
	next := s.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(1): bad, benchKey(2): nil}, map[string]string{
		s.Frontend(benchKey(0)).Owner.Gateway: "new", s.Frontend(benchKey(1)).Owner.Gateway: "new",
	})
	results, err := p.Program(t.Context(), next)
	if err == nil {
		t.Fatal("no error")
	}
	good, failed := s.Frontend(benchKey(0)).Owner.Gateway, s.Frontend(benchKey(1)).Owner.Gateway
	if diff := cmp.Diff(map[string]string{good: "new", failed: "d"}, results.Committed); diff != "" {
		t.Errorf("committed (-want +got):\n%s", diff)
	}
	if results.Errors[failed] == nil || len(results.Errors) != 1 {
		t.Errorf("errors %v, want one for %s", results.Errors, failed)
	}
	checkKernel(t, c, s.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(2): nil}, nil))
}

func TestCancelledBetweenBatches(t *testing.T) {
	_, c := inNamespace(t)
	p := newProgrammer(t, c)
	mustProgram(t, p, benchState(1))
	ctx, cancel := context.WithCancel(t.Context())
	first := p.Stats().Batches
	p.fault = func(n int) (error, error) {
		if n == first {
			cancel()
		}
		return nil, nil
	}
	s := benchState(3 * window)
	if _, err := p.Program(ctx, s); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want that it was cancelled", err)
	}
	if got := count(t, c, listeners4); got != window+1 && got != window {
		t.Errorf("%d listeners after one batch, want about %d", got, window)
	}
	mustProgram(t, p, s)
	if s := p.Stats(); s.ReadBacks != 0 || s.Failures != 0 {
		t.Errorf("cancelling is no failure: %+v", s)
	}
	checkKernel(t, c, s)
}

func TestCleanupLeavesOthersAlone(t *testing.T) {
	ns, c := inNamespace(t)
	for _, command := range []string{
		"add table inet portway-other",
		"add chain inet portway-other services",
		"add rule inet portway-other services tcp dport 80 counter accept",
		"add table ip portway",
		"add set ip portway s { type ipv4_addr; }",
		"add element ip portway s { 192.0.2.1 }",
	} {
		nft(t, ns, strings.Fields(command)...)
	}
	before := nft(t, ns, "list", "ruleset")
	p := newProgrammer(t, c)
	if err := p.Cleanup(t.Context()); err != nil {
		t.Errorf("without a table: %v", err)
	}
	mustProgram(t, p, benchState(10))
	for range 2 {
		if err := p.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, nft(t, ns, "list", "ruleset")); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	mustProgram(t, p, benchState(10))
	checkKernel(t, c, benchState(10))
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Table: "a b", Mark: 3, NetNS: -1}.Validate()
	for _, want := range []string{"a b", "one bit", "descriptor", "socket buffer"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell of %q", err, want)
		}
	}
}
