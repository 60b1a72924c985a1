package nftables

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/rulestest"
)

// interpreter follows packets through a table, rendered or as the kernel lists it.
type interpreter struct {
	*testing.T
	config Config
	table  *rulestest.Nftables
}

func newInterpreter(t *testing.T, c Config, text string) *interpreter {
	t.Helper()
	table, err := rulestest.ParseNftables(text)
	if err != nil {
		t.Fatal(err)
	}
	return &interpreter{t, c, table}
}

// rendered interprets what Render says of a State, but for the chains that are not used.
func rendered(t *testing.T, c Config, s *rules.State) *interpreter {
	t.Helper()
	text, err := RenderBrief(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return newInterpreter(t, c, text)
}

// hooks are those that a flow passes which is forwarded, which ends on the node, and which
// the node begins.
var hooks = [][]string{{"prerouting", "forward", "postrouting"}, {"prerouting", "input"}, {"output", "postrouting"}}

// othersMark are bits of the conntrack mark that are nobody's business here.
const othersMark = 0xa5a5a5a5

// flow returns what becomes of a new flow to a Frontend, or to nobody.
func (in *interpreter) flow(p rules.Packet, f *rules.Frontend, hooks []string) *rulestest.Fate {
	in.Helper()
	first := rulestest.Packet{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, State: rulestest.New, CTMark: othersMark &^ in.config.Mark}
	leaves, err := in.table.Follow(first, hooks...)
	if err != nil {
		in.Fatalf("%v: %v", p, err)
	}
	fate := rulestest.NewFate()
	for _, leaf := range leaves {
		if err := fate.Add(first, leaf); err != nil {
			in.Error(err)
		}
		if f == nil || leaf.Verdict != rulestest.Accepted {
			if leaf.Hashed != "" { // the same client for ever
				in.Errorf("%v is refused by a hash of %s", p, leaf.Hashed)
			}
			continue
		}
		if want := first.CTMark | in.config.Mark; leaf.CTMark != want || leaf.Src != first.Src {
			in.Errorf("%v leaves as %+v, want the conntrack mark %#x", p, leaf, want)
		}
		if want := hashOf(f, p); leaf.Hashed != want {
			in.Errorf("%v goes to %s by a hash of %q, want %q", p, leaf.Dst, leaf.Hashed, want)
		}
	}
	return fate
}

// hashOf is what an endpoint is to be picked by a hash of, in nft's words.
func hashOf(f *rules.Frontend, p rules.Packet) string {
	family := "ip"
	if p.Src.Addr().Is6() {
		family = "ip6"
	}
	switch f.Select {
	case rules.FlowHash:
		return family + " saddr . th sport"
	case rules.ClientHash:
		return family + " saddr"
	default:
		return ""
	}
}

// checkFlow compares what becomes of a flow with what the State demands, within the bound
// of docs/design/0002 (rulestest.SlotBound). Where the kernel was empty before, when it is
// cold, the shares are exactly those of the Layout; with ClientHash they always are.
func (in *interpreter) checkFlow(s *rules.State, p rules.Packet, cold bool) {
	in.Helper()
	for _, h := range hooks {
		want := s.Match(p)
		if want.Unowned {
			in.checkUnowned(p, h)
			continue
		}
		if h[len(h)-1] != "postrouting" {
			for i := range want.Outcomes {
				want.Outcomes[i].Masquerade = false // nothing is masqueraded in input
			}
		}
		got := in.flow(p, want.Frontend, h)
		check := func(want rules.Decision, bound func(rules.Outcome) *big.Rat) {
			in.Helper()
			if err := got.Check(want, bound); err != nil {
				in.Errorf("%v %v: %v", h, p, err)
			}
		}
		if cold || want.Frontend != nil && want.Frontend.Select == rules.ClientHash {
			check(rulestest.InLayout(want), rulestest.Exactly)
		}
		check(want, rulestest.SlotBound(want))
	}
}

// checkUnowned checks that a packet to an exclusive address that nobody serves is refused,
// the first one of a flow and a late one.
func (in *interpreter) checkUnowned(p rules.Packet, hooks []string) {
	in.Helper()
	for state, want := range map[string]rulestest.Verdict{rulestest.New: rulestest.Unowned(p), rulestest.Invalid: rulestest.Dropped} {
		leaves, err := in.table.Follow(rulestest.Packet{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, State: state}, hooks...)
		if err != nil {
			in.Fatalf("%v: %v", p, err)
		}
		if len(leaves) != 1 || leaves[0].Verdict != want {
			in.Errorf("%v %s %v leads to %+v, want %s", hooks, state, p, leaves, want)
		}
	}
}

func checkState(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	s := rulestest.State(r).WithExclusive(rulestest.Exclusive(r))
	c := DefaultConfig()
	c.Mark = 1 << r.IntN(32)
	in := rendered(t, c, s)
	for _, p := range rulestest.Packets(r) {
		in.checkFlow(s, p, true)
	}
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
}

func TestEveryShareIsTheLayouts(t *testing.T) {
	for seed := range uint64(40) {
		checkState(t, seed)
	}
}

func FuzzShares(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(checkState)
}

// Sixteen backendRefs of which all but one weigh next to nothing, with many endpoints:
// nobody gets nothing.
func TestNobodyGetsNothing(t *testing.T) {
	for _, selection := range []rules.Selection{rules.Random, rules.FlowHash, rules.ClientHash} {
		f := &rules.Frontend{Owner: owner("ns/gw", "l", "ns/r"), Select: selection, Backends: []rules.Backend{backend("ns/gone", rules.MaxWeight)}}
		for b := range 15 {
			one := backend(fmt.Sprint("ns/", b), 1)
			for e := range 10 {
				one.Endpoints = append(one.Endpoints, local(fmt.Sprintf("10.1.%d.%d:80", b, e), ""))
			}
			f.Backends = append(f.Backends, one)
		}
		c, s := DefaultConfig(), stateOf(map[rules.FrontendKey]*rules.Frontend{key("192.0.2.1 tcp 80"): f})
		in := rendered(t, c, s)
		p := rules.Packet{Protocol: rules.TCP, Src: netip.MustParseAddrPort("198.51.100.7:1"), Dst: netip.MustParseAddrPort("192.0.2.1:80")}
		in.checkFlow(s, p, true)
		served := make(map[netip.Addr]bool)
		for o := range in.flow(p, f, hooks[0]).Outcomes {
			if addr := o.Endpoint.Addr(); addr.IsValid() {
				served[netip.PrefixFrom(addr, 24).Masked().Addr()] = true
			}
		}
		if len(served) != 15 {
			t.Errorf("%s: only %d backendRefs of weight 1 are served", selection, len(served))
		}
	}
}

// Late packets of endpoints end here, those of others pass.
func TestInvalidPacketsOfEndpointsAreDropped(t *testing.T) {
	s := rulestest.State(rand.New(rand.NewPCG(9, 9)))
	in := rendered(t, DefaultConfig(), s)
	for p, want := range rulestest.InvalidPackets(s) {
		for _, h := range hooks {
			leaves, err := in.table.Follow(p, h...)
			if err != nil {
				t.Fatal(err)
			}
			if len(leaves) != 1 || leaves[0].Verdict != want || leaves[0].Packet != p {
				t.Errorf("%v %+v: %+v, want %s", h, p, leaves, want)
			}
		}
	}
}

// What only others translated, or only others marked, keeps its source.
func TestFlowsOfOthersAreNotMasqueraded(t *testing.T) {
	s := rulestest.State(rand.New(rand.NewPCG(9, 9)))
	in := rendered(t, DefaultConfig(), s)
	for _, ipv6 := range []bool{false, true} {
		for e := range byte(6) {
			p := rulestest.Packet{
				Protocol: rules.TCP, State: rulestest.New, CTMark: othersMark &^ in.config.Mark, Translated: true,
				Src: netip.AddrPortFrom(rulestest.Endpoint(ipv6, 0, 0), 1000), Dst: netip.AddrPortFrom(rulestest.Endpoint(ipv6, 0, e), 80),
			}
			for _, p.Translated = range []bool{true, false} {
				leaves, err := in.table.Follow(p, "postrouting")
				if err != nil {
					t.Fatal(err)
				}
				if len(leaves) != 1 || leaves[0].Verdict != rulestest.Accepted || leaves[0].Packet != p {
					t.Errorf("%+v: %+v", p, leaves)
				}
				p.CTMark |= in.config.Mark
			}
		}
	}
}

// What Render says is what the kernel lists, for any State: also of one that refuses a
// single draw.
func TestRender(t *testing.T) {
	for seed := range uint64(2) {
		ns, c := inNamespace(t)
		refusesOne := &rules.Frontend{Owner: owner("ns/gw-0", "l", "ns/r"), Select: rules.FlowHash, Backends: []rules.Backend{backend("ns/gone", 1)}}
		for range rules.MaxBackends - 1 {
			refusesOne.Backends = append(refusesOne.Backends, backend("ns/a", rules.MaxWeight, endpoint("10.0.0.1:80", "")))
		}
		s := rulestest.State(rand.New(rand.NewPCG(seed, 3))).Apply(map[rules.FrontendKey]*rules.Frontend{key("192.0.2.1 udp 53"): refusesOne}, nil)
		mustProgram(t, newProgrammer(t, c), s)
		if n := mustProgram(t, newProgrammer(t, c), s); n != 0 {
			t.Errorf("seed %d: %d operations after a restart", seed, n)
		}
		text, err := Render(s, c)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(canonical(text), canonical(list(t, ns, "list", "table", "inet", c.Table))); diff != "" {
			t.Errorf("seed %d: Render and the kernel differ (-rendered +kernel):\n%s", seed, diff)
		}
	}
}

// However a State was reached, also by a new process, what the kernel lists leads every
// flow where that State demands.
func TestKernelListsWhatStatesDemand(t *testing.T) {
	ns, c := inNamespace(t)
	r := rand.New(rand.NewPCG(4, 4))
	var p *Programmer
	for round := range 6 {
		s := rulestest.VariedState(r)
		if round%3 == 0 {
			s, p = rulestest.State(r), newProgrammer(t, c)
		}
		mustProgram(t, p, s)
		in := newInterpreter(t, c, list(t, ns, "list", "table", "inet", c.Table))
		for _, packet := range rulestest.Packets(r) {
			in.checkFlow(s, packet, false)
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// What the interpreter says is what the kernel does with new flows.
func TestKernelDoesAsTheInterpreterSays(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	site, s := rulestest.SiteForTest(t), rulestest.VariedState(r)
	c := DefaultConfig()
	c.NetNS = site.Node.Handle()
	mustProgram(t, newProgrammer(t, c), s)
	in := newInterpreter(t, c, list(t, site.Node, "list", "table", "inet", c.Table))
	err := site.Compare(s, r, func(from rulestest.Origin, p rules.Packet) *rulestest.Fate {
		way := hooks[0]
		if from == rulestest.Inside {
			way = hooks[2]
		}
		return in.flow(p, s.Match(p).Frontend, way)
	})
	if err != nil {
		t.Error(err)
	}
}
