package firewall

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Chain is ours in table filter of iptables.
const Chain = "PORTWAY-FORWARD"

const (
	filterTable  = "filter"
	forwardChain = "FORWARD"
	// dockerChain is where Docker wants the rules of others.
	dockerChain = "DOCKER-USER"
)

// spot is where in a chain a rule is, from 0.
type spot struct {
	chain string
	index int
}

// opening is our chain and the jump to it in one table.
type opening struct {
	table *table
	spec  []string // of the rule in our chain
}

func newOpening(t *table, mark uint32) opening {
	return opening{t, []string{"-m", "connmark", "--mark", fmt.Sprintf("%#[1]x/%#[1]x", mark), "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"}}
}

// jumps are the rules that lead to our chain.
func (o opening) jumps() []spot {
	var out []spot
	for _, c := range o.table.chains {
		for i := range c.rules {
			if leadsHere(&c.rules[i]) {
				out = append(out, spot{c.name, i})
			}
		}
	}
	return out
}

func leadsHere(r *rule) bool { return strings.HasSuffix(" "+r.text, "-j "+Chain) }

// present reports whether our chain is as it should be.
func (o opening) present() bool {
	c := o.table.chain(Chain)
	return c != nil && len(c.rules) == 1 && c.rules[0].text == strings.Join(o.spec, " ")
}

// without is the table as others made it.
func (o opening) without() *table {
	out := *o.table
	out.chains = nil
	for _, c := range o.table.chains {
		if c.name == Chain {
			continue
		}
		theirs := *c
		theirs.rules = slices.DeleteFunc(slices.Clone(c.rules), func(r rule) bool { return leadsHere(&r) })
		out.chains = append(out.chains, &theirs)
	}
	return &out
}

// blocked reports whether flows may end in FORWARD.
func blocked(t *table, packets []*packet) bool {
	base := t.chain(forwardChain)
	return base != nil && t.stops(base, packets) != nil
}

// wanted is where the jump belongs: in Docker's chain for others if that helps, else in
// FORWARD, and there as late as it helps. What stands before it stays in force:
// NetworkPolicies, and clients that somebody blocks.
func (o opening) wanted(packets []*packet) spot {
	for _, name := range []string{dockerChain, forwardChain} {
		bare := o.without()
		c := bare.chain(name)
		if c == nil {
			continue
		}
		theirs := c.rules
		bare.chains = append(bare.chains, &chain{name: Chain, rules: []rule{parseRule(o.spec)}})
		// The later, the more may have been dropped before.
		late := sort.Search(len(theirs)+1, func(i int) bool {
			c.rules = slices.Insert(slices.Clone(theirs), i, parseRule([]string{"-j", Chain}))
			return blocked(bare, packets)
		})
		if late > 0 {
			return spot{name, late - 1}
		}
	}
	return spot{chain: forwardChain}
}

// open makes what is missing, and reports whether something was.
func (o opening) open(i *installed, packets []*packet) (bool, error) {
	jumps, want := o.jumps(), o.wanted(packets)
	right := o.present()
	placed := len(jumps) == 1 && (jumps[0] == want || !blocked(o.table, packets))
	if right && placed {
		return false, nil
	}
	if !right {
		if err := i.ClearChain(filterTable, Chain); err != nil {
			return true, err
		}
		if err := i.Append(filterTable, Chain, o.spec...); err != nil {
			return true, err
		}
	}
	if placed {
		return true, nil
	}
	if err := o.deleteJumps(i); err != nil {
		return true, err
	}
	return true, i.Insert(filterTable, want.chain, want.index+1, "-j", Chain)
}

func (o opening) deleteJumps(i *installed) error {
	for _, at := range o.jumps() {
		r := o.table.chain(at.chain).rules[at.index]
		if err := i.Delete(filterTable, at.chain, strings.Fields(r.text)...); err != nil {
			return err
		}
	}
	return nil
}

// close removes what is ours, and reports whether there was something.
func (o opening) close(i *installed) (bool, error) {
	exists := o.table.chain(Chain) != nil
	if !exists && len(o.jumps()) == 0 {
		return false, nil
	}
	if err := o.deleteJumps(i); err != nil {
		return true, err
	}
	if !exists {
		return true, nil
	}
	return true, i.ClearAndDeleteChain(filterTable, Chain)
}
