package iptables

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// chain is a chain whose rules have an order, known by its hash.
type chain struct {
	rules []string
	hash  string
}

// program is what one Frontend is in the kernel.
type program struct {
	frontend *rules.Frontend
	bucket   string  // the chain of the rule that leads to it
	service  string  // that rule
	chains   []named // the first is the one that it leads to
	members  []member
}

// named is a chain of the nat table.
type named struct {
	name string
	chain
}

// member is a rule that Frontends may have in common, in a chain without an order.
type member struct{ chain, rule string }

// outcome is one endpoint and its part of the new flows, in units of the weights.
type outcome struct {
	to    netip.AddrPort
	local bool
	share float64
}

// outcomes returns the endpoints that get new flows, first those on this node, each
// once and by address, and what is refused.
func outcomes(f *rules.Frontend) (out []outcome, refused float64) {
	index := make(map[netip.AddrPort]int)
	for _, b := range f.Backends {
		switch {
		case b.Weight == 0:
			continue
		case len(b.Endpoints) == 0:
			refused += float64(b.Weight)
		}
		for _, e := range b.Endpoints {
			i, known := index[e.Addr]
			if !known {
				i = len(out)
				index[e.Addr] = i
				out = append(out, outcome{to: e.Addr, local: e.Local})
			}
			out[i].share += float64(b.Weight) / float64(len(b.Endpoints))
		}
	}
	slices.SortFunc(out, func(a, b outcome) int {
		if a.local != b.local {
			if a.local {
				return -1
			}
			return 1
		}
		return a.to.Compare(b.to)
	})
	return out, refused
}

// compile makes the program of a Frontend. Its chain is walked until a rule takes the
// packet: each takes its share of what those before it left over, the last one all. Where
// there is a hash, that decides with ClientHash.
func compile(key rules.FrontendKey, f *rules.Frontend, c Config, hash bool) *program {
	p := &program{frontend: f, members: membersOf(key, f)}
	var enter string
	p.bucket, enter = bucket(key)
	p.members = append(p.members, member{servicesChain, enter})
	name, owner := frontendChain(key), ownerComment(f.Owner)
	p.service = fmt.Sprintf("-d %s -p %[2]s -m %[2]s --dport %[3]d -m comment --comment \"%[4]s\" -g %[5]s",
		host(key.Addr), key.Protocol, key.Port, owner, name)

	all, refused := outcomes(f)
	left := make([]float64, len(all)+1) // summed from the end, so that small shares stay exact
	for i := len(all) - 1; i >= 0; i-- {
		left[i] = left[i+1] + all[i].share
	}
	text := []string{fmt.Sprintf("-j CONNMARK --set-xmark %#[1]x/%#[1]x", c.Mark)}
	switch {
	case len(all) == 0:
		text = append(text, "-g "+refuseChain)
	case refused > 0:
		text = append(text, draw(refused, left[0])+"-g "+refuseChain)
	}
	var further []named
	if hash && f.Select == rules.ClientHash && len(all) > 1 {
		var first []string
		first, further = affine(key, name, owner, rules.NewLayout(f, nil).Slots, c)
		text = append(text, first...)
	} else {
		matches := make([]string, len(all))
		for i, o := range all {
			matches[i] = draw(o.share, left[i+1])
		}
		text = append(text, translate(key, all, matches, c)...)
	}
	p.chains = append([]named{{name, hashed(owner, text...)}}, further...)
	return p
}

// translate makes the rules for endpoints, of which those on this node come first. From
// the first one elsewhere on, packets carry the mark that has the flow masqueraded; it
// tells nothing of those that are taken before.
func translate(key rules.FrontendKey, to []outcome, matches []string, c Config) []string {
	var text []string
	marked := false
	for i, o := range to {
		if !o.local && !marked {
			marked = true
			text = append(text, fmt.Sprintf("-j MARK --set-xmark %#[1]x/%#[1]x", c.PacketMark))
		}
		text = append(text, fmt.Sprintf("-p %s %s-j DNAT --to-destination %s", key.Protocol, matches[i], o.to))
	}
	return text
}

// drawRange is the number of equally likely draws of xt_statistic.
const drawRange = 1 << 31

// draw is the match that takes share of share+rest packets, nothing where that is all.
// Nobody with a share gets none, which a share below 2⁻³² of the rest would be.
func draw(share, rest float64) string {
	if rest == 0 {
		return ""
	}
	n := min(max(math.Round(share/(share+rest)*drawRange), 1), drawRange-1)
	return fmt.Sprintf("-m statistic --mode random --probability %.11f ", n/drawRange)
}

// membersOf returns what a Frontend needs in the chains that tell of endpoints: also of
// those that get no new flow, which may have old ones.
func membersOf(key rules.FrontendKey, f *rules.Frontend) []member {
	var out []member
	endpoint := func(e netip.AddrPort) {
		out = append(out, member{invalidChain, fmt.Sprintf("-s %s -p %[2]s -m %[2]s --sport %[3]d -j DROP", host(e.Addr()), key.Protocol, e.Port())})
	}
	for _, b := range f.Backends {
		for _, e := range b.Endpoints {
			endpoint(e.Addr)
			if e.Local {
				out = append(out, member{hairpinChain, fmt.Sprintf("-s %[1]s -d %[1]s -j MASQUERADE --random-fully", host(e.Addr.Addr()))})
			}
		}
		for _, addrs := range [...][]netip.AddrPort{b.Draining, b.Lingering} {
			for _, e := range addrs {
				endpoint(e)
			}
		}
	}
	return out
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// keyOf reads back which Frontend a rule of a bucket is for, and its chain.
func keyOf(rule string) (key rules.FrontendKey, chain string, ok bool) {
	fields := strings.Fields(rule)
	if len(fields) < 10 || fields[0] != "-d" || fields[2] != "-p" || fields[6] != "--dport" || fields[len(fields)-2] != "-g" {
		return key, "", false
	}
	addr, err := netip.ParsePrefix(fields[1])
	if err != nil || !addr.IsSingleIP() {
		return key, "", false
	}
	key.Addr = addr.Addr()
	switch fields[3] {
	case "tcp":
		key.Protocol = rules.TCP
	case "udp":
		key.Protocol = rules.UDP
	default:
		return key, "", false
	}
	if _, err := fmt.Sscan(fields[7], &key.Port); err != nil {
		return key, "", false
	}
	return key, fields[len(fields)-1], true
}
