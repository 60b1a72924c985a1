package iptables

import (
	"fmt"
	"net/netip"

	"github.com/portway-dev/portway/rules"
)

// Render returns the input of iptables-restore or, for IPv6, ip6tables-restore that makes
// of an empty kernel what Program would make of the State, where nothing is lacking.
func Render(state *rules.State, c Config, ipv6 bool) (string, error) {
	if err := c.Validate(); err != nil {
		return "", fmt.Errorf("iptables: %w", err)
	}
	if err := state.Validate(); err != nil {
		return "", fmt.Errorf("iptables: %w", err)
	}
	t := &target{
		ordered: ordered(c, everything, ipv6), programs: make(map[rules.FrontendKey]*program),
		exclusive: make(map[netip.Addr]bool),
	}
	for _, addr := range state.Exclusive() {
		if addr.Is6() == ipv6 {
			t.exclusive[addr] = true
		}
	}
	for key, f := range state.All() {
		if key.Addr.Is6() == ipv6 {
			t.programs[key] = compile(key, f, c, true)
		}
	}
	all := t.changes(newImage())
	sections := all.with(all.units)
	for _, last := range all.tidy {
		s := of(sections, last.table)
		s.lines = append(s.lines, last.lines...)
	}
	for _, j := range all.jumps {
		s := of(sections, j.table)
		s.lines = append(s.lines, "-A "+j.from+" "+j.rule())
	}
	return string(payload(sections)), nil
}
