package iptables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/rulestest"
)

// checkUnowned follows a packet that nobody serves: nat leaves it as it is and shows it to
// none of the rules behind ours, and filter refuses it.
func (in *interpreter) checkUnowned(p rules.Packet, hooks [3]string) {
	in.Helper()
	nat := in.sets[0][natTable]
	if p.Dst.Addr().Is6() {
		nat = in.sets[1][natTable]
	}
	ours := nat[hooks[0]]
	nat[hooks[0]] = append(slices.Clone(ours), []string{"-j", "DROP"})
	defer func() { nat[hooks[0]] = ours }()
	first := rulestest.Packet{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, State: "NEW"}
	for _, leaf := range in.walk(natTable, hooks[0], first) {
		if leaf.Verdict != rulestest.Accepted || leaf.Packet != first {
			in.Errorf("%v in nat: %+v", p, leaf)
		}
	}
	leaves := in.walk(filterTable, hooks[1], first)
	if len(leaves) != 1 || leaves[0].Verdict != rulestest.Unowned(p) {
		in.Errorf("%v in filter: %+v, want %s", p, leaves, rulestest.Unowned(p))
	}
}

// Packets to exclusive addresses that passed no chain of nat: those of established flows
// pass, invalid ones are dropped, and all others refused.
func TestLatePacketsToExclusiveAddresses(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	s := rulestest.State(r).WithExclusive(rulestest.Exclusive(r))
	in := newInterpreter(t, s)
	for _, p := range rulestest.Packets(r) {
		exclusive := s.IsExclusive(p.Dst.Addr())
		p.Src = netip.AddrPortFrom(p.Src.Addr(), 1) // no endpoint
		for state, want := range map[string]rulestest.Verdict{
			"NEW": rulestest.Unowned(p), "RELATED": rulestest.Unowned(p), "UNTRACKED": rulestest.Unowned(p),
			"INVALID": rulestest.Dropped, "ESTABLISHED": rulestest.Accepted,
		} {
			if !exclusive {
				want = rulestest.Accepted
			}
			late := rulestest.Packet{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst, State: state}
			for _, hook := range []string{"FORWARD", "OUTPUT"} {
				if leaves := in.walk(filterTable, hook, late); len(leaves) != 1 || leaves[0].Verdict != want {
					t.Errorf("%s %v in %s: %+v, want %s", state, p, hook, leaves, want)
				}
			}
		}
	}
}

// Rules for listeners are in front of those for exclusive addresses, whichever came first.
func TestListenersComeFirst(t *testing.T) {
	eachVariant(t, func(n *node) {
		p := newProgrammer(n.T, n.c)
		addr := netip.MustParseAddr("192.0.2.1")
		mustProgram(n.T, p, new(rules.State).WithExclusive([]netip.Addr{addr, netip.MustParseAddr("2001:db8::1")}))
		for _, of := range []string{"guide", "dual-stack", "empty-listener"} {
			mustProgram(n.T, p, stateOf(topologies[of]).WithExclusive(p.state.Exclusive()))
			for _, k := range p.families {
				m, err := k.present(n.c)
				if err != nil {
					n.Fatal(err)
				}
				services := m.chains[place{natTable, servicesChain}]
				at := slices.IndexFunc(services, toNeighbourhood)
				if at != len(services)-1 || at < 0 {
					n.Errorf("%s: rule %d of %q leads to the exclusive one", of, at, services)
				}
			}
		}
	})
}

func TestExclusiveTouchesOnlyTheDifference(t *testing.T) {
	eachVariant(t, func(n *node) {
		p := newProgrammer(n.T, n.c)
		base := manyFrontends(3)
		var all []netip.Addr
		for i := range byte(5) {
			all = append(all, netip.AddrFrom4([4]byte{192, 0, 2, i + 1}), netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: i + 1}))
		}
		slices.SortFunc(all, netip.Addr.Compare)
		for i, step := range []struct {
			s    *rules.State
			want int
		}{
			{base, -1},
			{base.WithExclusive(all), 2*len(all) + 4*2}, // in each table and family a neighbourhood, and the way there
			{base.WithExclusive(slices.Clone(all)), 0},
			{base.WithExclusive(all[1:]), 2},
			{base.WithExclusive(all[:len(all)-1]), 4},
			{base, 4 * 3}, // emptied, deleted, and the way there
		} {
			if got := mustProgram(n.T, p, step.s).Operations; step.want >= 0 && got != step.want {
				n.Errorf("step %d: %d operations, want %d", i, got, step.want)
			}
			check(n.T, n.c, step.s)
		}
	})
}

// What no State of this process named stays while the State is partial, and what it named
// goes when it says so.
func TestPartialStateKeepsExclusive(t *testing.T) {
	eachVariant(t, func(n *node) {
		all := []netip.Addr{netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}
		base := manyFrontends(3)
		mustProgram(n.T, newProgrammer(n.T, n.c), base.WithExclusive(all))
		p := newProgrammer(n.T, n.c)
		for _, step := range []struct{ s, holds *rules.State }{
			{base.WithExclusive(all[1:]).AsPartial(), base.WithExclusive(all)},
			{base.AsPartial(), base.WithExclusive(all[:1])},
			{base, base},
		} {
			mustProgram(n.T, p, step.s)
			check(n.T, n.c, step.holds)
		}
	})
}

