package firewall

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// reader reads nf_tables. google/nftables v0.3.0 would leave out expressions it does
// not know, so that "unknown drop" would read as "drop".
type reader struct {
	*netlink.Conn
	// last are the tables as last read, by family and name: what is the same need not be
	// read to its sets, which takes a request each.
	last map[string]*listing
}

// openReader returns nil where the kernel has no nf_tables.
func openReader() (*reader, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	r := &reader{Conn: conn}
	if _, err := r.generation(); errors.Is(err, unix.EINVAL) { // an unknown subsystem, see nfnetlink_rcv_msg
		return nil, conn.Close()
	}
	return r, nil
}

// families that our flows pass.
var families = map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}

// answer is a message: its family and its attributes.
type answer struct {
	family byte
	attrs  attributes
}

// attributes are encoded one behind the other. netlink's own decoder copies them.
type attributes []byte

// all yields the types and values.
func (b attributes) all() iter.Seq2[uint16, attributes] {
	return func(yield func(uint16, attributes) bool) {
		for len(b) >= unix.SizeofNlAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofNlAttr || length > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (netlink.Nested | netlink.NetByteOrder)
			if !yield(kind, b[unix.SizeofNlAttr:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// get returns the value of the first attribute of a type, nil for none.
func (b attributes) get(want uint16) attributes {
	for kind, value := range b.all() {
		if kind == want {
			return value
		}
	}
	return nil
}

func (r *reader) ask(kind int, family byte, flags netlink.HeaderFlags, attrs ...netlink.Attribute) ([]answer, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	messages, err := r.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return nil, err
	}
	var out []answer
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		out = append(out, answer{m.Data[0], m.Data[4:]})
	}
	return out, nil
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func number(b []byte) uint64 {
	switch len(b) {
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 8:
		return binary.BigEndian.Uint64(b)
	default:
		return 0
	}
}

// generation is that of the whole ruleset; every commit of anybody moves it.
func (r *reader) generation() (uint32, error) {
	if r == nil {
		return 0, nil
	}
	answers, err := r.ask(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, 0)
	if err != nil || len(answers) == 0 {
		return 0, errors.Join(errors.New("read the generation of the ruleset"), err)
	}
	return uint32(number(answers[0].attrs.get(unix.NFTA_GEN_ID))), nil
}

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
	if r == nil {
		return nil, nil
	}
	answers, err := r.ask(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, netlink.Dump)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	byName := map[string]*listing{}
	var out []*listing
	for _, a := range answers {
		name := text(a.attrs.get(unix.NFTA_CHAIN_TABLE))
		family, ours := families[a.family]
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

func parseChain(a answer) *chain {
	c := &chain{name: text(a.attrs.get(unix.NFTA_CHAIN_NAME))}
	if h := a.attrs.get(unix.NFTA_CHAIN_HOOK); h != nil {
		if n := number(h.get(unix.NFTA_HOOK_HOOKNUM)); n < uint64(len(netfilterHooks)) {
			c.hook = netfilterHooks[n]
		}
		c.priority = int32(number(h.get(unix.NFTA_HOOK_PRIORITY)))
	}
	c.nat = text(a.attrs.get(unix.NFTA_CHAIN_TYPE)) == "nat"
	policy := a.attrs.get(unix.NFTA_CHAIN_POLICY)
	c.policyDrop = policy != nil && number(policy) == 0 // NF_DROP
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
	answers, err := r.ask(unix.NFT_MSG_GETRULE, family, netlink.Dump, name)
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
		_, _ = stamp.Write(a.attrs.get(unix.NFTA_RULE_CHAIN)) // never fails, here and below
		_, _ = stamp.Write(a.attrs.get(unix.NFTA_RULE_HANDLE))
	}
	if l.stamp = stamp.Sum64(); last != nil && last.stamp == l.stamp {
		return last, nil
	}
	sets := &sets{reader: r, family: family, table: l.name}
	for _, a := range answers {
		c := l.chain(text(a.attrs.get(unix.NFTA_RULE_CHAIN)))
		if c == nil || text(a.attrs.get(unix.NFTA_RULE_TABLE)) != l.name {
			continue
		}
		handle := number(a.attrs.get(unix.NFTA_RULE_HANDLE))
		c.rules = append(c.rules, newRule(handle, parseExpressions(family, a.attrs.get(unix.NFTA_RULE_EXPRESSIONS)), sets))
	}
	return l, sets.err
}

// opaque is an expression that the library does not know.
type opaque string

// parseExpressions returns expr.Any and opaque.
func parseExpressions(family byte, b attributes) []any {
	var out []any
	for _, element := range b.all() {
		name, data := text(element.get(unix.NFTA_EXPR_NAME)), element.get(unix.NFTA_EXPR_DATA)
		e := known(name)
		if e == nil || expr.Unmarshal(family, data, e) != nil {
			out = append(out, opaque(name))
			continue
		}
		if ct, ok := e.(*expr.Ct); ok { // v0.3.0 does not decode what sets something
			if source := data.get(unix.NFTA_CT_SREG); source != nil {
				ct.SourceRegister, ct.Register = true, uint32(number(source))
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
	answers, err := s.ask(unix.NFT_MSG_GETSETELEM, s.family, netlink.Dump,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(s.table), 0)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)})
	if err != nil && !errors.Is(err, unix.ENOENT) { // the rule is gone by now: read again soon
		s.err = errors.Join(s.err, err)
	}
	const keyEnd = 10 // NFTA_SET_ELEM_KEY_END, not in x/sys/unix
	for _, a := range answers {
		for _, one := range a.attrs.get(unix.NFTA_SET_ELEM_LIST_ELEMENTS).all() {
			if one.get(keyEnd) != nil || number(one.get(unix.NFTA_SET_ELEM_FLAGS)) != 0 {
				return nil, false // of intervals
			}
			e := element{key: one.get(unix.NFTA_SET_ELEM_KEY).get(unix.NFTA_DATA_VALUE)}
			if v := one.get(unix.NFTA_SET_ELEM_DATA).get(unix.NFTA_DATA_VERDICT); v != nil {
				code := int32(number(v.get(unix.NFTA_VERDICT_CODE)))
				e.what, e.where = nftVerdict(expr.VerdictKind(code)), text(v.get(unix.NFTA_VERDICT_CHAIN))
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
