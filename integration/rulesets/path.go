package main

import (
	"fmt"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// path is the way of one packet through a table, found in what the kernel lists.
type path struct {
	*listing
	packet   rules.Packet
	decision rules.Decision
	family   string // the last letter of the names of sets: 4 or 6
	service  string // the packet's key in them
	out      strings.Builder
	reached  map[netip.AddrPort]bool
}

// draw draws the path of a packet. It is an error when the kernel leads elsewhere than
// the reference says.
func (l *listing) draw(state *rules.State, p rules.Packet, fromNode bool) (string, error) {
	d := &path{
		listing: l, packet: p, decision: state.Match(p), family: "4",
		service: fmt.Sprintf("%s . %s . %d", p.Dst.Addr(), p.Protocol, p.Dst.Port()),
		reached: map[netip.AddrPort]bool{},
	}
	if p.Dst.Addr().Is6() {
		d.family = "6"
	}
	base := "prerouting"
	if fromNode {
		base = "output"
	}
	listener, ok := l.byName["listeners"+d.family].byKey[d.service]
	if !ok || d.decision.Frontend == nil {
		return "", fmt.Errorf("no listener %s", d.service)
	}
	fmt.Fprintf(&d.out, "%s ──► %s %s %d   (%s)\n │\n", p.Src.Addr(), p.Dst.Addr(), p.Protocol, p.Dst.Port(), listener.comment)
	hook, _, _ := strings.Cut(l.byName[base].body, ";")
	d.step(" ├─", base, strings.TrimSpace(hook))
	d.step(" ├─", "services", fmt.Sprintf("@listeners%s [ %s ]", d.family, d.service))
	if err := d.chain(strings.TrimPrefix(listener.value, "goto ")); err != nil {
		return "", err
	}
	for _, o := range d.decision.Outcomes {
		if !d.reached[o.Endpoint] {
			return "", fmt.Errorf("nothing leads to %s", o.Endpoint)
		}
	}
	if err := d.draining(); err != nil {
		return "", err
	}
	return d.out.String(), nil
}

func (d *path) step(branch, chain, does string) {
	fmt.Fprintf(&d.out, "%s %-14s %s\n", branch, chain, does)
}

// chain draws what the chain does that a listener leads to.
func (d *path) chain(name string) error {
	switch name {
	case "refuse":
		refused, err := d.outcome(netip.AddrPort{})
		if err != nil {
			return err
		}
		d.step(" └─", "refuse", fmt.Sprintf("%s   %s", d.refusal(), percent(refused.Share)))
		return nil
	case "draw":
		refused, err := d.outcome(netip.AddrPort{})
		if err != nil {
			return err
		}
		d.step(" ├─", "draw", fmt.Sprintf("@refused%s [ %s . numgen random mod %d ]", d.family, d.service, rules.DrawRange))
		for _, e := range d.byName["refused"+d.family].elements {
			if numbers, ours := strings.CutPrefix(e.key, d.service+" . "); ours {
				fmt.Fprintf(&d.out, " │   ├─ %s ──► refuse: %s   %s\n", numbers, d.refusal(), percent(refused.Share))
			}
		}
		drawn := d.byName["drawn"+d.family].byKey[d.service]
		fmt.Fprintf(&d.out, " │   └─ any other: @drawn%s [ %s ]\n", d.family, d.service)
		return d.slots(strings.TrimPrefix(drawn.value, "goto "))
	default:
		return d.slots(name)
	}
}

// picks is how a chain picks its slot.
var picks = regexp.MustCompile(`(numgen random mod (\d+)|jhash .* mod (\d+) seed \S+) map @((?:wide)?slots)([46])`)

// manySlots is from how many slots on their numbers tell nothing any more.
const manySlots = 16

// slots draws what becomes of the flows of each slot, those of one endpoint together.
func (d *path) slots(chain string) error {
	b := d.byName[chain]
	if b == nil {
		return fmt.Errorf("there is no chain %q", chain)
	}
	var pick []string
	for _, m := range picks.FindAllStringSubmatch(b.body, -1) {
		if m[5] == d.family {
			pick = m
		}
	}
	if pick == nil {
		return fmt.Errorf("chain %s picks no slot", chain)
	}
	count, err := strconv.Atoi(pick[2] + pick[3])
	if err != nil {
		return err
	}
	slots := pick[4] + d.family
	d.step(" └─", chain, fmt.Sprintf("@%s [ %s . %s ]", slots, d.service, pick[1]))
	var order []element // the first of each endpoint; without a value: refused
	numbers := map[string][]string{}
	for i := range count {
		e := d.byName[slots].byKey[fmt.Sprintf("%s . 0x%08x", d.service, i)]
		if numbers[e.value] == nil {
			order = append(order, e)
		}
		numbers[e.value] = append(numbers[e.value], strconv.Itoa(i))
	}
	rows := make([][]string, 0, len(order))
	for _, e := range order {
		which := "slot " + strings.Join(numbers[e.value], ", ")
		switch n := len(numbers[e.value]); {
		case count > manySlots:
			which = fmt.Sprintf("%d slots", n)
		case n > 1:
			which = strings.Replace(which, "slot", "slots", 1)
		}
		row, err := d.row(e)
		if err != nil {
			return err
		}
		rows = append(rows, slices.Concat([]string{which}, row))
	}
	d.tree(rows)
	return nil
}

// row is the rest of a line: where a slot leads, its share, and the source seen there.
func (d *path) row(slot element) ([]string, error) {
	if slot.value == "" {
		o, err := d.outcome(netip.AddrPort{})
		if err != nil {
			return nil, err
		}
		return []string{"no element ──► refuse: " + d.refusal(), "", percent(o.Share), ""}, nil
	}
	addr, port, _ := strings.Cut(slot.value, " . ")
	endpoint, err := netip.ParseAddrPort(netJoin(addr, port))
	if err != nil {
		return nil, err
	}
	o, err := d.outcome(endpoint)
	if err != nil {
		return nil, err
	}
	masquerade, why := d.postrouting(endpoint)
	if masquerade != o.Masquerade {
		return nil, fmt.Errorf("%s: postrouting masquerades: %t, the reference: %t", endpoint, masquerade, o.Masquerade)
	}
	return []string{"──► " + endpoint.String(), slot.comment, percent(o.Share), why}, nil
}

func netJoin(addr, port string) string {
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	return addr + ":" + port
}

// outcome is what the reference says of an endpoint; the zero value is the refusal.
func (d *path) outcome(endpoint netip.AddrPort) (rules.Outcome, error) {
	for _, o := range d.decision.Outcomes {
		if o.Endpoint == endpoint {
			d.reached[endpoint] = true
			return o, nil
		}
	}
	return rules.Outcome{}, fmt.Errorf("the kernel leads to %s and should not", endpoint)
}

// postrouting is what the chain of this name does, from its sets.
func (d *path) postrouting(endpoint netip.AddrPort) (masquerade bool, text string) {
	addr := endpoint.Addr().String()
	if _, hairpin := d.byName["hairpin"+d.family].byKey[d.packet.Src.Addr().String()+" . "+addr]; hairpin {
		return true, "@hairpin" + d.family + ": masquerade, it sees this node"
	}
	local := d.byName["local"+d.family]
	if _, here := local.byKey[local.keyOf(addr, d.packet.Protocol.String(), strconv.Itoa(int(endpoint.Port())))]; here {
		return false, fmt.Sprintf("@local%s: it sees %s", d.family, d.packet.Src.Addr())
	}
	return true, "masquerade: it sees this node"
}

// refusal is what chain refuse does with the packet.
func (d *path) refusal() string {
	for line := range strings.Lines(d.byName["refuse"].body) {
		action, conditional := strings.CutPrefix(strings.TrimSpace(line), "meta l4proto ")
		if !conditional {
			return action
		}
		if action, ours := strings.CutPrefix(action, d.packet.Protocol.String()+" "); ours {
			return action
		}
	}
	return "accept"
}

// draining adds the endpoints that only keep what they have.
func (d *path) draining() error {
	for _, b := range d.decision.Frontend.Backends {
		for _, e := range b.Draining {
			key := fmt.Sprintf("%s . %s . %d", e.Addr(), d.packet.Protocol, e.Port())
			if _, known := d.byName["endpoints"+d.family].byKey[key]; !known {
				return fmt.Errorf("%s drains and is not in @endpoints%s", e, d.family)
			}
			fmt.Fprintf(&d.out, "     no slot ──► %s   %s   gets no new flow, keeps those it has\n", e, b.Ref)
		}
	}
	return nil
}

// tree draws rows of up to five cells as branches, in columns.
func (d *path) tree(rows [][]string) {
	var widths [5]int
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for i, row := range rows {
		branch := "├─"
		if i == len(rows)-1 {
			branch = "└─"
		}
		line := "     " + branch
		for column, cell := range row {
			if widths[column] > 0 {
				line += fmt.Sprintf(" %-*s ", widths[column], cell)
			}
		}
		d.out.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// percent is a share with at most two decimals.
func percent(share *big.Rat) string {
	text := new(big.Rat).Mul(share, big.NewRat(100, 1)).FloatString(2)
	return strings.TrimSuffix(strings.TrimSuffix(text, "0"), ".0") + " %"
}
