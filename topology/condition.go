package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/rules"
)

// All wording of conditions is in this file: what is wrong, where, and what
// would help. Messages of conditions that are fine never vary, so that nothing
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

// GatewayClass

func (c *GatewayClass) acceptedCondition() Condition {
	const accepted = gatewayv1.GatewayClassConditionStatusAccepted
	if ref := c.Source.Spec.ParametersRef; ref != nil {
		return newCondition(accepted, metav1.ConditionFalse, gatewayv1.GatewayClassReasonInvalidParameters,
			fmt.Sprintf("spec.parametersRef: %s %q of group %q is not supported; remove the field", ref.Kind, ref.Name, ref.Group))
	}
	return newCondition(accepted, metav1.ConditionTrue, gatewayv1.GatewayClassReasonAccepted, "Gateways of this class are served")
}

func supportedVersionCondition(untested, tested []string) Condition {
	const supported = gatewayv1.GatewayClassConditionStatusSupportedVersion
	if len(untested) == 0 {
		return newCondition(supported, metav1.ConditionTrue, gatewayv1.GatewayClassReasonSupportedVersion,
			"all Gateway API CRDs are of a tested version")
	}
	return newCondition(supported, metav1.ConditionFalse, gatewayv1.GatewayClassReasonUnsupportedVersion,
		fmt.Sprintf("served as well as possible, but not tested with %s; tested with %s", atMost(3, untested), strings.Join(tested, ", ")))
}

func crdVersion(crd, version string) string { return crd + " " + cmp.Or(version, "(no version)") }

// Gateway

