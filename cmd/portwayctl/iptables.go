package main

import (
	"strings"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/iptables"
)

// renderIPTables returns the input of iptables-restore and ip6tables-restore for a State,
// or of one of them, each behind a comment that says whose it is.
func renderIPTables(state *rules.State, family string) (string, error) {
	var out []string
	for _, f := range []struct {
		flag, name, command string
		ipv6                bool
	}{{familyIPv4, "IPv4", "iptables-restore", false}, {familyIPv6, "IPv6", "ip6tables-restore", true}} {
		if family != "" && family != f.flag {
			continue
		}
		text, err := iptables.Render(state, iptables.DefaultConfig(), f.ipv6)
		if err != nil {
			return "", err
		}
		out = append(out, "# "+f.name+", for "+f.command+" --noflush\n"+text)
	}
	return strings.Join(out, "\n"), nil
}
