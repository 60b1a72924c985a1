package nftables

import (
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
)

// benchAddrs are the addresses of so many Frontends of benchState, and as many without.
func benchAddrs(listeners int) []netip.Addr {
	addrs := make(map[netip.Addr]struct{})
	for i := range listeners {
		addrs[benchKey(i).Addr] = struct{}{}
		addrs[addr4("192.0.2.0", i/64)] = struct{}{}
	}
	return slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare)
}

func TestExclusiveTouchesOnlyTheDifference(t *testing.T) {
	_, c := inNamespace(t)
	p := newProgrammer(t, c)
	base := benchState(640)
	all := benchAddrs(640)
	for _, step := range []struct {
		name string
		s    *rules.State
		want int
	}{
		{"none", base, -1},
		{"all", base.WithExclusive(all), len(all)},
		{"equal", base.WithExclusive(slices.Clone(all)), 0},
		{"one less", base.WithExclusive(all[1:]), 1},
		{"another less, and the first again", base.WithExclusive(all[:len(all)-1]), 2},
		{"all", base.WithExclusive(all), 1},
		{"without its listeners", base.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(7): nil}, nil).WithExclusive(all), -1},
		{"none", base.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(7): nil}, nil), len(all) - 1 + 1},
	} {
		got := mustProgram(t, p, step.s)
		if step.want >= 0 && got != step.want {
			t.Errorf("%s: %d operations, want %d", step.name, got, step.want)
		}
		checkKernel(t, c, step.s)
	}
}

