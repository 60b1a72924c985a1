package nftables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/portway-dev/portway/rules"
)

// Render returns, as text, the table that Program would make of the State in an
// empty kernel. It looks as "nft list table inet NAME" prints it (nft 1.0.6), with
// the elements in the order of their keys, one on a line.
func Render(state *rules.State, c Config) (string, error) {
	return render(state, c, false)
}

// RenderBrief is Render without the chains of the ladder that no listener of the
// State leads to; the table holds all of them nevertheless.
func RenderBrief(state *rules.State, c Config) (string, error) {
	return render(state, c, true)
}

func render(state *rules.State, c Config, brief bool) (string, error) {
	if err := c.Validate(); err != nil {
		return "", fmt.Errorf("nftables: %w", err)
	}
	if err := state.Validate(); err != nil {
		return "", fmt.Errorf("nftables: %w", err)
	}
	r := &renderer{layout: newLayout(c, everything), used: make(map[string]bool)}
	r.collect(state)
	for _, set := range r.sets {
		r.set(set)
	}
	for _, ch := range r.chains {
		if !brief || r.used[ch.Name] || !ladderChain(ch.Name) {
			r.chain(ch)
		}
	}
	return "table inet " + c.Table + " {\n" + strings.TrimPrefix(r.text.String(), "\n") + "}\n", nil
}

// ladderChain reports whether a chain is one of those that pick a slot.
func ladderChain(name string) bool { return chainIDs[name] >= chainClient }

type renderer struct {
	*layout
	text     strings.Builder
	elements [setCount][]string
	used     map[string]bool // chains that an element leads to
}

// collect compiles every Frontend as for an empty kernel.
func (r *renderer) collect(state *rules.State) {
	wanted := make(map[member]struct{})
	for _, key := range state.Keys() {
		p := compile(key, state.Frontend(key), nil)
		pl := newPlan(key, nil, p)
		for _, o := range slices.Concat(pl.slots, pl.switches) {
			r.elements[o.set] = append(r.elements[o.set], elementText(o))
			r.used[o.to.String()] = true
		}
		for _, id := range p.members {
			wanted[id] = struct{}{}
		}
	}
	for _, addr := range state.Exclusive() {
		o := exclusiveOp(addr, false)
		r.elements[o.set] = append(r.elements[o.set], elementText(o))
	}
	for _, one := range slices.SortedFunc(maps.Keys(wanted), member.compare) {
		key := one.key()
		r.elements[one.set] = append(r.elements[one.set], elementText(op{set: one.set, key: &key}))
	}
}

// elementText is an element that is added, as nft prints it.
func elementText(o op) string {
	service := fmt.Sprintf("%s . %s . %s", o.key.Addr, o.key.Protocol, portText(o.key.Port))
	switch o.set.kind() {
	case kindEndpoints:
		return service
	case kindLocal, kindExclusive:
		return o.key.Addr.String()
	case kindHairpin:
		return fmt.Sprintf("%[1]s . %[1]s", o.key.Addr)
	case kindListeners:
		return fmt.Sprintf("%s counter packets 0 bytes 0 comment %q : goto %s", service, o.comment, o.to)
	case kindDrawn:
		return fmt.Sprintf("%s comment %q : goto %s", service, o.comment, o.to)
	case kindRefused:
		numbers := "0x00000000"
		if last := o.n - 1; last > 0 {
			numbers += fmt.Sprintf("-0x%08x", last)
		}
		return fmt.Sprintf("%s . %s comment %q", service, numbers, o.comment)
	default:
		to := o.slot.Endpoint.Addr
		return fmt.Sprintf("%s . 0x%08x comment %q : %s . %s", service, o.n, slotComment(o.slot), to.Addr(), portText(to.Port()))
	}
}

func portText(port uint16) string { return fmt.Sprint(port) }

func (r *renderer) set(s *nftables.Set) {
	kind, types := "set", s.KeyType.Name
	if s.IsMap {
		kind, types = "map", types+" : "+s.DataType.Name
	}
	fmt.Fprintf(&r.text, "\n\t%s %s {\n\t\ttype %s\n", kind, s.Name, types)
	if s.Interval {
		r.text.WriteString("\t\tflags interval\n")
	}
	if s.Counter {
		r.text.WriteString("\t\tcounter\n")
	}
	fmt.Fprintf(&r.text, "\t\tcomment \"%s\"\n", s.Comment)
	if elements := r.elements[s.ID-1]; len(elements) > 0 {
		fmt.Fprintf(&r.text, "\t\telements = { %s }\n", strings.Join(elements, ",\n\t\t\t     "))
	}
	r.text.WriteString("\t}\n")
}

func (r *renderer) chain(c chain) {
	fmt.Fprintf(&r.text, "\n\tchain %s {\n", c.Name)
	if c.Type != "" {
		fmt.Fprintf(&r.text, "\t\ttype %s hook %s priority %s; policy accept;\n", c.Type, hookName(*c.Hooknum), priorityName(*c.Hooknum, *c.Priority))
	}
	for _, rule := range c.rules {
		r.text.WriteString("\t\t" + rule.text)
		if rule.comment != "" {
			fmt.Fprintf(&r.text, " comment %q", rule.comment)
		}
		r.text.WriteString("\n")
	}
	r.text.WriteString("\t}\n")
}

func hookName(hook nftables.ChainHook) string {
	switch hook {
	case *nftables.ChainHookPrerouting:
		return "prerouting"
	case *nftables.ChainHookOutput:
		return "output"
	default:
		return "postrouting"
	}
}

// priorityName is the priority relative to the names that nft has for the hook.
func priorityName(hook nftables.ChainHook, p nftables.ChainPriority) string {
	switch {
	case p == *nftables.ChainPriorityFilter:
		return "filter"
	case hook == *nftables.ChainHookPrerouting:
		return fmt.Sprintf("dstnat - %d", *nftables.ChainPriorityNATDest-p)
	case hook == *nftables.ChainHookPostrouting && p == *nftables.ChainPriorityNATSource:
		return "srcnat"
	}
	return fmt.Sprint(int32(p))
}
