package nftables

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// step is a part of the static table that must not be torn apart.
type step struct {
	cost cost
	add  func(*nftables.Conn) error
}

// What the messages of the static table take at most, measured. How many there are is exact.
const (
	ruleBytes   = 1400
	objectBytes = 400
)

// object is the step that sends one small message.
func object(add func(*nftables.Conn)) step {
	return step{cost{objectBytes, 1}, func(c *nftables.Conn) error { add(c); return nil }}
}

// steps create the static part of the table. Chains and sets that are there stay,
// and so do the rules of a chain that has the right ones, see fingerprint; of any
// other the rules change in one commit, so that no packet meets it half full.
func (l *layout) steps(present map[string][]fingerprint) ([]step, error) {
	out := []step{object(func(c *nftables.Conn) { c.AddTable(l.table) })}
	for _, set := range l.sets {
		out = append(out, step{cost{objectBytes, 1}, func(c *nftables.Conn) error { return c.AddSet(set, nil) }})
	}
	for _, ch := range l.chains {
		out = append(out, object(func(c *nftables.Conn) { c.AddChain(ch.Chain) }))
	}
	all, err := l.fingerprints()
	if err != nil {
		return nil, err
	}
	for i, ch := range l.chains {
		has, wanted := present[ch.Name], all[i]
		if slices.Equal(has, wanted) {
			continue
		}
		messages := len(ch.rules)
		if len(has) > 0 {
			messages++
		}
		out = append(out, step{
			cost{objectBytes + ruleBytes*len(ch.rules), messages},
			func(c *nftables.Conn) error {
				if len(has) > 0 {
					c.FlushChain(ch.Chain)
				}
				for i, r := range ch.rules {
					c.AddRule(&nftables.Rule{
						Table: l.table, Chain: ch.Chain, Exprs: r.exprs, UserData: r.userData(wanted[i]),
					})
				}
				return nil
			},
		})
	}
	return out, nil
}

// fingerprint is a hash of all that makes a rule, kept in the rule's user data. A
// rule is thus known again without reading it: what the kernel reports of a rule is
// not byte by byte what was sent, and a rule written by nft has no fingerprint.
//
// To replace rules without need would be dear. For each rule that looks up a map
// the kernel walks the whole map (nf_tables_bind_set), which for the ladder and
// 100 000 slots takes 6 s.
type fingerprint uint64

// fingerprintType is the type of the fingerprint in a rule's user data, far from
// those of libnftnl (enum nftnl_udata_rule_types); nft skips what it does not know.
const fingerprintType userdata.Type = 0xf0

// fingerprints returns those of the rules of each chain, in the order of l.chains.
func (l *layout) fingerprints() ([][]fingerprint, error) {
	if l.prints != nil {
		return l.prints, nil
	}
	prints := make([][]fingerprint, 0, len(l.chains))
	for _, ch := range l.chains {
		p, err := ch.fingerprints()
		if err != nil {
			return nil, err
		}
		prints = append(prints, p)
	}
	l.prints = prints
	return prints, nil
}

// trunk names the chains that listeners share, whatever their number of slots:
// all but the ladder.
func (l *layout) trunk() []string {
	var names []string
	for _, ch := range l.chains {
		if !ladderChain(ch.Name) {
			names = append(names, ch.Name)
		}
	}
	return names
}

func (c chain) fingerprints() ([]fingerprint, error) {
	out := make([]fingerprint, 0, len(c.rules))
	for _, r := range c.rules {
		h := fnv.New64a()
		_, _ = h.Write([]byte(r.comment)) // never fails
		for _, e := range r.exprs {
			b, err := expr.Marshal(byte(c.Table.Family), e)
			if err != nil {
				return nil, fmt.Errorf("encode a rule of chain %s: %w", c.Name, err)
			}
			_, _ = h.Write(b)
		}
		out = append(out, fingerprint(h.Sum64()))
	}
	return out, nil
}

func (r rule) userData(f fingerprint) []byte {
	var data []byte
	if r.comment != "" {
		data = userdata.AppendString(data, userdata.TypeComment, r.comment)
	}
	return userdata.Append(data, fingerprintType, binary.BigEndian.AppendUint64(nil, uint64(f)))
}

// fingerprintOf returns the one in a rule's user data, 0 for none.
func fingerprintOf(data []byte) fingerprint {
	if f := userDataField(data, byte(fingerprintType)); len(f) == 8 {
		return fingerprint(binary.BigEndian.Uint64(f))
	}
	return 0
}

// leftovers delete chains and sets that a former version left in the table: first
// the rules, which may refer to any of them, and the chains last, to which
// elements of the sets may lead.
func (l *layout) leftovers(chains, sets []string) []step {
	var out []step
	for _, name := range chains {
		out = append(out, object(func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Name: name, Table: l.table}) }))
	}
	for _, name := range sets {
		out = append(out, object(func(c *nftables.Conn) { c.DelSet(&nftables.Set{Name: name, Table: l.table}) }))
	}
	for _, name := range chains {
		out = append(out, object(func(c *nftables.Conn) { c.DelChain(&nftables.Chain{Name: name, Table: l.table}) }))
	}
	return out
}