// An address that cannot be exclusive keeps nothing else, and is told of until it is gone.
func TestMisfitIsTold(t *testing.T) {
	eachVariant(t, func(n *node) {
		p := newProgrammer(n.T, n.c)
		good := manyFrontends(3).WithExclusive([]netip.Addr{netip.MustParseAddr("192.0.2.9")})
		bad := good.WithExclusive([]netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("224.0.0.5")})
		for range 2 {
			if r, err := p.Program(n.Context(), bad); err == nil || !strings.Contains(err.Error(), "224.0.0.5") || len(r.Errors) > 0 {
				n.Errorf("%v, errors %v", err, r.Errors)
			}
			check(n.T, n.c, good)
		}
		mustProgram(n.T, p, good)
	})
}

// A stranger's rule behind ours, or ours deleted, is mended like any other.
func TestExclusiveIsHealed(t *testing.T) {
	eachVariant(t, func(n *node) {
		p := newProgrammer(n.T, n.c)
		addr := netip.MustParseAddr("192.0.2.9")
		s := manyFrontends(3).WithExclusive([]netip.Addr{addr})
		mustProgram(n.T, p, s)
		name, way := neighbourhood(addr)
		for _, line := range []string{
			"-t nat -D PORTWAY-SERVICES " + way,
			"-t nat -F " + name,
			"-t nat -A PORTWAY-SERVICES -d 192.0.3.0/24 -g " + name,
			"-t nat -A " + name + " -d 192.0.2.10/32 -g PORTWAY-EXCLUSIVE",
			"-t filter -F PORTWAY-EXCLUSIVE",
			"-t filter -A " + name + " -d 192.0.2.9/32 -g PORTWAY-UNOWNED",
			"-t filter -A PORTWAY-EXCLUSIVE -s 192.0.2.9/32 -j DROP",
			"-t filter -F PORTWAY-UNOWNED",
		} {
			command(n.T, n.ns, fmt.Sprintf("iptables-%s %s", n.c.Variant, line))
			if r := mustProgram(n.T, p, s); !r.Restored {
				n.Errorf("%s: %+v", line, r)
			}
			check(n.T, n.c, s)
		}
	})
}

// formerShape turns the rules into what the release without exclusive addresses makes, as
// far as they differ.
const formerShape = `*nat
:PORTWAY-EXCLUSIVE - [0:0]
:PORTWAY-EX-4M3JCX7RPH2TNSHI - [0:0]
:PORTWAY-SERVICES - [0:0]
-X PORTWAY-EX-4M3JCX7RPH2TNSHI
-A PORTWAY-SERVICES -d 192.0.2.1/32 -p tcp -m tcp --dport 1:255 -g PORTWAY-AT-DU7QPMYYSHH54NTH
-X PORTWAY-EXCLUSIVE
COMMIT
*filter
:PORTWAY-FILTER - [0:0]
:PORTWAY-UNESTABLISHED - [0:0]
:PORTWAY-EXCLUSIVE - [0:0]
:PORTWAY-UNOWNED - [0:0]
:PORTWAY-EX-4M3JCX7RPH2TNSHI - [0:0]
-X PORTWAY-EX-4M3JCX7RPH2TNSHI
-A PORTWAY-FILTER -m comment --comment "portway #f758105352fdafe4" -m conntrack --ctstate INVALID -g PORTWAY-INVALID
-A PORTWAY-FILTER -m mark --mark 0x40/0x40 -g PORTWAY-REFUSE
-X PORTWAY-UNESTABLISHED
-X PORTWAY-EXCLUSIVE
-X PORTWAY-UNOWNED
COMMIT
`

// An upgrade from rules without exclusive addresses, and the way back, under traffic.
func TestUpgradeRefusesNothing(t *testing.T) {
	eachLab(t, func(l *lab) {
		s := stateOf(l.listener(rules.TCP, []uint32{1, 1}, "near-1", "far")).WithExclusive([]netip.Addr{netns.NodeAddr4})
		mustProgram(l.t, l.p, s)
		file := filepath.Join(l.t.TempDir(), "former")
		if err := os.WriteFile(file, []byte(formerShape), 0o600); err != nil {
			l.t.Fatal(err)
		}
		load := l.Client.StartLoad(netip.AddrPortFrom(netns.NodeAddr4, 80))
		upgrades := 0
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); upgrades++ {
			command(l.t, l.Node, fmt.Sprintf("iptables-%s-restore --noflush < %s", l.c.Variant, file))
			if now := saved(l.t, l.Node, l.c.Variant); strings.Contains(now, "-g PORTWAY-EX") {
				l.t.Fatalf("not the former shape:\n%s", now)
			}
			mustProgram(l.t, newProgrammer(l.t, l.c), s)
		}
		tally, err := load.Stop()
		if err != nil {
			l.t.Fatal(err)
		}
		if tally.Answered() != tally.Total() || tally.Resent > 0 || tally.Total() < 50 {
			l.t.Errorf("during %d upgrades: %s", upgrades, tally)
		}
		check(l.t, l.c, s)
	})
}

// Without what the kernel may lack the rest is as it should be.
func TestWithoutWhatExclusiveLikes(t *testing.T) {
	eachVariant(t, func(n *node) {
		p := newProgrammer(n.T, n.c)
		for _, k := range p.families {
			k.able.redirect, k.able.local = false, false
		}
		mustProgram(n.T, p, manyFrontends(3).WithExclusive([]netip.Addr{netip.MustParseAddr("192.0.2.9")}))
		without := regexp.MustCompile(`-j REDIRECT|--dst-type`)
		if got := saved(n.T, n.ns, n.c.Variant); without.MatchString(got) || strings.Count(got, "-A PORTWAY-UNOWNED") != 2*4 {
			n.Errorf("rules that the kernel cannot take, or too few:\n%s", got)
		}
		if got := newProgrammer(n.T, n.c).Limitations(); slices.Contains(got, noRedirect) || slices.Contains(got, noLocal) {
			n.Errorf("this kernel has everything: %q", got)
		}
	})
}
