package topology

import (
	"cmp"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// All wording of conditions is in this file and those called condition_*: what is
// wrong, where, and what would help. Messages of conditions that are fine never vary, so that nothing
// is written when nothing changed.

// Names that Gateway API v1.6 has no constants for.
const (
	// ConditionSuperseded is ours: another route carries the traffic of a listener
	// this route is attached to. Absent otherwise.
	ConditionSuperseded = "portway.dev/Superseded"
	// ReasonOlderRouteWins is why: a listener serves its oldest route only.
	ReasonOlderRouteWins = "OlderRouteWins"

	reasonParentNotProgrammed gatewayv1.ListenerSetConditionReason = "ParentNotProgrammed"
)

// A fault is why something is rejected; the zero value is none.
type fault struct{ reason, message string }

func (f fault) exists() bool { return f.reason != "" }

func faultf[R ~string](reason R, format string, args ...any) fault {
	return fault{reason: string(reason), message: fmt.Sprintf(format, args...)}
}

func newCondition[T, R ~string](kind T, status metav1.ConditionStatus, reason R, message string) Condition {
	return Condition{Type: string(kind), Status: status, Reason: string(reason), Message: message}
}

func (f fault) condition(kind string) Condition {
	return newCondition(kind, metav1.ConditionFalse, f.reason, f.message)
}

// setConditions fills in every condition that does not depend on Reports.
func (g *Graph) setConditions() {
	for _, gateway := range g.Gateways {
		gateway.Conditions = []Condition{gateway.acceptedCondition()}
		gateway.Conditions = append(gateway.Conditions, gateway.record()...)
		if retained := gateway.retentions(); len(retained) > 0 {
			gateway.Conditions = append(gateway.Conditions, gateway.retainedCondition(retained))
		}
		for _, listener := range gateway.own {
			listener.setConditions()
		}
	}
	for _, set := range g.ListenerSets {
		set.Conditions = []Condition{set.acceptedCondition()}
		for _, listener := range set.Listeners {
			listener.setConditions()
		}
	}
	for _, route := range g.Routes {
		resolved := route.resolvedCondition()
		for _, parent := range route.Parents {
			parent.setConditions(route, resolved)
		}
	}
}

// truncate cuts a text that others wrote to n bytes, so that a few of them fit
// into a condition (at most 32768 bytes).
func truncate(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

// summarize says of the listeners of a Gateway or ListenerSet which are accepted
// and which not (GatewaySpec.Listeners: the message SHOULD clearly say so).
func summarize(listeners []*Listener, excess int) (message string, complete bool) {
	const shown = 8
	var accepted, rejected []string
	for _, l := range listeners {
		if l.Valid {
			accepted = append(accepted, string(l.Name))
		} else {
			rejected = append(rejected, fmt.Sprintf("%s (%s)", cmp.Or(l.Name, "(no name)"), l.fault.reason))
		}
	}
	switch {
	case len(listeners) == 0:
		return "spec.listeners is empty; add a listener", false
	case len(rejected) == 0 && excess == 0:
		return "all listeners are accepted", true
	}
	var parts []string
	if len(rejected) > 0 {
		parts = append(parts, "listeners not accepted: "+atMost(shown, rejected))
	}
	if len(accepted) > 0 {
		parts = append(parts, "accepted: "+atMost(shown, accepted))
	}
	if excess > 0 {
		parts = append(parts, fmt.Sprintf("spec.listeners has %d entries more than the %d allowed, these are ignored", excess, maxListeners))
	}
	return strings.Join(parts, "; "), false
}

// atMost joins the first n items and counts the rest.
func atMost(n int, items []string) string {
	if len(items) <= n {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:n], ", "), len(items)-n)
}
