package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// enforcers are the chains of programs that enforce NetworkPolicies, and of our own
// rules in iptables. What they drop is meant to be dropped: it is no finding, and our
// jump stands behind theirs, see wanted.
var enforcers = []string{"cali-", "KUBE-ROUTER-", "KUBE-NWPLCY-", "KUBE-POD-FW-", "WEAVE-NPC", "CILIUM_", "PORTWAY-"}

func enforcer(chain string) bool {
	return chain != Chain && slices.ContainsFunc(enforcers, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

// hooks of the base chains of iptables.
var iptablesHooks = map[string]hook{
	"PREROUTING": prerouting, "INPUT": input, "FORWARD": forward, "OUTPUT": output, "POSTROUTING": postrouting,
}

// tool is a program that keeps tables of iptables: one variant for one family.
type tool struct {
	legacy, v6 bool
}

// String is the name of the program.
func (t tool) String() string {
	name := "iptables"
	if t.v6 {
		name = "ip6tables"
	}
	if t.legacy {
		return name + "-legacy"
	}
	return name + "-nft"
}

// family is what nft calls it.
func (t tool) family() string {
	if t.v6 {
		return "ip6"
	}
	return "ip"
}

// priorities of the tables of iptables in all hooks (enum nf_ip_hook_priorities).
var iptablesPriorities = map[string]int32{"raw": -300, "mangle": -150, "filter": 0}

// parseSave reads one table as iptables-save prints it.
func parseSave(t tool, name, text string) (*table, error) {
	out := &table{family: t.family(), name: name}
	complete := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, ":"):
			fields := strings.Fields(line[1:])
			if len(fields) < 2 {
				return nil, fmt.Errorf("unknown line %q", line)
			}
			out.chains = append(out.chains, &chain{
				name: fields[0], hook: iptablesHooks[fields[0]], priority: iptablesPriorities[name],
				policyDrop: fields[1] == "DROP",
			})
		case strings.HasPrefix(line, "-A "):
			words, err := splitWords(line)
			if err != nil {
				return nil, fmt.Errorf("%w in %q", err, line)
			}
			c := out.chain(words[1])
			if c == nil {
				return nil, fmt.Errorf("rule of an unknown chain: %q", line)
			}
			c.rules = append(c.rules, parseRule(words[2:]))
		case line == "COMMIT":
			complete = true
		}
	}
	if !complete { // "incompatible, use 'nft' tool" is a comment
		return nil, fmt.Errorf("%s cannot show table %s", t, name)
	}
	return out, nil
}

// splitWords undoes the quoting of iptables-save.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, inWord := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	if quoted || len(words) < 2 {
		return nil, fmt.Errorf("malformed rule")
	}
	return words, nil
}

// condition tells of a packet whether a part of a rule matches it.
type condition struct {
	match func(*packet) certainty
	// client says that it asks for the client's address.
	client bool
}

// parseRule reads what follows the chain's name.
func parseRule(words []string) rule {
	var conditions []condition
	e := effect{}
	module, negated := "", false
	for i := 0; i < len(words); i++ {
		option, value := words[i], ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch option {
		case "!":
			negated = true
			continue
		case "-m":
			module = value
			i++
			continue
		case "-j", "-g":
			e.verdict, e.target = targetVerdict(value, option == "-g")
			if value == "CONNMARK" {
				e.target = strings.Join(words[i+2:], " ")
			}
			i = len(words)
			continue
		}
		if !strings.HasPrefix(option, "-") {
			continue // the value of the option before
		}
		if module == "comment" && option == "--comment" {
			i++
			continue
		}
		if option == "--match-set" && i+2 < len(words) {
			value += " " + words[i+2]
		}
		c := iptablesCondition(module, option, value)
		if negated {
			c = c.not()
		}
		conditions = append(conditions, c)
		negated = false
	}
	return rule{text: strings.Join(words, " "), effects: func(p *packet) []effect {
		now := e
		now.when, now.chosen = evaluate(conditions, p)
		if e.verdict == proceed && e.target != "" {
			now.mark = connmark(strings.Fields(e.target), p.mark)
		}
		return []effect{now}
	}}
}

// targetVerdict tells what a target does; others than these, such as LOG, decide
// nothing, and NetworkPolicies are not ours to judge.
func targetVerdict(name string, goes bool) (verdict, string) {
	switch {
	case enforcer(name):
		return proceed, ""
	case goes:
		return goTo, name
	case name == "ACCEPT":
		return accept, ""
	case name == "DROP", name == "REJECT":
		return drop, ""
	case name == "RETURN":
		return leave, ""
	case name == "CONNMARK":
		return proceed, ""
	default:
		return jump, name // of targets that are no chain nothing is found, which decides nothing
	}
}

