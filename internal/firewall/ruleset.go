package firewall

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netfilter"
)

// reader reads nf_tables. google/nftables v0.3.0 would leave out expressions it does
// not know, so that "unknown drop" would read as "drop".
type reader struct {
	*netfilter.Conn // nil: the kernel has no nf_tables
	// last are the tables as last read, by family and name: what is the same need not be
	// read to its sets, which takes a request each.
	last map[string]*listing
}

// families that our flows pass.
var families = map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}

// listing is a table as the kernel has it.
type listing struct {
	table
	// stamp differs when chains or rules do. Sets and counters are not in it.
	stamp uint64
}

var stampSeed = maphash.MakeSeed()

// tables reads the tables that have a base chain where our flows pass, but for those
// left out.
func (r *reader) tables(skip func(family, name string) bool) ([]*listing, error) {
	if r.Conn == nil {
		return nil, nil
	}
	answers, err := r.Ask(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, netlink.Dump)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	byName := map[string]*listing{}
	var out []*listing
	for _, a := range answers {
		name := netfilter.Text(a.Attrs.Get(unix.NFTA_CHAIN_TABLE))
		family, ours := families[a.Family]
		if !ours || skip(family, name) {
			continue
		}
		l := byName[family+" "+name]
		if l == nil {
			l = &listing{table: table{family: family, name: name}}
			byName[family+" "+name] = l
			out = append(out, l)
		}
		l.chains = append(l.chains, parseChain(a))
	}
	out = slices.DeleteFunc(out, func(l *listing) bool {
		return !slices.ContainsFunc(l.chains, func(c *chain) bool { return c.hook != noHook })
	})
	slices.SortFunc(out, func(a, b *listing) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.family, b.family))
	})
	last := make(map[string]*listing, len(out))
	for i, l := range out {
		key := l.family + " " + l.name
		if out[i], err = r.fill(l, r.last[key]); err != nil {
			return nil, fmt.Errorf("list the rules of table %s: %w", key, err)
		}
		last[key] = out[i]
	}
	r.last = last
	return out, nil
}

// hooks of families ip, ip6 and inet (enum nf_inet_hooks).
var netfilterHooks = []hook{prerouting, input, forward, output, postrouting}

func parseChain(a netfilter.Answer) *chain {
	c := &chain{name: netfilter.Text(a.Attrs.Get(unix.NFTA_CHAIN_NAME))}
	if h := a.Attrs.Get(unix.NFTA_CHAIN_HOOK); h != nil {
		if n := netfilter.Number(h.Get(unix.NFTA_HOOK_HOOKNUM)); n < uint64(len(netfilterHooks)) {
			c.hook = netfilterHooks[n]
		}
		c.priority = int32(netfilter.Number(h.Get(unix.NFTA_HOOK_PRIORITY)))
	}
	c.nat = netfilter.Text(a.Attrs.Get(unix.NFTA_CHAIN_TYPE)) == "nat"
	policy := a.Attrs.Get(unix.NFTA_CHAIN_POLICY)
	c.policyDrop = policy != nil && netfilter.Number(policy) == 0 // NF_DROP
	return c
}

// fill reads the rules of a table, and the sets that they carry with them. It returns
// what was there the last time if that is the same.
func (r *reader) fill(l, last *listing) (*listing, error) {
	family := byte(0)
	for number, name := range families {
		if name == l.family {
			family = number
		}
	}
	name := netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(l.name), 0)}
	answers, err := r.Ask(unix.NFT_MSG_GETRULE, family, netlink.Dump, name)
	if err != nil {
		return nil, err
	}
	var stamp maphash.Hash
	stamp.SetSeed(stampSeed)
	for _, c := range l.chains {
		fmt.Fprintln(&stamp, c.name, c.hook, c.priority, c.policyDrop)
	}
	// A rule never changes: one that is replaced gets another handle.
	for _, a := range answers {
		_, _ = stamp.Write(a.Attrs.Get(unix.NFTA_RULE_CHAIN)) // never fails, here and below
		_, _ = stamp.Write(a.Attrs.Get(unix.NFTA_RULE_HANDLE))
	}
	if l.stamp = stamp.Sum64(); last != nil && last.stamp == l.stamp {
		return last, nil
	}
	sets := &sets{reader: r, family: family, table: l.name}
	for _, a := range answers {
		c := l.chain(netfilter.Text(a.Attrs.Get(unix.NFTA_RULE_CHAIN)))
		if c == nil || netfilter.Text(a.Attrs.Get(unix.NFTA_RULE_TABLE)) != l.name {
			continue
		}
		handle := netfilter.Number(a.Attrs.Get(unix.NFTA_RULE_HANDLE))
		c.rules = append(c.rules, newRule(handle, parseExpressions(family, a.Attrs.Get(unix.NFTA_RULE_EXPRESSIONS)), sets))
	}
	return l, sets.err
}

