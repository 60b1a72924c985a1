package rulestest

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
)

// Nftables is one table of nftables.
type Nftables struct {
	sets   map[string]*nftSet // and maps
	chains map[string]*nftChain
	bases  []*nftChain // by priority
}

// nftChain is a chain; one that packets enter from a hook has a kind.
type nftChain struct {
	name, kind, hook string // kind: nat or filter
	priority         int
	rules            []words
}

func (t *Nftables) add(c *nftChain) error {
	if t.chains[c.name] != nil {
		return fmt.Errorf("chain %s: twice", c.name)
	}
	t.chains[c.name] = c
	if c.kind == "" {
		return nil
	}
	t.bases = append(t.bases, c)
	slices.SortStableFunc(t.bases, func(a, b *nftChain) int { return cmp.Compare(a.priority, b.priority) })
	return nil
}

// Follow returns all that can happen to a packet on its way through some hooks. Chains of
// type nat see no packet but the first one of a flow.
func (t *Nftables) Follow(p Packet, hooks ...string) ([]Leaf, error) {
	way := []Leaf{{p, Accepted, big.NewRat(1, 1)}}
	for _, hook := range hooks {
		for _, chain := range t.bases {
			if chain.hook != hook || chain.kind == "nat" && p.State != New {
				continue
			}
			var ends leaves
			for _, at := range way {
				if at.Verdict != Accepted {
					ends.leave(at.Packet, at.Verdict, at.Probability)
					continue
				}
				w := &nftWalker{table: t, leaves: &ends}
				if err := w.walk(chain.name, at.Packet, at.Probability); err != nil {
					return nil, fmt.Errorf("from chain %s: %w", chain.name, err)
				}
			}
			way = ends.list
		}
	}
	return way, nil
}
