package firewall

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netfilter"
	"github.com/portway-dev/portway/rules"
)

// Published is a range of ports of this host that other rules translate: hostPorts of
// pods, and what container engines publish.
type Published struct {
	Protocol    rules.Protocol
	First, Last uint16
	To          netip.Addr // the host's address; invalid: any
	Where       string     // for people: program, table and chain
}

// publishers are the chains of table nat of iptables in which one rule stands for each
// published port. Others translate, too; but those of kube-proxy are NodePorts, which are
// known from the Services, and to read all of table nat is slow where it runs.
var publishers = []string{
	"CNI-HOSTPORT-DNAT",      // the CNI plugin portmap
	"KUBE-HOSTPORTS",         // CRI-O
	"DOCKER",                 // Docker
	"NETAVARK-HOSTPORT-DNAT", // Podman
}

// hostPublished reads what is published on this host by others than our table. It makes
// no table by looking.
func hostPublished(ours string) ([]Published, error) {
	conn, err := netfilter.Dial()
	if err != nil {
		return nil, err
	}
	r := &reader{Conn: conn}
	var out []Published
	var errs []error
	if conn != nil {
		defer func() { _ = r.Close() }() // only read
		found, err := r.published(ours)
		out, errs = append(out, found...), append(errs, err)
	}
	for _, t := range []tool{{}, {v6: true}, {legacy: true}, {legacy: true, v6: true}} {
		found, err := t.published(r)
		out, errs = append(out, found...), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// published reads the chains of publishers of one variant and family of iptables.
func (t tool) published(r *reader) ([]Published, error) {
	chains, err := t.publishers(r)
	if err != nil || len(chains) == 0 {
		return nil, err
	}
	program, err := install(t)
	if err != nil || program == nil {
		return nil, err
	}
	var out []Published
	for _, chain := range chains {
		lines, err := program.List("nat", chain)
		var failed *iptables.Error
		if errors.As(err, &failed) && failed.IsNotExist() {
			continue
		}
		if err != nil {
			return out, err
		}
		for _, line := range lines {
			for _, p := range parsePublished(line) {
				p.Where = fmt.Sprintf("chain %s of table nat (%s)", chain, t)
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// publishers returns those that there may be.
func (t tool) publishers(r *reader) ([]string, error) {
	if t.legacy {
		tables, err := netfilter.XTables(t.v6)
		if err != nil || !slices.Contains(tables, "nat") {
			return nil, err
		}
		return publishers, nil
	}
	if r.Conn == nil {
		return nil, nil
	}
	family := byte(unix.NFPROTO_IPV4)
	if t.v6 {
		family = unix.NFPROTO_IPV6
	}
	var out []string
	for _, chain := range publishers {
		_, err := r.Ask(unix.NFT_MSG_GETCHAIN, family, 0,
			netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: []byte("nat\x00")},
			netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: append([]byte(chain), 0)})
		switch {
		case err == nil:
			out = append(out, chain)
		case !errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("look for chain %s: %w", chain, err)
		}
	}
	return out, nil
}

// parsePublished reads a rule of a chain of publishers as iptables -S prints it: no port
// where it translates none, or where it says which ones it does not.
func parsePublished(line string) []Published {
	words, err := splitWords(line)
	if err != nil {
		return nil
	}
	var p Published
	list, target := "", ""
	for i := 0; i+1 < len(words); i++ {
		negated := i > 0 && words[i-1] == "!"
		switch words[i] {
		case "-p":
			p.Protocol = rules.Protocol(protocols[words[i+1]])
		case "-d":
			prefix, err := netip.ParsePrefix(words[i+1])
			if err != nil || !prefix.IsSingleIP() || negated {
				return nil
			}
			p.To = prefix.Addr()
		case "--dport", "--dports":
			if list = words[i+1]; negated {
				return nil
			}
		case "-j", "-g":
			target = words[i+1]
		}
	}
	if p.Protocol != rules.TCP && p.Protocol != rules.UDP || list == "" || target == "" || target == "RETURN" || target == "ACCEPT" {
		return nil
	}
	var out []Published
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, ":")
		if !ranged {
			last = first
		}
		low, err := strconv.ParseUint(first, 10, 16)
		high, err2 := strconv.ParseUint(last, 10, 16)
		if err == nil && err2 == nil {
			p.First, p.Last = uint16(low), uint16(high)
			out = append(out, p)
		}
	}
	return out
}

// published reads tables of nf_tables that translate: all but ours, those of iptables and
// kube-proxy's, for which rules with names of their own stand.
func (r *reader) published(ours string) ([]Published, error) {
	answers, err := r.Ask(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, netlink.Dump)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	type tableKey struct {
		family byte
		name   string
	}
	type chainKey struct {
		tableKey
		chain string
	}
	translating, elsewhere := map[tableKey]bool{}, map[chainKey]bool{}
	for _, a := range answers {
		key := tableKey{a.Family, netfilter.Text(a.Attrs.Get(unix.NFTA_CHAIN_TABLE))}
		family, known := families[a.Family]
		skip := !known || key.name == "kube-proxy" || key.name == ours || key.name == "nat" && family != "inet"
		c := parseChain(a)
		if !skip && c.nat && c.hook == prerouting {
			translating[key] = true
		}
		if c.hook != noHook && c.hook != prerouting {
			elsewhere[chainKey{key, c.name}] = true
		}
	}
	var out []Published
	for key := range translating {
		rulesOf, err := r.Ask(unix.NFT_MSG_GETRULE, key.family, netlink.Dump,
			netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(key.name), 0)})
		if err != nil {
			return out, fmt.Errorf("list the rules of table %s %s: %w", families[key.family], key.name, err)
		}
		for _, a := range rulesOf {
			chain := netfilter.Text(a.Attrs.Get(unix.NFTA_RULE_CHAIN))
			if netfilter.Text(a.Attrs.Get(unix.NFTA_RULE_TABLE)) != key.name || elsewhere[chainKey{key, chain}] {
				continue
			}
			if p, ok := publishedBy(parseExpressions(key.family, a.Attrs.Get(unix.NFTA_RULE_EXPRESSIONS))); ok {
				p.Where = fmt.Sprintf("chain %s of table %s %s (nft)", chain, families[key.family], key.name)
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b Published) int { return cmp.Compare(a.Where, b.Where) })
	return out, nil
}

// publishedBy reads a rule that asks for one port, and for an address or none, and
// translates or leads to a chain that does.
func publishedBy(exprs []any) (p Published, ok bool) {
	holds := map[uint32]part{}
	translates := false
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			holds[place(e.Register)] = otherPart
			if e.Key == expr.MetaKeyL4PROTO && !e.SourceRegister {
				holds[place(e.Register)] = protocolPart
			}
		case *expr.Payload:
			holds[place(e.DestRegister)] = partOf(e)
		case *expr.Cmp:
			if e.Op == expr.CmpOpEq {
				p.learn(holds[place(e.Register)], e.Data)
			}
		case *expr.Verdict:
			v := nftVerdict(e.Kind)
			translates = translates || v == jump || v == goTo
		case opaque:
			translates = translates || e == "nat" || e == "redir"
			if !neutral[e] {
				clear(holds)
			}
		default: // it may have loaded a register
			clear(holds)
		}
	}
	p.Last = p.First
	return p, translates && p.First != 0 && (p.Protocol == rules.TCP || p.Protocol == rules.UDP)
}