// Whatever the batch that fails, no address is exclusive whose listeners are not there: new
// flows to them would be refused.
func TestExclusiveComesAfterItsListeners(t *testing.T) {
	_, c := inNamespace(t)
	errFault := errors.New("injected")
	s := benchState(30).WithExclusive(benchAddrs(30))
	for batch := 0; ; batch++ {
		p := newProgrammer(t, c)
		p.limit = &cost{bytes: 12_000, messages: 400}
		if err := p.disconnect(); err != nil {
			t.Fatal(err)
		}
		mustProgram(t, p, &rules.State{})
		first := p.Stats().Batches
		p.fault = func(n int) (error, error) {
			if n == first+batch {
				return errFault, nil
			}
			return nil, nil
		}
		results, err := p.Program(t.Context(), s)
		k := readKernel(t, c)
		if len(k.exclusive) > 0 && len(k.programs) < s.Len() {
			t.Errorf("batch %d: %d addresses are exclusive while there are %d of %d listeners", batch, len(k.exclusive), len(k.programs), s.Len())
		}
		if err == nil {
			if batch < 5 || len(k.exclusive) != len(s.Exclusive()) {
				t.Errorf("only %d batches, %d exclusive addresses", batch, len(k.exclusive))
			}
			return
		}
		if len(k.programs) == s.Len() && len(results.Errors) > 0 {
			t.Errorf("batch %d: %v, where all listeners are there", batch, results.Errors)
		}
		p.fault = nil
		mustProgram(t, p, s)
		checkKernel(t, c, s)
		if err := p.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// What no State of this process named stays while the State is partial, and what it named
// goes when it says so.
func TestPartialStateKeepsExclusive(t *testing.T) {
	_, c := inNamespace(t)
	addrs := benchAddrs(10)
	unknown, known := addrs[:1], addrs[1:]
	base := benchState(10)
	mustProgram(t, newProgrammer(t, c), base.WithExclusive(addrs))
	p := newProgrammer(t, c)
	if n := mustProgram(t, p, base.WithExclusive(known).AsPartial()); n != 0 {
		t.Errorf("%d operations, want none", n)
	}
	checkKernel(t, c, base.WithExclusive(addrs))
	mustProgram(t, p, base.AsPartial())
	checkKernel(t, c, base.WithExclusive(unknown))
	mustProgram(t, p, base)
	checkKernel(t, c, base)
}

// An address that cannot be exclusive keeps nothing else, and is told of until it is gone.
func TestMisfitIsTold(t *testing.T) {
	_, c := inNamespace(t)
	p := newProgrammer(t, c)
	good := benchAddrs(10)
	base := benchState(10)
	s := base.WithExclusive(append([]netip.Addr{netip.MustParseAddr("224.0.0.5"), netip.MustParseAddr("::1")}, good...))
	for range 2 {
		results, err := p.Program(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), "224.0.0.5") || !strings.Contains(err.Error(), "::1") || len(results.Errors) > 0 {
			t.Errorf("%v, errors %v", err, results.Errors)
		}
		checkKernel(t, c, base.WithExclusive(good))
	}
	mustProgram(t, p, base.WithExclusive(good))
}

// formerShape turns the table into what the release without exclusive addresses makes, at
// once, as far as it differs.
const formerShape = `
flush chain inet portway services
flush chain inet portway filter-prerouting
flush chain inet portway filter-output
flush chain inet portway unestablished
flush chain inet portway exclusive
flush chain inet portway unowned
delete chain inet portway unestablished
delete chain inet portway exclusive
delete chain inet portway unowned
delete set inet portway exclusive4
delete set inet portway exclusive6
add rule inet portway services ip daddr . meta l4proto . th dport vmap @listeners4
add rule inet portway services ip6 daddr . meta l4proto . th dport vmap @listeners6
add rule inet portway filter-prerouting ct state invalid goto invalid
add rule inet portway filter-output ct state invalid goto invalid
`

var newer = regexp.MustCompile(`(?s)\tset exclusive[46] \{.*?\n\t\}\n\n?|\tchain (exclusive|unowned|unestablished) \{.*?\n\t\}\n\n?|.*daddr @exclusive.*?\n`)

// An upgrade from a table without the sets and chains of exclusive addresses, under
// traffic: no connection is refused, and no more is replaced than has to be.
func TestUpgradeRefusesNothing(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	f, in := flipping(rand.New(rand.NewPCG(3, 4)))
	s := benchState(200).Apply(map[rules.FrontendKey]*rules.Frontend{frontKey: f}, map[string]string{}).WithExclusive(benchAddrs(200))
	mustProgram(t, newProgrammer(t, c), s)
	file := filepath.Join(t.TempDir(), "former.nft")
	if err := os.WriteFile(file, []byte(formerShape), 0o600); err != nil {
		t.Fatal(err)
	}
	list := func() string { return nft(t, ns, "--handle", "list", "chain", "inet", "portway", "random-10") }
	before := list()
	testUnderTraffic(t, ns, 2*time.Second, &epochs{wanted: [][servers]bool{in}}, func() {
		nft(t, ns, "-f", file)
		if got := mustProgram(t, newProgrammer(t, c), s); got != len(s.Exclusive()) {
			t.Errorf("%d operations, want one for each of %d exclusive addresses", got, len(s.Exclusive()))
		}
	})
	checkKernel(t, c, s)
	if diff := cmp.Diff(before, list()); diff != "" {
		t.Errorf("the ladder was replaced (-before +after):\n%s", diff)
	}
	rendered, err := Render(s, c)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel lists what is new behind what was there.
	want := slices.Sorted(strings.SplitSeq(withoutSlots(rendered), "\n"))
	got := slices.Sorted(strings.SplitSeq(withoutCounts(withoutSlots(nft(t, ns, "list", "table", "inet", "portway"))), "\n"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +kernel):\n%s", diff)
	}

	// The table as it was before has nothing of it.
	nft(t, ns, "-f", file)
	if left := newer.FindString(nft(t, ns, "list", "table", "inet", "portway")); left != "" {
		t.Errorf("the former shape has %s", left)
	}
}

var counts = regexp.MustCompile(`packets \d+ bytes \d+`)

func withoutCounts(listing string) string {
	return counts.ReplaceAllString(listing, "packets 0 bytes 0")
}

// Without what the kernel may lack the rest works: see TestProbeNamesTheFeatureAndTheKernel
// for what is told of it.
func TestWithoutWhatExclusiveLikes(t *testing.T) {
	for feature, line := range map[string]*regexp.Regexp{
		"redirection in rules":   regexp.MustCompile(`\t\ticmp(v6)? type echo-request redirect\n`),
		"route lookups in rules": regexp.MustCompile(`\t\tfib daddr .*\n`),
	} {
		t.Run(feature, func(t *testing.T) {
			ns, c := inNamespace(t)
			s := benchState(3).WithExclusive(benchAddrs(3))
			mustProgram(t, newProgrammer(t, c), s)
			want := nft(t, ns, "list", "table", "inet", "portway")
			p, err := open(c, lacking(feature))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Close() }()
			if n := mustProgram(t, p, s); n != 0 {
				t.Errorf("%d operations on elements", n)
			}
			if diff := cmp.Diff(line.ReplaceAllString(canonical(want), ""), canonical(nft(t, ns, "list", "table", "inet", "portway"))); diff != "" || !line.MatchString(want) {
				t.Errorf("(-want +degraded):\n%s", diff)
			}
		})
	}
}

