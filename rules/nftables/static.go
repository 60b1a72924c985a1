package nftables

import "github.com/google/nftables"

// step is a part of the static table that must not be torn apart.
type step struct {
	cost cost
	add  func(*nftables.Conn) error
}

// What the messages of the static table take at most, measured.
const (
	ruleBytes   = 1400
	objectBytes = 400
)

// steps create the static part of the table, or replace it: chains and sets that
// are there stay, and the rules of one chain change in one commit, so that no
// packet meets a chain half full.
func (l *layout) steps(replace bool) []step {
	out := []step{{cost{objectBytes, 1}, func(c *nftables.Conn) error { c.AddTable(l.table); return nil }}}
	for _, set := range l.sets {
		out = append(out, step{cost{objectBytes, 1}, func(c *nftables.Conn) error { return c.AddSet(set, nil) }})
	}
	for _, ch := range l.chains {
		out = append(out, step{cost{objectBytes, 1}, func(c *nftables.Conn) error { c.AddChain(ch.Chain); return nil }})
	}
	for _, ch := range l.chains {
		out = append(out, step{
			cost{objectBytes + ruleBytes*len(ch.rules), 1 + len(ch.rules)},
			func(c *nftables.Conn) error {
				if replace {
					c.FlushChain(ch.Chain)
				}
				for _, r := range ch.rules {
					added := &nftables.Rule{Table: l.table, Chain: ch.Chain, Exprs: r.exprs}
					if r.comment != "" {
						added.UserData = comment(r.comment)
					}
					c.AddRule(added)
				}
				return nil
			},
		})
	}
	return out
}

// leftovers delete chains and sets that a former version left in the table: first
// the rules, which may refer to any of them, and the chains last, to which
// elements of the sets may lead.
func (l *layout) leftovers(chains, sets []string) []step {
	var out []step
	object := func(add func(*nftables.Conn)) {
		out = append(out, step{cost{objectBytes, 1}, func(c *nftables.Conn) error { add(c); return nil }})
	}
	for _, name := range chains {
		object(func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Name: name, Table: l.table}) })
	}
	for _, name := range sets {
		object(func(c *nftables.Conn) { c.DelSet(&nftables.Set{Name: name, Table: l.table}) })
	}
	for _, name := range chains {
		object(func(c *nftables.Conn) { c.DelChain(&nftables.Chain{Name: name, Table: l.table}) })
	}
	return out
}
