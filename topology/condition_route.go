package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/rules"
)

// parentFine are the conditions of every RouteParent without a fault, which nearly all are.
var parentFine = []Condition{
	newCondition(gatewayv1.RouteConditionAccepted, metav1.ConditionTrue, gatewayv1.RouteReasonAccepted, "the route is attached"),
	newCondition(gatewayv1.RouteConditionResolvedRefs, metav1.ConditionTrue, gatewayv1.RouteReasonResolvedRefs, "all backendRefs are resolved"),
}

func (p *RouteParent) setConditions(r *Route, resolved Condition) {
	accepted := parentFine[0]
	if p.fault.exists() {
		accepted = p.fault.condition(accepted.Type)
	}
	var lost []string
	for _, l := range p.Listeners {
		if l.Winner != nil && l.Winner != r {
			lost = append(lost, fmt.Sprintf("listener %q serves %s %s", l.Name, l.Winner.Key.Kind, l.Winner.Key.NamespacedName))
		}
	}
	if accepted == parentFine[0] && resolved == parentFine[1] && len(lost) == 0 {
		p.Conditions = parentFine
		return
	}
	p.Conditions = []Condition{accepted, resolved}
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
	if len(r.backendFaults) == 0 {
		return parentFine[1]
	}
	rank := func(f fault) int { return slices.Index(resolvedReasons, gatewayv1.RouteConditionReason(f.reason)) }
	slices.SortStableFunc(r.backendFaults, func(a, b fault) int { return cmp.Compare(rank(a), rank(b)) })
	messages := make([]string, len(r.backendFaults))
	for i, f := range r.backendFaults {
		messages[i] = f.message
	}
	return newCondition(gatewayv1.RouteConditionResolvedRefs, metav1.ConditionFalse, r.backendFaults[0].reason, strings.Join(messages, "; "))
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