// evaluate joins the conditions of a rule.
func evaluate(conditions []condition, p *packet) (when certainty, chosen bool) {
	when, chosen = always, true
	for _, c := range conditions {
		m := c.match(p)
		if m == maybe && !c.client {
			chosen = false
		}
		when = min(when, m)
	}
	return when, chosen && when == maybe
}

func (c condition) not() condition {
	return condition{client: c.client, match: func(p *packet) certainty { return always - c.match(p) }}
}

// exactly is a condition that can be decided.
func exactly(match func(*packet) bool) condition {
	return condition{match: func(p *packet) certainty {
		if match(p) {
			return always
		}
		return never
	}}
}

// possibly is a condition that some packets fulfil, if any can.
func possibly(match func(*packet) bool) condition {
	return condition{match: func(p *packet) certainty {
		if match(p) {
			return maybe
		}
		return never
	}}
}

var unknown = condition{match: func(*packet) certainty { return maybe }}

func iptablesCondition(module, option, value string) condition {
	switch option {
	case "-s", "--src-range":
		return condition{match: unknown.match, client: true}
	case "--match-set":
		_, directions, _ := strings.Cut(value, " ")
		return condition{match: unknown.match, client: directions == "src"}
	case "-d":
		prefix, err := netip.ParsePrefix(value)
		if err != nil {
			return unknown
		}
		return possibly(func(p *packet) bool { return p.to.within(prefix) })
	case "-i", "-o":
		return possibly(func(p *packet) bool { return value != "lo" || p.hook != forward })
	case "-p":
		return exactly(func(p *packet) bool { return protocols[value] == p.protocol || value == "all" })
	case "--dport", "--dports":
		return possibly(func(p *packet) bool { return listsPort(value, p.to) })
	case "--ctstate", "--state":
		return ctState(strings.Split(value, ","))
	case "--mark":
		if module == "connmark" {
			return connmarkIs(value)
		}
	case "--dst-type":
		if value == "LOCAL" {
			return condition{match: func(p *packet) certainty {
				switch p.hook {
				case forward:
					return never
				case input:
					return always
				default:
					return maybe
				}
			}}
		}
	}
	return unknown
}

var protocols = map[string]byte{"tcp": 6, "udp": 17, "6": 6, "17": 17}

func listsPort(list string, to *destinations) bool {
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, ":")
		if !ranged {
			last = first
		}
		low, err := strconv.ParseUint(first, 10, 16)
		high, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || to.port(int(low), int(high)) {
			return true
		}
	}
	return false
}

// ctState matches states and, as iptables mixes them in, translations: our flows have
// their destination translated.
func ctState(names []string) condition {
	return condition{match: func(p *packet) certainty {
		state := "NEW"
		if p.established {
			state = "ESTABLISHED"
		}
		switch {
		case slices.Contains(names, state), slices.Contains(names, "DNAT") && !p.bare:
			return always
		case slices.Contains(names, "SNAT") && p.established:
			return maybe
		default:
			return never
		}
	}}
}

func connmarkIs(text string) condition {
	value, mask, err := parseMark(text)
	if err != nil {
		return unknown
	}
	return condition{match: func(p *packet) certainty {
		carried := p.mark
		if p.bare {
			carried = 0
		}
		switch {
		case (carried^value)&p.mark&mask != 0:
			return never
		case mask == p.mark && value&^mask == 0:
			return always
		default:
			return maybe
		}
	}}
}

// parseMark reads "0x1" or "0x1/0xff".
func parseMark(text string) (value, mask uint32, err error) {
	first, second, masked := strings.Cut(text, "/")
	v, err := strconv.ParseUint(first, 0, 32)
	if err != nil || !masked {
		return uint32(v), ^uint32(0), err
	}
	m, err := strconv.ParseUint(second, 0, 32)
	return uint32(v), uint32(m), err
}

// connmark tells what a CONNMARK target does to a bit.
func connmark(options []string, bit uint32) markChange {
	saves, mask := false, ^uint32(0)
	for i, option := range options {
		value := ""
		if i+1 < len(options) {
			value = options[i+1]
		}
		switch option {
		case "--set-mark", "--set-xmark":
			if v, m, err := parseMark(value); err == nil {
				return changeOf(v, m, bit)
			}
		case "--save-mark":
			saves = true
		case "--ctmask", "--mask":
			if m, _, err := parseMark(value); err == nil {
				mask = m
			}
		}
	}
	// The packet's mark hardly ever carries a bit that is ours in the flow's.
	if saves && mask&bit != 0 {
		return markLost
	}
	return markKept
}

// changeOf tells what mark = mark &^ mask ^ value does to a bit.
func changeOf(value, mask, bit uint32) markChange {
	switch {
	case (bit&^mask^value)&bit == 0:
		return markLost
	case value&bit != 0:
		return markForged
	default:
		return markKept
	}
}
