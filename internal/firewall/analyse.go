package firewall

import (
	"fmt"
	"strings"

	"github.com/portway-dev/portway/internal/shorten"
)

// view is a table and who may change it.
type view struct {
	*table
	// tool is the program of iptables that the table belongs to; nil: nobody's but its
	// owner's.
	tool *tool
	// foreign says that the tool cannot be used on it: iptables shows no table that
	// holds rules of nft.
	foreign bool
	// missing is why the tool cannot be used at all.
	missing string
}

// notInstalled is the usual reason.
const notInstalled = "is not installed where the agent runs"

// packets are those of a list that pass the table.
func (t *table) packets(list []*packet) []*packet {
	var out []*packet
	for _, p := range list {
		if t.family == "inet" || p.v6 == (t.family == "ip6") {
			out = append(out, p)
		}
	}
	return out
}

// stops is where flows may end that enter at a base chain.
func (t *table) stops(base *chain, list []*packet) *stop {
	var found *stop
	for _, p := range t.packets(list) {
		if s := t.walk(base, p); s != nil && (found == nil || s.certain && !found.certain) {
			found = s
		}
	}
	return found
}

// concerned says which flows a hook sees.
var concerned = map[hook]string{
	forward: "flows to endpoints",
	input:   "flows to endpoints at addresses of this node",
	output:  "flows from this node to Gateways",
}

// findings tells what a table does to our flows.
func (v *view) findings(p profile, mark uint32, to *destinations) []Finding {
	var out []Finding
	for _, base := range v.chains {
		if concerned[base.hook] == "" || base.nat {
			continue
		}
		if s := v.stops(base, p.packets(base.hook, mark, to)); s != nil {
			out = append(out, v.dropFinding(base, s, mark))
		}
	}
	return append(out, v.markFindings(p, mark, to)...)
}

// named is the table as people find it.
func (v *view) named() string {
	if v.tool != nil && !v.foreign {
		return fmt.Sprintf("%s table %s", v.tool, v.name)
	}
	return fmt.Sprintf("nftables table %s %s", v.family, v.name)
}

// ruleText names a rule.
func ruleText(r *rule) string {
	text := `"` + shorten.To(r.text, 100) + `"`
	if r.handle != 0 {
		text += fmt.Sprintf(" (handle %d)", r.handle)
	}
	return text
}

func (v *view) dropFinding(base *chain, s *stop, mark uint32) Finding {
	f := Finding{Reason: ReasonDrops}
	verb := "drops"
	if !s.certain {
		f.Reason, verb = ReasonMayDrop, "may drop"
	}
	cause := "its policy " + verb
	if s.rule != nil {
		cause = fmt.Sprintf("rule %s %s", ruleText(s.rule), verb)
		if s.chain != base.name {
			cause = fmt.Sprintf("rule %s of chain %s %s", ruleText(s.rule), s.chain, verb)
		}
	}
	f.Message = fmt.Sprintf("%s, chain %s: %s %s; no other table's accept undoes that; %s",
		v.named(), base.name, cause, concerned[base.hook], v.cure(base, mark))
	if v.missing != "" {
		f.Reason = ReasonNotOpened
		f.Message += fmt.Sprintf(" (the agent does so itself where it finds %s)", v.tool)
	}
	return f
}

// cure says how our flows, and nothing else, are let pass a base chain.
func (v *view) cure(base *chain, mark uint32) string {
	if v.family == "inet" && v.name == "firewalld" { // it owns its table, and makes it anew
		return "set StrictForwardPorts=no in /etc/firewalld/firewalld.conf and run: firewall-cmd --reload"
	}
	const keep = "for now and, in the configuration, for good run: "
	if v.tool != nil && !v.foreign {
		return keep + fmt.Sprintf("%s -I %s -m connmark --mark %#[3]x/%#[3]x -j ACCEPT", v.tool, base.name, mark)
	}
	return keep + fmt.Sprintf("nft insert rule %s %s %s ct mark and %#[4]x == %#[4]x accept", v.family, v.name, base.name, mark)
}

// translation is the priority of our destination translation: what comes before it
// may do what it likes with the mark of a flow's first packet.
const translation = -101

// markFindings tells of rules that take our bit away, or give it to others.
func (v *view) markFindings(p profile, mark uint32, to *destinations) []Finding {
	changes := map[*rule]markChange{}
	for _, base := range v.chains {
		if base.hook == noHook {
			continue
		}
		for _, packet := range v.packets(p.packets(forward, mark, to)) {
			packet.hook = base.hook
			v.noteMarks(changes, base, packet)
		}
	}
	var out []Finding
	for _, c := range v.chains {
		for i := range c.rules {
			if change := changes[&c.rules[i]]; change != markKept {
				out = append(out, v.markFinding(c, &c.rules[i], change, mark))
			}
		}
	}
	return out
}

// noteMarks follows one of our packets, and one like it that is not ours.
func (v *view) noteMarks(changes map[*rule]markChange, base *chain, packet *packet) {
	if base.nat && packet.established {
		return
	}
	early := base.priority < translation && (base.hook == prerouting || base.hook == output)
	for _, packet.bare = range []bool{true, false} {
		if early && !packet.established && !packet.bare {
			continue
		}
		w := v.walker(packet)
		w.enter(base)
		for r, change := range w.changes {
			if packet.bare == (change == markForged) {
				changes[r] = max(changes[r], change)
			}
		}
	}
}

func (v *view) markFinding(c *chain, r *rule, change markChange, mark uint32) Finding {
	what := fmt.Sprintf("clears bit %#x of the conntrack mark, by which our flows are known: those to endpoints on other nodes may break", mark)
	if change == markForged {
		what = fmt.Sprintf("sets bit %#x of the conntrack mark on flows that are not ours, which are then taken for ours", mark)
	}
	cure := fmt.Sprintf("ct mark set ct mark and %#x or VALUE", mark)
	if strings.Contains(r.text, "CONNMARK") {
		cure = "--set-xmark VALUE/MASK, or --save-mark with --ctmask MASK"
	}
	return Finding{Reason: ReasonMark, Message: fmt.Sprintf(
		"%s, chain %s: rule %s %s; let it leave the bit alone (%s), or start all agents with --ct-mark of a free bit",
		v.named(), c.name, ruleText(r), what, cure)}
}
