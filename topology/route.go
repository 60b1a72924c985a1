package topology

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/rules"
)

// The kinds of group gateway.networking.k8s.io that attach to each other here.
const (
	KindGateway     gatewayv1.Kind = "Gateway"
	KindListenerSet gatewayv1.Kind = "ListenerSet"
	KindTCPRoute    gatewayv1.Kind = "TCPRoute"
	KindUDPRoute    gatewayv1.Kind = "UDPRoute"
)

// maxParentRefs bounds spec.parentRefs and status.parents (CommonRouteSpec).
const maxParentRefs = 32

// routesOf returns the routes of both kinds that name a parent of ours, oldest
// first. Others get no status from us.
func routesOf(s Snapshot, g *Graph) []*Route {
	routes := make([]*Route, 0, len(s.TCPRoutes)+len(s.UDPRoutes))
	add := func(kind gatewayv1.Kind, key types.NamespacedName, object RouteObject) {
		route := &Route{Key: RouteKey{Kind: kind, NamespacedName: key}, Object: object}
		if route.Parents = routeParents(object, key.Namespace, g); len(route.Parents) > 0 {
			routes = append(routes, route)
		}
	}
	for key, source := range s.TCPRoutes {
		add(KindTCPRoute, key, tcpRouteObject(source))
	}
	for key, source := range s.UDPRoutes {
		add(KindUDPRoute, key, udpRouteObject(source))
	}
	slices.SortFunc(routes, func(a, b *Route) int {
		if order := compareAge(a.age(), b.age()); order != 0 {
			return order
		}
		return cmp.Compare(a.Key.Kind, b.Key.Kind)
	})
	return routes
}

// routeParents finds the parents that are ours. A parentRef to anything else,
// existing or not, gets no entry ("parent references that cannot be resolved …
// will not be added", RouteStatus.Parents).
func routeParents(object RouteObject, namespace string, g *Graph) []*RouteParent {
	var parents []*RouteParent
	for _, ref := range object.ParentRefs[:min(len(object.ParentRefs), maxParentRefs)] {
		if ptr.Deref(ref.Group, gatewayv1.GroupName) != gatewayv1.GroupName {
			continue
		}
		key := objectKey(ref.Namespace, ref.Name, namespace)
		switch ptr.Deref(ref.Kind, KindGateway) {
		case KindGateway:
			if gateway, ours := g.Gateways[key]; ours {
				parents = append(parents, &RouteParent{Ref: ref, Gateway: gateway})
			}
		case KindListenerSet:
			if set, ours := g.ListenerSets[key]; ours {
				parents = append(parents, &RouteParent{Ref: ref, Gateway: set.Gateway, Set: set})
			}
		}
	}
	return parents
}

// check finds what rejects a route at every parent. The API server's validation
// stops all of it but several rules, which v1alpha2 allows. A rule without
// backendRefs is accepted and refuses every connection (TCPRouteRule).
func (r *Route) check() fault {
	if n := len(r.Object.ParentRefs); n > maxParentRefs {
		return tooManyParentRefs(r, n)
	}
	if n := len(r.Object.Rules); n != 1 {
		return ruleCountUnsupported(r, n)
	}
	refs := r.Object.Rules[0]
	if n := len(refs); n > rules.MaxBackends {
		return tooManyBackendRefs(r, n)
	}
	for i, ref := range refs {
		if weight := ptr.Deref(ref.Weight, 1); weight < 0 || weight > rules.MaxWeight {
			return weightOutOfRange(r, i, weight)
		}
	}
	return fault{}
}