// opaque is an expression that the library does not know.
type opaque string

// parseExpressions returns expr.Any and opaque.
func parseExpressions(family byte, b netfilter.Attributes) []any {
	var out []any
	for _, element := range b.All() {
		name, data := netfilter.Text(element.Get(unix.NFTA_EXPR_NAME)), element.Get(unix.NFTA_EXPR_DATA)
		e := known(name)
		if e == nil || expr.Unmarshal(family, data, e) != nil {
			out = append(out, opaque(name))
			continue
		}
		if ct, ok := e.(*expr.Ct); ok { // v0.3.0 does not decode what sets something
			if source := data.Get(unix.NFTA_CT_SREG); source != nil {
				ct.SourceRegister, ct.Register = true, uint32(netfilter.Number(source))
			}
		}
		if i, ok := e.(*expr.Immediate); ok && i.Register == unix.NFT_REG_VERDICT {
			v := &expr.Verdict{}
			if expr.Unmarshal(family, data, v) == nil {
				out = append(out, v)
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// known makes an expression of those that are understood here.
func known(name string) expr.Any {
	switch name {
	case "meta":
		return &expr.Meta{}
	case "ct":
		return &expr.Ct{}
	case "payload":
		return &expr.Payload{}
	case "cmp":
		return &expr.Cmp{}
	case "bitwise":
		return &expr.Bitwise{}
	case "lookup":
		return &expr.Lookup{}
	case "immediate":
		return &expr.Immediate{}
	case "reject":
		return &expr.Reject{}
	case "range":
		return &expr.Range{}
	case "target":
		return &expr.Target{}
	default:
		return nil
	}
}

// element is one of a set or verdict map.
type element struct {
	key   []byte
	what  verdict
	where string // to jump to
}

// sets reads the sets without a name that rules carry with them. Those with a name
// change without the rules, and what is in them is somebody's choice.
type sets struct {
	*reader
	family byte
	table  string
	err    error
}

// elements returns those of a set; ok is false when they cannot be told one by one.
func (s *sets) elements(set string) (out []element, ok bool) {
	if !strings.HasPrefix(set, "__") {
		return nil, false
	}
	answers, err := s.Ask(unix.NFT_MSG_GETSETELEM, s.family, netlink.Dump,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(s.table), 0)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)})
	if err != nil && !errors.Is(err, unix.ENOENT) { // the rule is gone by now: read again soon
		s.err = errors.Join(s.err, err)
	}
	const keyEnd = 10 // NFTA_SET_ELEM_KEY_END, not in x/sys/unix
	for _, a := range answers {
		for _, one := range a.Attrs.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
			if one.Get(keyEnd) != nil || netfilter.Number(one.Get(unix.NFTA_SET_ELEM_FLAGS)) != 0 {
				return nil, false // of intervals
			}
			e := element{key: one.Get(unix.NFTA_SET_ELEM_KEY).Get(unix.NFTA_DATA_VALUE)}
			if v := one.Get(unix.NFTA_SET_ELEM_DATA).Get(unix.NFTA_DATA_VERDICT); v != nil {
				code := int32(netfilter.Number(v.Get(unix.NFTA_VERDICT_CODE)))
				e.what, e.where = nftVerdict(expr.VerdictKind(code)), netfilter.Text(v.Get(unix.NFTA_VERDICT_CHAIN))
			}
			out = append(out, e)
		}
	}
	return out, err == nil
}

func nftVerdict(kind expr.VerdictKind) verdict {
	switch kind {
	case expr.VerdictAccept, expr.VerdictStop:
		return accept
	case expr.VerdictDrop:
		return drop
	case expr.VerdictJump:
		return jump
	case expr.VerdictGoto:
		return goTo
	case expr.VerdictReturn:
		return leave
	default:
		return proceed
	}
}
