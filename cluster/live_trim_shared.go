package cluster

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// What nearly all listeners and routes say, or the API server for them: it is held once and
// not once more in each of them. None of it may be changed.
var (
	groupOfGateways = ptr.To(gatewayv1.Group(gatewayv1.GroupName))
	kindGateway     = ptr.To(topology.KindGateway)
	kindListenerSet = ptr.To(topology.KindListenerSet)
	groupOfServices = ptr.To(gatewayv1.Group(""))
	kindService     = ptr.To(gatewayv1.Kind("Service"))
	weightOne       = ptr.To[int32](1)
	fromSame        = &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: ptr.To(gatewayv1.NamespacesFromSame)}}
)

// share puts what is held in place of an equal value.
func share[T comparable](given **T, held ...*T) {
	for _, h := range held {
		if *given != nil && **given == *h {
			*given = h
			return
		}
	}
}

func shareAllowed(given **gatewayv1.AllowedRoutes) {
	if equality.Semantic.DeepEqual(*given, fromSame) {
		*given = fromSame
	}
}

func shareParents(refs []gatewayv1.ParentReference) []gatewayv1.ParentReference {
	refs = exact(refs)
	for i := range refs {
		share(&refs[i].Group, groupOfGateways)
		share(&refs[i].Kind, kindGateway, kindListenerSet)
	}
	return refs
}

func shareBackends(refs []gatewayv1.BackendRef) []gatewayv1.BackendRef {
	refs = exact(refs)
	for i := range refs {
		share(&refs[i].Group, groupOfServices)
		share(&refs[i].Kind, kindService)
		share(&refs[i].Weight, weightOne)
	}
	return refs
}

// exact frees what a decoder allocates beyond the length of a list, for one element room for
// four.
func exact[T any](list []T) []T {
	if cap(list) == len(list) {
		return list
	}
	return append(make([]T, 0, len(list)), list...)
}
