package topology

import (
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// attach attaches the route to the listeners its parentRefs select and that
// allow it. Whether these listeners are valid does not matter
// (ListenerStatus.AttachedRoutes); a route that is not accepted attaches nowhere.
func (r *Route) attach(namespaces map[string]*corev1.Namespace) {
	invalid := r.check()
	for _, parent := range r.Parents {
		parent.fault = invalid
		if !invalid.exists() {
			parent.attach(r, namespaces)
		}
		parent.Accepted = !parent.fault.exists()
	}
}

func (p *RouteParent) attach(r *Route, namespaces map[string]*corev1.Namespace) {
	if p.Set != nil && p.Set.fault.reason == string(gatewayv1.ListenerSetReasonNotAllowed) {
		p.fault = setNotAllowedForRoute(p.Set)
		return
	}
	selected := 0
	var refusedKind []*Listener
	for _, listener := range p.candidates() {
		if !p.selects(listener) {
			continue
		}
		selected++
		switch {
		case !listener.allowsKind(r.Key.Kind):
			refusedKind = append(refusedKind, listener)
		case listener.namespaces.allows(r.Key.Namespace, namespaces):
			p.Listeners = append(p.Listeners, listener)
			listener.attach(r)
		}
	}
	switch {
	case len(p.Listeners) > 0:
	case selected == 0:
		p.fault = noMatchingParent(p)
	case len(refusedKind) == selected:
		p.fault = kindNotAllowed(r, refusedKind)
	default:
		p.fault = namespaceNotAllowed(r, p)
	}
}

// candidates are the listeners a parentRef can select: those of the very object
// it names. A Gateway's parentRef never reaches into its ListenerSets.
func (p *RouteParent) candidates() []*Listener {
	if p.Set != nil {
		return p.Set.Listeners
	}
	return p.Gateway.own
}

// selects: name and port of the parentRef match, as far as given; both must when
// both are (ParentReference.Port). With neither, every listener is selected and
// the kind decides.
func (p *RouteParent) selects(l *Listener) bool {
	if name := p.Ref.SectionName; name != nil && *name != "" && *name != l.Name {
		return false
	}
	return p.Ref.Port == nil || *p.Ref.Port == gatewayv1.PortNumber(l.Port)
}
