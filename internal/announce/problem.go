package announce

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
)

// Reasons of Problems.
const (
	ReasonInterfaces = "Interfaces" // they cannot be read, or sockets cannot be opened
	ReasonCapability = "Capability" // this process may not open packet sockets
	ReasonKey        = "MembersKey" // the key file cannot be followed
	ReasonMissing    = "MembersMissing"
	ReasonSilent     = "MemberSilent" // it answers the network, but not members
)

// Problem is something that somebody has to see to.
type Problem struct {
	Reason, Message string
}

// missingFor is how long an expected member may be missing before it is a problem; a node
// that is restarted takes less.
const missingFor = 30 * time.Second

// absent are the expected members that are missing, each with since when it is.
type absent map[netip.AddrPort]time.Time

// next is what it becomes when these are missing.
func (a absent) next(missing []netip.AddrPort, now time.Time) absent {
	out := make(absent, len(missing))
	for _, m := range missing {
		since, known := a[m]
		if !known {
			since = now
		}
		out[m] = since
	}
	return out
}

// long lists those that are missing for longer than a restart takes, in order.
func (a absent) long(now time.Time) []string {
	var list []string
	for _, m := range slices.SortedFunc(maps.Keys(a), netip.AddrPort.Compare) {
		if now.Sub(a[m]) >= missingFor {
			list = append(list, m.Addr().String())
		}
	}
	return list
}

// Problems returns what keeps this node from announcing as it should, with the cure.
func (a *Announcer) Problems() []Problem {
	var out []Problem
	add := func(reason, format string, args ...any) {
		out = append(out, Problem{reason, fmt.Sprintf(format, args...)})
	}
	var capability *layer2.CapabilityError
	switch err := a.responder.Err(); {
	case errors.As(err, &capability):
		add(ReasonCapability, "%v", err)
	case err != nil:
		add(ReasonInterfaces, "layer 2: %v", err)
	}
	if err := a.members.Err(); err != nil {
		add(ReasonKey, "%v; the last good keys stay in use", err)
	}
	port := a.config.Bind.Port()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(a.doubts)) {
		if d := a.doubts[node]; d.asked && !d.over {
			add(ReasonSilent, "node %s does not answer members on port %d (TCP and UDP), but still answers for its addresses, which therefore stay with it; "+
				"open the port between nodes", node, port)
		}
	}
	if list := a.absent.long(time.Now()); len(list) > 0 {
		hint := ""
		if a.members.Refused() > 0 {
			hint = "; messages arrive that no key opens: compare the keys"
		}
		add(ReasonMissing, "no member at %s: each of these nodes may take addresses for itself; is an agent running there, and is port %d open (TCP and UDP)?%s",
			strings.Join(list, ", "), port, hint)
	}
	return out
}
