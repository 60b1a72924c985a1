package iptables

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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
// itself: everything it can lead to and its probability. passed is what passes as it was.
func (in *interpreter) flow(p rules.Packet, hooks [3]string) (outcomes map[rules.Outcome]*big.Rat, passed *big.Rat) {
	in.Helper()
	outcomes, passed = make(map[rules.Outcome]*big.Rat), new(big.Rat)
	add := func(o rules.Outcome, share *big.Rat) {
		if outcomes[o] == nil {
			outcomes[o] = new(big.Rat)
		}
		outcomes[o].Add(outcomes[o], share)
	}
	first := rulestest.Packet{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, State: "NEW"}
	for _, nat := range in.walk(natTable, hooks[0], first) {
		filtered := in.walk(filterTable, hooks[1], nat.Packet)
		if nat.Verdict != rulestest.Accepted || len(filtered) != 1 {
			in.Fatalf("%+v, then %+v", nat, filtered)
		}
		refusal := rulestest.Dropped
		if p.Protocol == rules.TCP {
			refusal = rulestest.Reset
		}
		switch {
		case filtered[0].Verdict == refusal:
			add(rules.Outcome{}, nat.Probability)
			continue
		case filtered[0].Verdict != rulestest.Accepted:
			in.Fatalf("%+v", filtered[0])
		}
		posted := in.walk(natTable, hooks[2], nat.Packet)
		if len(posted) != 1 || posted[0].Verdict != rulestest.Accepted || posted[0].Dst != nat.Dst {
			in.Fatalf("%+v", posted)
		}
		if nat.Packet == first && !posted[0].Masqueraded {
			passed.Add(passed, nat.Probability)
			continue
		}
		add(rules.Outcome{Endpoint: posted[0].Dst, Masquerade: posted[0].Masqueraded}, nat.Probability)
	}
	return outcomes, passed
}

// checkFlow compares what becomes of a flow with what the State demands. The shares may
// differ by what rounding makes of them, at most 2⁻³¹ for each outcome.
func (in *interpreter) checkFlow(s *rules.State, p rules.Packet) {
	in.Helper()
	for _, hooks := range [][3]string{
		{"PREROUTING", "FORWARD", "POSTROUTING"}, {"PREROUTING", "INPUT", "POSTROUTING"}, {"OUTPUT", "OUTPUT", "POSTROUTING"},
	} {
		got, passed := in.flow(p, hooks)
		want := demanded(s, p)
		if want.Frontend == nil {
			if len(got) > 0 || passed.Cmp(big.NewRat(1, 1)) != 0 {
				in.Errorf("%v is not ours and leads to %v", p, got)
			}
			continue
		}
		bound := big.NewRat(int64(len(want.Outcomes)), drawRange)
		for _, o := range want.Outcomes {
			share := got[rules.Outcome{Endpoint: o.Endpoint, Masquerade: o.Masquerade}]
			if share == nil {
				in.Errorf("%v never leads to %s, masqueraded %t; leads to %v", p, o.Endpoint, o.Masquerade, got)
				continue
			}
			off := new(big.Rat).Sub(share, o.Share)
			if off.Abs(off).Cmp(bound) > 0 {
				in.Errorf("%v leads to %s with %s, want %s", p, o.Endpoint, share.FloatString(12), o.Share.FloatString(12))
			}
		}
		if len(got) != len(want.Outcomes) || passed.Sign() != 0 {
			in.Errorf("%v leads to %v, %s passed, want %v", p, got, passed.FloatString(12), want.Outcomes)
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
	slots := rules.NewLayout(d.Frontend, nil).Slots
	served := big.NewRat(1, 1)
	if len(d.Outcomes) > 0 && d.Outcomes[0].Refused() {
		served.Sub(served, d.Outcomes[0].Share)
	}
	var outcomes []rules.Outcome
	for _, o := range d.Outcomes {
		if !o.Refused() {
			held := int64(0)
			for _, slot := range slots {
				if slot.Endpoint.Addr == o.Endpoint {
					held++
				}
			}
			o.Share = new(big.Rat).Mul(served, big.NewRat(held, int64(len(slots))))
		}
		if o.Share.Sign() > 0 {
			outcomes = append(outcomes, o)
		}
	}
	d.Outcomes = outcomes
	return d
}

// randomPackets are some to every Frontend there can be, and to neighbours: from clients,
// from endpoints, and from a Frontend's own address.
func randomPackets(r *rand.Rand) []rules.Packet {
	var out []rules.Packet
	for _, addr := range append(rulestest.Addresses[:], netip.MustParseAddr("192.0.2.3")) {
		src := netip.MustParseAddr("198.51.100.7")
		if addr.Is6() {
			src = netip.MustParseAddr("2001:db8:c::7")
		}
		sources := []netip.Addr{src, addr}
		for e := range byte(6) {
			sources = append(sources, rulestest.Endpoint(addr.Is6(), byte(r.IntN(2)), e))
		}
		for port := uint16(79); port < 85; port++ {
			out = append(out, rules.Packet{
				Protocol: []rules.Protocol{rules.TCP, rules.UDP}[r.IntN(2)],
				Src:      netip.AddrPortFrom(sources[r.IntN(len(sources))], uint16(1+r.IntN(65535))),
				Dst:      netip.AddrPortFrom(addr, port),
			})
		}
	}
	return out
}

func checkState(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	s := rulestest.State(r)
	in := newInterpreter(t, s)
	for _, p := range randomPackets(r) {
		in.checkFlow(s, p)
	}
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
}

func TestEveryShareIsExact(t *testing.T) {
	for seed := range uint64(60) {
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
	endpoints := make(map[rules.Flow]bool)
	for key, f := range s.All() {
		for _, b := range f.Backends {
			for _, e := range b.Endpoints {
				endpoints[rules.Flow{Protocol: key.Protocol, Src: e.Addr}] = true
			}
			for _, e := range slices.Concat(b.Draining, b.Lingering) {
				endpoints[rules.Flow{Protocol: key.Protocol, Src: e}] = true
			}
		}
	}
	for _, ipv6 := range []bool{false, true} {
		for i := range byte(24) {
			p := rulestest.Packet{
				Protocol: []rules.Protocol{rules.TCP, rules.UDP}[i%2], State: "INVALID", Dst: netip.AddrPortFrom(rulestest.Endpoint(ipv6, 9, 9), 1),
				Src: netip.AddrPortFrom(rulestest.Endpoint(ipv6, i/2%2, i/4), 8080),
			}
			want := rulestest.Accepted
			if endpoints[rules.Flow{Protocol: p.Protocol, Src: p.Src}] {
				want = rulestest.Dropped
			}
			for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
				if leaves := in.walk(filterTable, chain, p); len(leaves) != 1 || leaves[0].Verdict != want {
					t.Errorf("%+v: %+v, want %s", p, leaves, want)
				}
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
