package topology

import (
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listenerFine are the conditions of every Listener without a fault, which nearly all are.
var listenerFine = []Condition{
	newCondition(gatewayv1.ListenerConditionAccepted, metav1.ConditionTrue, gatewayv1.ListenerReasonAccepted, "the listener is valid"),
	newCondition(gatewayv1.ListenerConditionResolvedRefs, metav1.ConditionTrue, gatewayv1.ListenerReasonResolvedRefs, "all references are resolved"),
}

func (l *Listener) setConditions() {
	if !l.fault.exists() && !l.kindsFault.exists() {
		l.Conditions = listenerFine
		return
	}
	accepted, resolved := listenerFine[0], listenerFine[1]
	if l.fault.exists() {
		accepted = l.fault.condition(accepted.Type)
	}
	if l.kindsFault.exists() {
		resolved = l.kindsFault.condition(resolved.Type)
	}
	l.Conditions = []Condition{accepted}
	if l.conflicted() {
		l.Conditions = append(l.Conditions, newCondition(gatewayv1.ListenerConditionConflicted, metav1.ConditionTrue, l.fault.reason, l.fault.message))
	}
	l.Conditions = append(l.Conditions, resolved)
}

// owner names the object a listener is part of: "Gateway infra/public".
func (l *Listener) owner() string {
	if l.Set != nil {
		return "ListenerSet " + l.Set.Key.String()
	}
	return "Gateway " + l.Gateway.Key.String()
}

// field names a field of a listener: "Gateway infra/public: spec.listeners[1].port".
func (l *Listener) field(name string) string {
	return fmt.Sprintf("%s: spec.listeners[%d].%s", l.owner(), l.index, name)
}

func (l *Listener) String() string { return fmt.Sprintf("listener %q of %s", l.Name, l.owner()) }

func protocolUnsupported(l *Listener) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedProtocol, "%s: %s is not supported; use TCP or UDP", l.field("protocol"), l.Protocol)
}

func nameMissing(l *Listener) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedValue, "%s is missing; give the listener a name", l.field("name"))
}

func duplicateName(l *Listener, other int) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedValue,
		"%s and spec.listeners[%d].name are both %q, so neither is served; give each listener a name of its own", l.field("name"), other, l.Name)
}

func portOutOfRange(l *Listener, port gatewayv1.PortNumber) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedValue, "%s: %d is not a port; use 1 to 65535", l.field("port"), port)
}

func hostnameUnsupported(l *Listener) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedValue, "%s: %s has no host names to match; remove the field", l.field("hostname"), l.Protocol)
}

func tlsUnsupported(l *Listener) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedValue, "%s: a %s listener forwards what it gets and ends no TLS; remove the field", l.field("tls"), l.Protocol)
}

func routeNamespacesInvalid(l *Listener, err error) fault {
	return faultf(gatewayv1.ListenerReasonUnsupportedValue, "%s: %v", l.field("allowedRoutes.namespaces"), err)
}

func kindUnsupported(l *Listener, index int, group gatewayv1.Group, kind gatewayv1.Kind) fault {
	return faultf(gatewayv1.ListenerReasonInvalidRouteKinds, "%s: kind %s of group %q cannot attach to a %s listener; use TCPRoute for TCP, UDPRoute for UDP",
		l.field(fmt.Sprintf("allowedRoutes.kinds[%d]", index)), kind, group, l.Protocol)
}

func indistinct(l, other *Listener) fault {
	return faultf(gatewayv1.ListenerReasonProtocolConflict,
		"listener %q has %s port %d as well, so neither is served; change one of the ports", other.Name, l.Protocol, l.Port)
}

func precededBy(l, holder *Listener) fault {
	return faultf(gatewayv1.ListenerReasonProtocolConflict,
		"%s port %d belongs to %v, which takes precedence; choose another port", l.Protocol, l.Port, holder)
}

func nodePort(l *Listener) fault {
	return faultf(gatewayv1.ListenerReasonPortUnavailable,
		"%s: the nodes need port %d themselves; choose another port", l.field("port"), l.Port)
}

func portTaken(l, holder *Listener, addr netip.Addr) fault {
	where, cure := "the nodes", "choose another port"
	if addr.IsValid() {
		where, cure = addr.String(), "choose another port or another address"
	}
	return faultf(gatewayv1.ListenerReasonPortUnavailable,
		"%s: %s port %d of %s belongs to %v, which has precedence (oldest, then by name); %s", l.field("port"), l.Protocol, l.Port, where, holder, cure)
}

func tooManyListeners(g *Gateway, limit int) fault {
	return faultf(gatewayv1.ListenerEntryReasonTooManyListeners,
		"Gateway %s has %d listeners already, which is the limit; remove some or use another Gateway", g.Key, limit)
}

func parentNotAccepted(g *Gateway) fault {
	return faultf(gatewayv1.ListenerReasonInvalid, "Gateway %s is not accepted: %s", g.Key, g.fault.reason)
}

func (s *ListenerSet) acceptedCondition() Condition {
	const accepted = gatewayv1.ListenerSetConditionAccepted
	if s.fault.exists() {
		return s.fault.condition(string(accepted))
	}
	summary, complete := summarize(s.Listeners, s.excess)
	switch {
	case !s.Accepted:
		return newCondition(accepted, metav1.ConditionFalse, gatewayv1.ListenerSetReasonListenersNotValid, summary)
	case !complete:
		return newCondition(accepted, metav1.ConditionTrue, gatewayv1.ListenerSetReasonListenersNotValid, summary)
	default:
		return newCondition(accepted, metav1.ConditionTrue, gatewayv1.ListenerSetReasonAccepted, summary)
	}
}

func setNotAllowed(s *ListenerSet) fault {
	return faultf(gatewayv1.ListenerSetReasonNotAllowed,
		"spec.allowedListeners of Gateway %s does not admit ListenerSets of namespace %s; by default it admits none", s.Gateway.Key, s.Key.Namespace)
}

func listenerNamespacesInvalid(g *Gateway, err error) fault {
	return faultf(gatewayv1.ListenerSetReasonNotAllowed, "spec.allowedListeners.namespaces of Gateway %s admits no ListenerSet: %v", g.Key, err)
}

func setParentNotAccepted(s *ListenerSet) fault {
	return faultf(gatewayv1.ListenerSetReasonParentNotAccepted, "Gateway %s is not accepted; see its status", s.Gateway.Key)
}

func setEmpty() fault {
	return faultf(gatewayv1.ListenerSetReasonInvalid, "spec.listeners is empty; add a listener")
}

func setNotAccepted(s *ListenerSet) fault {
	return faultf(gatewayv1.ListenerEntryReasonInvalid, "ListenerSet %s is not accepted: %s", s.Key, s.fault.reason)
}

func (s *ListenerSet) parentNotProgrammed(gateway Condition) string {
	return fmt.Sprintf("Gateway %s is not programmed: %s", s.Gateway.Key, gateway.Message)
}