// part is what of a packet says where it is published.
type part uint8

const (
	otherPart part = iota
	protocolPart
	addressPart
	portPart
)

func partOf(e *expr.Payload) part {
	switch {
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2:
		return portPart
	case e.Base == expr.PayloadBaseNetworkHeader && (e.Offset == 16 && e.Len == 4 || e.Offset == 24 && e.Len == 16):
		return addressPart
	default:
		return otherPart
	}
}

// learn notes what a part has to be.
func (p *Published) learn(what part, data []byte) {
	switch {
	case what == protocolPart && len(data) == 1:
		p.Protocol = rules.Protocol(data[0])
	case what == portPart && len(data) == 2:
		p.First = binary.BigEndian.Uint16(data)
	case what == addressPart:
		p.To, _ = netip.AddrFromSlice(data)
	}
}

// published finds Frontends whose port is one of those.
func (h *Host) published(t Traffic) []Finding {
	list, err := h.Published()
	if err != nil { // a lock that is held, or a right that is missing: nothing new is known
		list = h.listed
	}
	h.listed = list
	byPort := map[listening][]Published{}
	for _, p := range list {
		for port := int(p.First); port <= int(p.Last); port++ {
			key := listening{p.Protocol, uint16(port)}
			byPort[key] = append(byPort[key], p)
		}
	}
	var out []Finding
	for key, f := range t.State.All() {
		others := byPort[listening{key.Protocol, key.Port}]
		i := slices.IndexFunc(others, func(p Published) bool { return p.To == key.Addr || !p.To.IsValid() && t.ofHost(key.Addr) })
		if i < 0 {
			continue
		}
		out = append(out, Finding{Reason: ReasonHostPort, Owner: listenerOf(f), Message: fmt.Sprintf(
			"%s %s is listener %s of Gateway %s, and %s translates that port, too, as a hostPort of a pod or a container's published port: it does not reach that pod or container any more; give one of the two another port",
			key.Protocol, netip.AddrPortFrom(key.Addr, key.Port), f.Owner.Listener, f.Owner.Gateway, others[i].Where)})
	}
	return out
}

// listenerOf is whom a finding about a Frontend concerns.
func listenerOf(f *rules.Frontend) rules.Owner {
	return rules.Owner{Gateway: f.Owner.Gateway, Listener: f.Owner.Listener}
}
