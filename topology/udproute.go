package topology

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

func udpRouteObject(route *gatewayv1.UDPRoute) RouteObject {
	rules := make([][]gatewayv1.BackendRef, len(route.Spec.Rules))
	for i := range route.Spec.Rules {
		rules[i] = route.Spec.Rules[i].BackendRefs
	}
	return RouteObject{Meta: &route.ObjectMeta, ParentRefs: route.Spec.ParentRefs, Rules: rules}
}
