package topology

import (
	"cmp"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// fleet is the nodes of Reports, by what they have proven: of thousands of nodes
// nearly all have proven the same.
type fleet struct {
	Reports
	groups [][]NodeReport // those of a group share their maps; by name
}

func newFleet(r Reports) fleet {
	f := fleet{Reports: r}
	type shared struct{ committed, missing uintptr }
	group := map[shared]int{}
	for _, node := range r.Nodes {
		maps := shared{reflect.ValueOf(node.Committed).Pointer(), reflect.ValueOf(node.Missing).Pointer()}
		i, known := group[maps]
		if !known {
			i = len(f.groups)
			group[maps], f.groups = i, append(f.groups, nil)
		}
		f.groups[i] = append(f.groups[i], node)
	}
	for _, nodes := range f.groups {
		slices.SortFunc(nodes, byNode)
	}
	return f
}

func byNode(a, b NodeReport) int { return cmp.Compare(a.Node, b.Node) }

// behind returns the nodes that have not proven a Gateway, by name. After an edit they
// are thousands, and most often of one group.
func (f *fleet) behind(g *Gateway) []NodeReport {
	var groups [][]NodeReport
	for _, nodes := range f.groups {
		if nodes[0].Committed[g.Key] != g.Digest || nodes[0].Missing[g.Key] {
			groups = append(groups, nodes)
		}
	}
	if len(groups) == 1 {
		return groups[0]
	}
	behind := slices.Concat(groups...)
	slices.SortFunc(behind, byNode)
	return behind
}

// programmed judges a Gateway by what the nodes have proven. What the Gateway
// itself lacks comes first, since no node could help. The digest decides and not
// the generation: an edited route moves the one without the other.
func (g *Gateway) programmed(f fleet) Condition {
	switch {
	case !g.Accepted:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonInvalid, "the Gateway is not accepted")
	case g.assigned && g.unusableAddress() >= 0:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonAddressNotUsable, g.addressNotUsable(g.unusableAddress()))
	case f.NotEvaluated:
		return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionUnknown, gatewayv1.GatewayReasonPending, messageNotEvaluated)
	case len(f.Nodes) == 0:
		return gatewayNotProgrammed(gatewayv1.GatewayReasonNoResources, "no ready node runs an agent; deploy portway-agent")
	case g.lacksAddress():
		return gatewayNotProgrammed(gatewayv1.GatewayReasonAddressNotAssigned, g.addressNotAssigned())
	}
	if l := g.unserved(); l != nil {
		return gatewayNotProgrammed(gatewayv1.GatewayReasonPending, g.portNotServed(l))
	}
	if behind := f.behind(g); len(behind) > 0 {
		return gatewayNotProgrammed(gatewayv1.GatewayReasonPending, g.waitingFor(behind, len(f.Nodes)))
	}
	return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionTrue, gatewayv1.GatewayReasonProgrammed, everyNodeServes(f.Silent))
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
