package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/portway-dev/portway/rules"
)

// dumpCommands show all that decides what happens to a packet.
var dumpCommands = [][]string{
	{"nft", "list", "ruleset"},
	{"conntrack", "-L"},
	{"ip", "-brief", "address"},
	{"ip", "route"},
	{"ip", "-6", "route"},
}

// Dump returns the ruleset, the tracked connections, the addresses and the routes
// of the namespace, as the tools for them print it.
func (n *Namespace) Dump() string {
	var b strings.Builder
	for _, command := range dumpCommands {
		fmt.Fprintf(&b, "--- %s: %s\n", n.name, strings.Join(command, " "))
		out, err := n.Output(command[0], command[1:]...)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			fmt.Fprintf(&b, "(%s is not installed)\n", command[0])
		case err != nil:
			fmt.Fprintf(&b, "%v\n", err)
		default:
			brief, chains, sets := Brief(out)
			b.WriteString(brief)
			if chains+sets > 0 {
				fmt.Fprintf(&b, "(not shown: %d chains for other slot counts, %d empty sets)\n", chains, sets)
			}
		}
	}
	return b.String()
}

// DumpState returns a State as YAML: its exclusive addresses, its Frontends in the order of
// their keys.
func DumpState(s *rules.State) string {
	var b strings.Builder
	if exclusive := s.Exclusive(); len(exclusive) > 0 {
		fmt.Fprintf(&b, "exclusive: [%s]\n", strings.ReplaceAll(strings.Trim(fmt.Sprintf("%q", exclusive), "[]"), " ", ", "))
	}
	for _, key := range s.Keys() {
		f := s.Frontend(key)
		fmt.Fprintf(&b, "%q:\n  owner: {gateway: %q, listener: %q, route: %q}\n  select: %s\n",
			key, f.Owner.Gateway, f.Owner.Listener, f.Owner.Route, f.Select)
		if len(f.Backends) == 0 {
			b.WriteString("  backends: []\n")
			continue
		}
		b.WriteString("  backends:\n")
		for _, backend := range f.Backends {
			fmt.Fprintf(&b, "  - {ref: %q, weight: %d, endpoints: [", backend.Ref, backend.Weight)
			for i, e := range backend.Endpoints {
				if i > 0 {
					b.WriteString(", ")
				}
				fmt.Fprintf(&b, "{addr: %q, name: %q, local: %t}", e.Addr, e.Name, e.Local)
			}
			b.WriteString("]}\n")
		}
	}
	return b.String()
}
