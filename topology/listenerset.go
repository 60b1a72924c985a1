package topology

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listenerSets returns the ListenerSets whose parent is one of our Gateways and
// hands them to it in the order of precedence: oldest first, then by
// namespace/name (ListenerSetSpec.Listeners).
func listenerSets(s Snapshot, gateways map[types.NamespacedName]*Gateway) map[types.NamespacedName]*ListenerSet {
	sets := make(map[types.NamespacedName]*ListenerSet)
	for key, source := range s.ListenerSets {
		ref := source.Spec.ParentRef
		if ptr.Deref(ref.Group, gatewayv1.GroupName) != gatewayv1.GroupName || ptr.Deref(ref.Kind, KindGateway) != KindGateway {
			continue
		}
		gateway, ours := gateways[objectKey(ref.Namespace, ref.Name, key.Namespace)]
		if !ours {
			continue
		}
		specs := make([]gatewayv1.Listener, len(source.Spec.Listeners))
		for i, entry := range source.Spec.Listeners {
			specs[i] = gatewayv1.Listener(entry) // the API keeps the two structs equal
		}
		set := &ListenerSet{Source: source, Key: key, Gateway: gateway}
		set.Listeners, set.excess = newListeners(gateway, set, specs)
		gateway.sets = append(gateway.sets, set)
		sets[key] = set
	}
	for _, gateway := range gateways {
		slices.SortFunc(gateway.sets, func(a, b *ListenerSet) int {
			return compareAge(a.age(), b.age())
		})
	}
	return sets
}

// admitSet merges the listeners of a ListenerSet after the Gateway's own and those
// of the sets before it.
func (g *Gateway) admitSet(set *ListenerSet, bound *bindings, namespaces map[string]*corev1.Namespace, limit int) {
	allowed, err := g.allowedListeners()
	switch {
	case err != nil:
		set.fault = listenerNamespacesInvalid(g, err)
	case !allowed.allows(set.Key.Namespace, namespaces):
		set.fault = setNotAllowed(set)
	case !g.Accepted:
		set.fault = setParentNotAccepted(set)
	case len(set.Listeners) == 0:
		set.fault = setEmpty()
	}
	if set.fault.exists() {
		rejectAll(set.Listeners, setNotAccepted(set))
		return
	}
	rejectConflicts(set.Listeners, g.claimed)
	for _, listener := range set.Listeners {
		if limit > 0 && g.admitted >= limit {
			listener.reject(tooManyListeners(g, limit))
		}
		bound.admit(listener)
		if listener.Valid {
			g.admitted++
		}
	}
	set.Accepted = slices.ContainsFunc(set.Listeners, isValid)
	if set.Accepted {
		g.AttachedListenerSets++
		g.Listeners = append(slices.Clip(g.Listeners), set.Listeners...)
	}
}

// allowedListeners says from which namespaces the Gateway takes ListenerSets; by
// default from none.
func (g *Gateway) allowedListeners() (namespacePolicy, error) {
	allowed := ptr.Deref(g.Source.Spec.AllowedListeners, gatewayv1.AllowedListeners{})
	namespaces := ptr.Deref(allowed.Namespaces, gatewayv1.ListenerNamespaces{})
	return newNamespacePolicy(ptr.Deref(namespaces.From, gatewayv1.NamespacesFromNone), namespaces.Selector, g.Key.Namespace)
}
