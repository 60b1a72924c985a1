package iptables

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/rulestest"
)

// interpreter follows new flows through the rules of a State.
type interpreter struct {
	*testing.T
	config Config
	sets   [2]rulestest.Ruleset // IPv4, IPv6
}

func newInterpreter(t *testing.T, s *rules.State) *interpreter {
	t.Helper()
	in := &interpreter{T: t, config: DefaultConfig()}
	for i, ipv6 := range []bool{false, true} {
		text, err := Render(s, in.config, ipv6)
		if err == nil {
			in.sets[i], err = rulestest.ParseIptables(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func (in *interpreter) walk(table, chain string, p rulestest.Packet) []rulestest.Leaf {
	in.Helper()
	set := in.sets[0]
	if p.Dst.Addr().Is6() {
		set = in.sets[1]
	}
	leaves, err := set.Walk(table, chain, p)
	if err != nil {
		in.Fatal(err)
	}
	return leaves
}

// flow returns what becomes of a new flow that comes from outside, or from the node
// itself.
func (in *interpreter) flow(p rules.Packet, hooks [3]string) *rulestest.Fate {
	in.Helper()
	fate := rulestest.NewFate()
	first := rulestest.Packet{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, State: rulestest.New}
	for _, nat := range in.walk(natTable, hooks[0], first) {
		filtered := in.walk(filterTable, hooks[1], nat.Packet)
		if nat.Verdict != rulestest.Accepted || len(filtered) != 1 {
			in.Fatalf("%+v, then %+v", nat, filtered)
		}
		end := filtered[0]
		if end.Verdict == rulestest.Accepted {
			posted := in.walk(natTable, hooks[2], nat.Packet)
			if len(posted) != 1 || posted[0].Dst != nat.Dst {
				in.Fatalf("%+v", posted)
			}
			end = posted[0]
		}
		end.Probability = nat.Probability
		if err := fate.Add(first, end); err != nil {
			in.Fatal(err)
		}
	}
	return fate
}

// hooks are those of nat, of filter and of nat again that a flow passes.
var hooks = [][3]string{
	{"PREROUTING", "FORWARD", "POSTROUTING"}, {"PREROUTING", "INPUT", "POSTROUTING"}, {"OUTPUT", "OUTPUT", "POSTROUTING"},
}

// checkFlow compares what becomes of a flow with what the State demands. The shares may
// differ by what rounding makes of them, at most 2⁻³¹ for each outcome.
func (in *interpreter) checkFlow(s *rules.State, p rules.Packet) {
	in.Helper()
	want := demanded(s, p)
	bound := big.NewRat(int64(len(want.Outcomes)), drawRange)
	for _, h := range hooks {
		if want.Unowned {
			in.checkUnowned(p, h)
			continue
		}
		if err := in.flow(p, h).Check(want, func(rules.Outcome) *big.Rat { return bound }); err != nil {
			in.Errorf("%v %v: %v", h, p, err)
		}
	}
}

// demanded is what a State demands of a flow. With ClientHash, whose clients are shared
// out in slots, the shares are those of the Layout.
func demanded(s *rules.State, p rules.Packet) rules.Decision {
	d := s.Match(p)
	if d.Frontend == nil || d.Frontend.Select != rules.ClientHash {
		return d
	}
	refused := new(big.Rat)
	if first := d.Outcomes[0]; first.Refused() {
		refused = first.Share
	}
	return rulestest.Slotted(d, refused, rules.NewLayout(d.Frontend, nil).Slots)
}

func checkState(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	s := rulestest.State(r).WithExclusive(rulestest.Exclusive(r))
	in := newInterpreter(t, s)
	for _, p := range rulestest.Packets(r) {
		in.checkFlow(s, p)
	}
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
}

func TestEveryShareIsExact(t *testing.T) {
	for seed := range uint64(40) {
		checkState(t, seed)
	}
}

// Sixteen backendRefs of which all but one weigh next to nothing, with many endpoints:
// nobody gets nothing.
func TestNobodyGetsNothing(t *testing.T) {
	f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Backends: []rules.Backend{backend("ns/gone", rules.MaxWeight)}}
	for b := range 15 {
		one := backend("ns/svc", 1)
		for e := range 10 {
			one.Endpoints = append(one.Endpoints, local(fmt.Sprintf("10.1.%d.%d:80", b, e)))
		}
		f.Backends = append(f.Backends, one)
	}
	s := stateOf(frontends{key("192.0.2.1 tcp 80"): f})
	newInterpreter(t, s).checkFlow(s, rules.Packet{
		Protocol: rules.TCP, Src: netip.MustParseAddrPort("198.51.100.7:1"), Dst: netip.MustParseAddrPort("192.0.2.1:80"),
	})
}

func FuzzShares(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(checkState)
}

// Late packets of endpoints end here, those of others pass.
func TestInvalidPacketsOfEndpointsAreDropped(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	s := rulestest.State(r)
	in := newInterpreter(t, s)
	for p, want := range rulestest.InvalidPackets(s) {
		for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
			if leaves := in.walk(filterTable, chain, p); len(leaves) != 1 || leaves[0].Verdict != want {
				t.Errorf("%+v: %+v, want %s", p, leaves, want)
			}
		}
	}
}

// What Render says is what the kernel holds.
func TestRender(t *testing.T) {
	eachVariant(t, func(n *node) {
		s := rulestest.State(rand.New(rand.NewPCG(10, 0)))
		mustProgram(n.T, newProgrammer(n.T, n.c), s)
		before := readBack(n.T, n.c)
		ns := netns.ForTest(n.T, "rendered")
		c := n.c
		c.NetNS = ns.Handle()
		for _, ipv6 := range []bool{false, true} {
			text, err := Render(s, c, ipv6)
			if err != nil {
				n.Fatal(err)
			}
			file := filepath.Join(n.TempDir(), "rules")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				n.Fatal(err)
			}
			command(n.T, ns, fmt.Sprintf("%s-%s-restore --noflush < %s", family(ipv6), c.Variant, file))
		}
		if diff := cmp.Diff(before, readBack(n.T, c)); diff != "" {
			n.Errorf("in the kernel, and rendered (-want +got):\n%s", diff)
		}
	})
}

// What the interpreter says is what the kernel does with new flows.
func TestKernelDoesAsTheInterpreterSays(t *testing.T) {
	eachVariant(t, func(n *node) {
		r := rand.New(rand.NewPCG(5, 5))
		site, s := rulestest.SiteForTest(n.T), rulestest.VariedState(r)
		c := n.c
		c.NetNS = site.Node.Handle()
		mustProgram(n.T, newProgrammer(n.T, c), s)
		in := newInterpreter(n.T, s)
		err := site.Compare(s, r, func(from rulestest.Origin, p rules.Packet) *rulestest.Fate {
			way := hooks[0]
			if from == rulestest.Inside {
				way = hooks[2]
			}
			return in.flow(p, way)
		})
		if err != nil {
			n.Error(err)
		}
	})
}
