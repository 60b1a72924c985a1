package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

func (g *Gateway) acceptedCondition() Condition {
	const accepted = gatewayv1.GatewayConditionAccepted
	if g.fault.exists() {
		return g.fault.condition(string(accepted))
	}
	if invalid := g.Parameters.fault; invalid.exists() {
		if g.Accepted {
			invalid.message += "; until then the Gateway is served as before, at the addresses it has"
		}
		return invalid.condition(string(accepted))
	}
	summary, complete := summarize(g.own, g.excess)
	status := metav1.ConditionTrue
	if !g.Accepted {
		status = metav1.ConditionFalse
	}
	if complete && g.Accepted {
		return newCondition(accepted, status, gatewayv1.GatewayReasonAccepted, summary)
	}
	return newCondition(accepted, status, gatewayv1.GatewayReasonListenersNotValid, summary)
}

func classNotAccepted(class *GatewayClass) fault {
	return faultf(gatewayv1.GatewayReasonInvalid, "GatewayClass %s is not accepted (%s); see its status", class.Source.Name, class.Conditions[0].Reason)
}

func addressTypeUnsupported(index int, kind gatewayv1.AddressType) fault {
	return faultf(gatewayv1.GatewayReasonUnsupportedAddress,
		"spec.addresses[%d]: type %s is not supported; use IPAddress", index, kind)
}

const (
	messageProgrammed      = "every node serves the current configuration"
	messageNotEvaluated    = "not evaluated: no node was asked"
	messageListenerInvalid = "the listener is not accepted"
)

func gatewayNotProgrammed(reason gatewayv1.GatewayConditionReason, message string) Condition {
	return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionFalse, reason, message)
}

func (g *Gateway) addressNotUsable(index int) string {
	message, hint := fmt.Sprintf("spec.addresses[%d]: %q is not an address this Gateway can have; use another one or remove the entry",
		index, g.Source.Spec.Addresses[index].Value), g.Assignment.Message
	if addr, err := netip.ParseAddr(g.Source.Spec.Addresses[index].Value); err == nil && g.Parameters.Mode == v1alpha1.AddressModePool {
		if _, why := g.Parameters.Admits(addr); why != "" {
			hint = why
		}
	}
	if g.LoadBalancer != nil {
		hint = g.LoadBalancer.choosesItself()
	}
	return withHint(message, hint)
}

func (g *Gateway) addressNotAssigned() string {
	if !g.assigned {
		return "waiting for addresses to be assigned"
	}
	message, hint := "no address could be assigned", g.Assignment.Message
	if family := g.lacksFamily(); family != "" && !g.Assignment.empty() {
		return withHint(fmt.Sprintf("no %s address could be assigned", family), cmp.Or(hint, g.LoadBalancer.waitingForProvider()))
	}
	if g.Parameters.Mode != v1alpha1.AddressModePool {
		return withHint(message, hint)
	}
	if missing := g.Parameters.Wants(g.Assignment.Addresses); len(missing) > 0 {
		message = fmt.Sprintf("no %s address could be assigned", missing[0])
		if hint == "" && len(g.Parameters.PoolsFor(missing[0])) == 0 {
			hint = g.Parameters.Lacks(missing[0])
		}
	}
	return withHint(message, hint)
}

func withHint(message, hint string) string {
	if hint == "" {
		return message
	}
	return message + ": " + hint
}

// waitingFor reads "3/5 nodes; waiting for node-b (last error: …), node-d".
func (g *Gateway) waitingFor(behind []NodeReport, nodes int) (string, *Waiting) {
	const shown, errorLength = 3, 256
	names, problems := make([]string, min(len(behind), shown)), []string(nil)
	for i := range names {
		node := &behind[i]
		names[i] = node.Node
		if problem := cmp.Or(node.Unheard, node.Errors[g.Key]); problem != "" {
			problem = truncate(problem, errorLength)
			problems = append(problems, problem)
			names[i] += fmt.Sprintf(" (last error: %s)", problem)
		}
	}
	slices.Sort(problems)
	waiting := strings.Join(names, ", ")
	if more := len(behind) - shown; more > 0 {
		waiting += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%d/%d nodes; waiting for %s", nodes-len(behind), nodes, waiting), &Waiting{slices.Compact(problems)}
}

// AgentNotReported says of a node that its agent has not said anything yet.
func AgentNotReported() string { return "its agent has not reported since the node booted" }

// AgentSilent says of a node that its agent has not renewed its Lease for a time, a
// time.Duration.
func AgentSilent(lease string, timeout fmt.Stringer) string {
	return fmt.Sprintf("its agent has been silent for more than %s; if it runs none any more, delete Lease %s", timeout, lease)
}

// AgentNotUnderstood says of a node that its agent reports in another version.
func AgentNotUnderstood(version, known int32) string {
	return fmt.Sprintf("its agent reports in version %d, this controller reads version %d; run the same release on both", version, known)
}

// everyNodeServes names the nodes that do so unattended, a few: with their number it
// would be another message for every Gateway each time that it changes.
func everyNodeServes(silent []string) string {
	const shown = 3
	if len(silent) == 0 {
		return messageProgrammed
	}
	names := strings.Join(silent[:min(len(silent), shown)], ", ")
	if len(silent) > shown {
		names += " and others"
	}
	return fmt.Sprintf("%s; no news from the agent of %s, whose rules stand; if a node runs none any more, delete its Lease agent-<node>", messageProgrammed, names)
}
