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

// Waiting is what Programmed says of the nodes that a Gateway waits for, but which and how many
// they are.
type Waiting struct {
	// Problems are the errors it names, sorted, each once.
	Problems []string
}

// programmed judges a Gateway by what the nodes have proven. The digest decides and not
// the generation: an edited route moves the one without the other. Waiting is nil
// unless it waits for nodes.
func (g *Gateway) programmed(f fleet) (Condition, *Waiting) {
	if reason, message := g.hindered(f); reason != "" {
		return gatewayNotProgrammed(reason, message), nil
	}
	if f.NotEvaluated {
		return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionUnknown, gatewayv1.GatewayReasonPending, messageNotEvaluated), nil
	}
	if behind := f.behind(g); len(behind) > 0 {
		message, waiting := g.waitingFor(behind, len(f.Nodes))
		return gatewayNotProgrammed(gatewayv1.GatewayReasonPending, message), waiting
	}
	return newCondition(gatewayv1.GatewayConditionProgrammed, metav1.ConditionTrue, gatewayv1.GatewayReasonProgrammed, everyNodeServes(f.Silent)), nil
}

// hindered returns why a Gateway cannot be programmed whatever the nodes prove, an empty
// reason if it can.
func (g *Gateway) hindered(f fleet) (reason gatewayv1.GatewayConditionReason, message string) {
	switch {
	case !g.Accepted:
		return gatewayv1.GatewayReasonInvalid, "the Gateway is not accepted"
	case g.assigned && g.unusableAddress() >= 0:
		return gatewayv1.GatewayReasonAddressNotUsable, g.addressNotUsable(g.unusableAddress())
	case f.NotEvaluated:
		return "", ""
	case len(f.Nodes) == 0:
		return gatewayv1.GatewayReasonNoResources, "no ready node runs an agent; deploy portway-agent"
	case g.lacksAddress():
		return gatewayv1.GatewayReasonAddressNotAssigned, g.addressNotAssigned()
	}
	if l := g.unserved(); l != nil {
		return gatewayv1.GatewayReasonPending, g.portNotServed(l)
	}
	return "", ""
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