// Upgrades from a table with one map for all slots, and back, under traffic to a listener with
// many: no connection is refused, and no chain or element of the former table is left.
func TestUpgradeToTwoMapsRefusesNothing(t *testing.T) {
	ns, c := inNamespace(t)
	serve(t, ns)
	f, in := flipping(rand.New(rand.NewPCG(3, 4)))
	f.Backends[0].Weight, f.Backends[1].Weight = 51, 49
	s := benchState(200).Apply(map[rules.FrontendKey]*rules.Frontend{frontKey: f}, map[string]string{})
	withNarrow(rules.MaxSlots, func() { mustProgram(t, newProgrammer(t, c), s) })
	if got := nft(t, ns, "list", "map", "inet", "portway", "listeners4"); strings.Contains(got, "wide-") {
		t.Fatalf("the former build has wide chains: %s", got)
	}
	testUnderTraffic(t, ns, 2*time.Second, &epochs{wanted: [][servers]bool{in}}, func() {
		mustProgram(t, newProgrammer(t, c), s)
		withNarrow(rules.MaxSlots, func() { mustProgram(t, newProgrammer(t, c), s) })
	})
	mustProgram(t, newProgrammer(t, c), s)
	checkKernel(t, c, s)
}

// An upgrade from a table with one map takes nothing from a listener that cannot be
// programmed, or of whose endpoints nothing is known yet, and keeps no other from being served.
func TestUpgradeKeepsWhatItCannotReplace(t *testing.T) {
	many := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{{Ref: "ns/svc", Weight: 1}}}
	for i := range 40 {
		many.Backends[0].Endpoints = append(many.Backends[0].Endpoints, rules.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 80)})
	}
	few := benchFrontend(0, 1, 2)
	before := rules.NewState(map[rules.FrontendKey]*rules.Frontend{frontKey: many, benchKey(0): few}, nil)
	for _, test := range []struct {
		name   string
		change func(*rules.Frontend)
		state  func(*rules.State) *rules.State
	}{
		{"cannot be programmed", func(f *rules.Frontend) { f.Backends[0].Weight = rules.MaxWeight + 1 }, func(s *rules.State) *rules.State { return s }},
		{"endpoints are not known yet", func(f *rules.Frontend) { f.Backends[0].Endpoints = nil }, (*rules.State).AsPartial},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns, c := inNamespace(t)
			withNarrow(rules.MaxSlots, func() { mustProgram(t, newProgrammer(t, c), before) })
			broken := *many
			broken.Backends = slices.Clone(many.Backends)
			test.change(&broken)
			after := test.state(rules.NewState(map[rules.FrontendKey]*rules.Frontend{frontKey: &broken, benchKey(0): few}, nil))
			p := newProgrammer(t, c)
			for range 3 {
				if _, err := p.Program(t.Context(), after); err != nil && !strings.Contains(err.Error(), frontKey.String()) {
					t.Errorf("another error than that of the one Frontend: %v", err)
				}
			}
			if got := p.Stats().ReadBacks; got != 1 {
				t.Errorf("read back %d times", got)
			}
			if got := nft(t, ns, "list", "map", "inet", "portway", "listeners4"); !strings.Contains(got, ": goto random-40") {
				t.Errorf("the listener lost what it had: %s", got)
			}
			mustProgram(t, p, before)
			checkKernel(t, c, before)
		})
	}
}

// withNarrow runs a function with another limit of narrow listeners, of which there is one for
// all: its callers are not parallel.
func withNarrow(slots int, do func()) {
	set := func(slots int) {
		narrowSlots = slots
		chainNames = nameChains()
		chainIDs = numberChains()
	}
	defer set(narrowSlots)
	set(slots)
	do()
}