func (g *Gateway) acceptedCondition() Condition {
	const accepted = gatewayv1.GatewayConditionAccepted
	if g.fault.exists() {
		return g.fault.condition(string(accepted))
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

func gatewayParametersUnsupported(ref *gatewayv1.LocalParametersReference) fault {
	return faultf(gatewayv1.GatewayReasonInvalidParameters,
		"spec.infrastructure.parametersRef: %s %q of group %q is not supported; remove the field", ref.Kind, ref.Name, ref.Group)
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
	return withHint(fmt.Sprintf("spec.addresses[%d]: %q is not an address this Gateway can have; use another one or remove the entry",
		index, g.Source.Spec.Addresses[index].Value), g.Assignment.Message)
}

func (g *Gateway) addressNotAssigned() string {
	if !g.assigned {
		return "waiting for addresses to be assigned"
	}
	return withHint("no address could be assigned", g.Assignment.Message)
}

func withHint(message, hint string) string {
	if hint == "" {
		return message
	}
	return message + ": " + hint
}

// waitingFor reads "3/5 nodes; waiting for node-b (last error: …), node-d".
func (g *Gateway) waitingFor(behind []NodeReport, nodes int) string {
	const shown, errorLength = 3, 256
	names := make([]string, min(len(behind), shown))
	for i := range names {
		node := &behind[i]
		names[i] = node.Node
		if problem := cmp.Or(node.Unheard, node.Errors[g.Key]); problem != "" {
			names[i] += fmt.Sprintf(" (last error: %s)", truncate(problem, errorLength))
		}
	}
	waiting := strings.Join(names, ", ")
	if more := len(behind) - shown; more > 0 {
		waiting += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%d/%d nodes; waiting for %s", nodes-len(behind), nodes, waiting)
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

// Listener

func (l *Listener) setConditions() {
	const (
		accepted = gatewayv1.ListenerConditionAccepted
		resolved = gatewayv1.ListenerConditionResolvedRefs
	)
	l.Conditions = make([]Condition, 0, 3)
	if l.fault.exists() {
		l.Conditions = append(l.Conditions, l.fault.condition(string(accepted)))
	} else {
		l.Conditions = append(l.Conditions, newCondition(accepted, metav1.ConditionTrue, gatewayv1.ListenerReasonAccepted, "the listener is valid"))
	}
	if l.conflicted() {
		l.Conditions = append(l.Conditions, newCondition(gatewayv1.ListenerConditionConflicted, metav1.ConditionTrue, l.fault.reason, l.fault.message))
	}
	if l.kindsFault.exists() {
		l.Conditions = append(l.Conditions, l.kindsFault.condition(string(resolved)))
	} else {
		l.Conditions = append(l.Conditions, newCondition(resolved, metav1.ConditionTrue, gatewayv1.ListenerReasonResolvedRefs, "all references are resolved"))
	}
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

// ListenerSet

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

// Route

func (p *RouteParent) setConditions(r *Route, resolved Condition) {
	p.Conditions = make([]Condition, 0, 3)
	if p.fault.exists() {
		p.Conditions = append(p.Conditions, p.fault.condition(string(gatewayv1.RouteConditionAccepted)))
	} else {
		p.Conditions = append(p.Conditions, newCondition(gatewayv1.RouteConditionAccepted, metav1.ConditionTrue, gatewayv1.RouteReasonAccepted, "the route is attached"))
	}
	p.Conditions = append(p.Conditions, resolved)
	var lost []string
	for _, l := range p.Listeners {
		if l.Winner != nil && l.Winner != r {
			lost = append(lost, fmt.Sprintf("listener %q serves %s %s", l.Name, l.Winner.Key.Kind, l.Winner.Key.NamespacedName))
		}
	}
	if len(lost) > 0 {
		p.Conditions = append(p.Conditions, newCondition(ConditionSuperseded, metav1.ConditionTrue, ReasonOlderRouteWins,
			fmt.Sprintf("serves %d of %d listeners; the oldest route has precedence, then the first by name: %s",
				len(p.Listeners)-len(lost), len(p.Listeners), atMost(3, lost))))
	}
}

// resolvedReasons in the order of their precedence when several references of
// one route are bad.
var resolvedReasons = []gatewayv1.RouteConditionReason{
	gatewayv1.RouteReasonInvalidKind,
	gatewayv1.RouteReasonRefNotPermitted,
	gatewayv1.RouteReasonBackendNotFound,
	gatewayv1.RouteReasonUnsupportedProtocol,
}

func (r *Route) resolvedCondition() Condition {
	const resolved = gatewayv1.RouteConditionResolvedRefs
	if len(r.backendFaults) == 0 {
		return newCondition(resolved, metav1.ConditionTrue, gatewayv1.RouteReasonResolvedRefs, "all backendRefs are resolved")
	}
	rank := func(f fault) int { return slices.Index(resolvedReasons, gatewayv1.RouteConditionReason(f.reason)) }
	slices.SortStableFunc(r.backendFaults, func(a, b fault) int { return cmp.Compare(rank(a), rank(b)) })
	messages := make([]string, len(r.backendFaults))
	for i, f := range r.backendFaults {
		messages[i] = f.message
	}
	return newCondition(resolved, metav1.ConditionFalse, r.backendFaults[0].reason, strings.Join(messages, "; "))
}

func tooManyParentRefs(r *Route, n int) fault {
	return faultf(gatewayv1.RouteReasonUnsupportedValue, "%s: spec.parentRefs has %d entries; at most %d are allowed", r.name(), n, maxParentRefs)
}

func ruleCountUnsupported(r *Route, n int) fault {
	return faultf(gatewayv1.RouteReasonUnsupportedValue, "%s: spec.rules has %d entries; exactly one is allowed", r.name(), n)
}

func tooManyBackendRefs(r *Route, n int) fault {
	return faultf(gatewayv1.RouteReasonUnsupportedValue, "%s: spec.rules[0].backendRefs has %d entries; at most %d are allowed", r.name(), n, rules.MaxBackends)
}

func weightOutOfRange(r *Route, index int, weight int32) fault {
	return faultf(gatewayv1.RouteReasonUnsupportedValue, "%s: spec.rules[0].backendRefs[%d].weight is %d; use 0 to %d", r.name(), index, weight, rules.MaxWeight)
}

func (r *Route) name() string { return fmt.Sprintf("%s %s", r.Key.Kind, r.Key.NamespacedName) }

func setNotAllowedForRoute(s *ListenerSet) fault {
	return faultf(gatewayv1.RouteReasonNoMatchingParent, "Gateway %s does not admit ListenerSet %s", s.Gateway.Key, s.Key)
}

func noMatchingParent(p *RouteParent) fault {
	owner := "Gateway " + p.Gateway.Key.String()
	if p.Set != nil {
		owner = "ListenerSet " + p.Set.Key.String()
	}
	var wanted []string
	if name := p.Ref.SectionName; name != nil && *name != "" {
		wanted = append(wanted, fmt.Sprintf("name %q", *name))
	}
	if port := p.Ref.Port; port != nil {
		wanted = append(wanted, fmt.Sprintf("port %d", *port))
	}
	if len(wanted) == 0 {
		return faultf(gatewayv1.RouteReasonNoMatchingParent, "%s has no listener", owner)
	}
	return faultf(gatewayv1.RouteReasonNoMatchingParent, "%s has no listener with %s", owner, strings.Join(wanted, " and "))
}

func kindNotAllowed(r *Route, refusing []*Listener) fault {
	return faultf(gatewayv1.RouteReasonNotAllowedByListeners, "%s cannot attach to %s", r.Key.Kind, listenersWithProtocol(refusing))
}

func namespaceNotAllowed(r *Route, p *RouteParent) fault {
	owner := "Gateway " + p.Gateway.Key.String()
	if p.Set != nil {
		owner = "ListenerSet " + p.Set.Key.String()
	}
	return faultf(gatewayv1.RouteReasonNotAllowedByListeners,
		"no listener of %s admits a %s of namespace %s; see its allowedRoutes.namespaces, by default only its own namespace", owner, r.Key.Kind, r.Key.Namespace)
}

func listenersWithProtocol(listeners []*Listener) string {
	names := make([]string, len(listeners))
	for i, l := range listeners {
		names[i] = fmt.Sprintf("%s listener %q", l.Protocol, l.Name)
	}
	return atMost(3, names)
}

// backendRefPosition is where a reference stands in its route.
type backendRefPosition struct{ rule, ref int }

func (at backendRefPosition) String() string {
	return fmt.Sprintf("spec.rules[%d].backendRefs[%d]", at.rule, at.ref)
}

func backendKindUnsupported(at backendRefPosition, group gatewayv1.Group, kind gatewayv1.Kind) fault {
	return faultf(gatewayv1.RouteReasonInvalidKind, "%v: kind %s of group %q is not supported; refer to a Service", at, kind, group)
}

func backendNotPermitted(at backendRefPosition, route RouteKey, service types.NamespacedName) fault {
	return faultf(gatewayv1.RouteReasonRefNotPermitted,
		"%v: no ReferenceGrant in namespace %s lets a %s of namespace %s refer to Service %s", at, service.Namespace, route.Kind, route.Namespace, service.Name)
}

func serviceNotFound(at backendRefPosition, service types.NamespacedName) fault {
	return faultf(gatewayv1.RouteReasonBackendNotFound, "%v: Service %s does not exist", at, service)
}

// The API describes ExternalName under BackendObjectReference.kind, as a kind of
// Service that SHOULD NOT be supported; hence InvalidKind.
func externalNameUnsupported(at backendRefPosition, service types.NamespacedName) fault {
	return faultf(gatewayv1.RouteReasonInvalidKind, "%v: Service %s is of type ExternalName, which is not supported; use one with endpoints", at, service)
}

func backendPortMissing(at backendRefPosition) fault {
	return faultf(gatewayv1.RouteReasonBackendNotFound, "%v: port is missing; name a port of the Service", at)
}

func servicePortNotFound(at backendRefPosition, backend BackendRef) fault {
	return faultf(gatewayv1.RouteReasonBackendNotFound, "%v: Service %s has no port %d", at, backend.Service, backend.Port)
}

func servicePortProtocolDiffers(at backendRefPosition, kind gatewayv1.Kind, backend BackendRef) fault {
	return faultf(gatewayv1.RouteReasonUnsupportedProtocol, "%v: port %d of Service %s is not a %s port, as a %s needs",
		at, backend.Port, backend.Service, routeProtocol(kind), kind)
}

// atMost joins the first n items and counts the rest.
func atMost(n int, items []string) string {
	if len(items) <= n {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:n], ", "), len(items)-n)
}
