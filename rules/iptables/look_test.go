package iptables

import (
	"errors"
	"strings"
	"testing"
)

// What others do to rules of their own is not ours to look into, and until somebody has
// read what was written nobody knows.
func TestDisturbedIsWhatConcernsUs(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		p := newProgrammer(t, c)
		if p.Disturbed() {
			t.Error("before the first Program: disturbed")
		}
		s := manyFrontends(3)
		mustProgram(t, p, s)
		if !p.Disturbed() {
			t.Error("written, not read: not disturbed")
		}
		mustProgram(t, p, s)
		commands := p.Stats().Commands
		for _, line := range []string{
			"true", "IPT -t nat -N KUBE-SERVICES", "IPT -t nat -A KUBE-SERVICES -p tcp --dport 99 -j RETURN",
			"IPT -t nat -F KUBE-SERVICES", "IPT -t nat -X KUBE-SERVICES", "IPT -t mangle -A PREROUTING -j RETURN", "nft add table inet other",
		} {
			command(t, ns, strings.ReplaceAll(line, "IPT", "iptables-"+string(c.Variant)))
			if p.Disturbed() {
				t.Errorf("after %s: disturbed", line)
			}
		}
		if got := p.Stats().Commands; got != commands {
			t.Errorf("looks ran %d commands", got-commands)
		}
		for _, family := range []string{"iptables-", "ip6tables-"} {
			command(t, ns, family+string(c.Variant)+" -t nat -F")
			if !p.Disturbed() {
				t.Errorf("%s: a flush is not noticed", family)
			}
			mustProgram(t, p, s)
			mustProgram(t, p, s)
		}
		if p.Disturbed() {
			t.Error("mended and read: disturbed")
		}
	})
}

// Who failed comes back by itself: a look does not make it sooner. What is disturbed
// meanwhile is noticed.
func TestFailureIsNoDisturbance(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		p := newProgrammer(t, c)
		s := manyFrontends(4)
		chain := frontendChain(s.Keys()[0])
		refused := errors.New("refused")
		p.families[0].fault = func(input []byte) error {
			if strings.Contains(string(input), chain) {
				return refused
			}
			return nil
		}
		for range 2 {
			if _, err := p.Program(t.Context(), s); !errors.Is(err, refused) {
				t.Fatalf("%v", err)
			}
			if p.Disturbed() {
				t.Error("one is refused: disturbed")
			}
		}
		command(t, ns, "iptables-"+string(c.Variant)+" -t nat -F")
		if !p.Disturbed() {
			t.Error("a flush is not noticed")
		}
		p.families[0].fault = func([]byte) error { return refused }
		if _, err := p.Program(t.Context(), s); !errors.Is(err, refused) {
			t.Fatalf("%v", err)
		}
		if p.Disturbed() {
			t.Error("all failed: disturbed")
		}
	})
}

// A rule replaced by another one of the same place changes no number and no comment.
func TestReplacedRuleIsMended(t *testing.T) {
	eachVariant(t, func(n *node) {
		t, ns, c := n.T, n.ns, n.c
		p := newProgrammer(t, c)
		s := manyFrontends(3)
		mustProgram(t, p, s)
		mustProgram(t, p, s) // reads what was written
		iptables := "iptables-" + string(c.Variant)
		for _, line := range []string{
			iptables + " -t nat -R PORTWAY-POSTROUTING 2 -j RETURN",
			iptables + " -t nat -R " + frontendChain(s.Keys()[0]) + " 3 -p tcp -j DNAT --to-destination 10.9.9.9:1",
		} {
			for range 2 { // also after it was mended
				command(t, ns, line)
				if r := mustProgram(t, p, s); !r.Restored {
					t.Errorf("after %s: %+v", line, r)
				}
				check(t, c, s)
				if r := mustProgram(t, p, s); r.Operations > 0 {
					t.Errorf("after %s and Program: %+v", line, r)
				}
			}
		}
	})
}
