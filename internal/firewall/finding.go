package firewall

import (
	"cmp"
	"slices"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/shorten"
	"github.com/portway-dev/portway/rules"
)

// Finding is something of this host, not ours to change, that flows suffer from.
type Finding struct {
	Reason  string // in CamelCase, for programs
	Message string // what, where, and the cure; at most maxMessage bytes
	// Owner has the Gateway and listener that are concerned; without, all flows are.
	Owner rules.Owner
}

// Reasons of findings.
const (
	// ReasonDrops: rules of others drop our flows.
	ReasonDrops = v1alpha1.FindingFirewallDrops
	// ReasonMayDrop: they drop some of them, or all, depending on what cannot be known.
	ReasonMayDrop = "FirewallMayDrop"
	// ReasonNotOpened: iptables drops our flows, and the program to let them pass is
	// missing or fails.
	ReasonNotOpened = "FirewallNotOpened"
	// ReasonMark: rules of others overwrite the conntrack mark.
	ReasonMark = "ConntrackMarkOverwritten"
	// ReasonPortInUse: a process of the host listens where a Frontend does.
	ReasonPortInUse = v1alpha1.FindingPortInUse
	// ReasonHostPort: other rules translate the port of a Frontend.
	ReasonHostPort = v1alpha1.FindingHostPort
	// ReasonLoopback: a Frontend has an address that nothing is answered at.
	ReasonLoopback = "LoopbackAddress"
	// ReasonInvalid: connection tracking takes many packets for invalid.
	ReasonInvalid = "ConntrackInvalid"
	// ReasonReversePath: the host drops what arrives by another way than it answers.
	ReasonReversePath = "StrictReversePathFilter"
	// ReasonConntrackFull: there is hardly room for new flows.
	ReasonConntrackFull = "ConntrackTableFull"
	// ReasonBridge: answers between pods on a bridge pass the rules by.
	ReasonBridge = "BridgeNotFiltered"
)

// maxMessage is what a NodeReport takes, in bytes.
const maxMessage = 512

// tidy puts findings into an order that depends on nothing else, each once.
func tidy(findings []Finding) []Finding {
	for i := range findings {
		findings[i].Message = shorten.To(findings[i].Message, maxMessage)
	}
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(findings)
}
