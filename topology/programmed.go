package topology

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// programmed judges a Gateway by what the nodes have proven; nodes are sorted by
// name. What the Gateway itself lacks comes first, since no node could help.
// The digest decides and not the generation: an edited route moves the one
// without the other.
func (g *Gateway) programmed(r Reports, nodes []NodeReport) Condition {
	switch {
	case !g.Accepted:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonInvalid, "the Gateway is not accepted")
	case g.assigned && g.unusableAddress() >= 0:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonAddressNotUsable, g.addressNotUsable(g.unusableAddress()))
	case r.NotEvaluated:
		return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionUnknown, gatewayv1.GatewayReasonPending, messageNotEvaluated)
	case len(nodes) == 0:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonNoResources, "no ready node runs an agent; deploy portway-agent")
	case len(g.Assignment.Addresses) == 0:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonAddressNotAssigned, g.addressNotAssigned())
	}
	var behind []NodeReport
	for _, node := range nodes {
		if node.Committed[g.Key] != g.Digest {
			behind = append(behind, node)
		}
	}
	if len(behind) > 0 {
		return gatewayNotProgrammed(gatewayv1.GatewayReasonPending, g.waitingFor(behind, len(nodes)))
	}
	return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionTrue, gatewayv1.GatewayReasonProgrammed, messageProgrammed)
}

// programmed derives a set's condition from its own and its Gateway's.
func (s *ListenerSet) programmed(gateway Condition) Condition {
	const programmed = gatewayv1.ListenerSetConditionProgrammed
	switch accepted := s.Conditions[0]; {
	case accepted.Reason == string(gatewayv1.ListenerSetReasonParentNotAccepted):
		return newCondition(programmed, metav1.ConditionFalse, reasonParentNotProgrammed, accepted.Message)
	case !s.Accepted:
		return newCondition(programmed, metav1.ConditionFalse, accepted.Reason, accepted.Message)
	case gateway.Status == metav1.ConditionFalse:
		return newCondition(programmed, metav1.ConditionFalse, reasonParentNotProgrammed, s.parentNotProgrammed(gateway))
	default: // True and Unknown have the same reasons for both
		return gateway
	}
}

// programmed derives a listener's condition from its own and its Gateway's: the
// digest covers all listeners of a Gateway, so they are programmed together.
func (l *Listener) programmed(gateway Condition) Condition {
	const programmed = gatewayv1.ListenerConditionProgrammed
	switch {
	case l.conflicted(), l.Set != nil && l.fault.reason == string(gatewayv1.ListenerReasonPortUnavailable):
		return newCondition(programmed, metav1.ConditionFalse, l.fault.reason, l.fault.message)
	case !l.Valid:
		return newCondition(programmed, metav1.ConditionFalse, gatewayv1.ListenerReasonInvalid, messageListenerInvalid)
	case gateway.Status == metav1.ConditionFalse:
		return newCondition(programmed, metav1.ConditionFalse, gatewayv1.ListenerReasonPending, gateway.Message)
	default: // True and Unknown have the same reasons for both
		return gateway
	}
}

func sortedNodes(nodes []NodeReport) []NodeReport {
	return slices.SortedFunc(slices.Values(nodes), func(a, b NodeReport) int { return cmp.Compare(a.Node, b.Node) })
}
