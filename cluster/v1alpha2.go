package cluster

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
)

// The functions of this file convert routes between v1, which everything is made
// of, and v1alpha2, which some API servers serve instead. What they return shares
// what it refers to with what they are given.

// TCPRouteFromV1alpha2 keeps all rules: more than one is for validation to refuse.
func TCPRouteFromV1alpha2(old *gatewayv1alpha2.TCPRoute) *gatewayv1.TCPRoute {
	route := &gatewayv1.TCPRoute{ObjectMeta: old.ObjectMeta, Status: gatewayv1.TCPRouteStatus(old.Status)}
	route.Spec.CommonRouteSpec = old.Spec.CommonRouteSpec
	for _, rule := range old.Spec.Rules {
		route.Spec.Rules = append(route.Spec.Rules, gatewayv1.TCPRouteRule(rule))
	}
	return route
}

// TCPRouteToV1alpha2 is for writing what was read in v1alpha2.
func TCPRouteToV1alpha2(route *gatewayv1.TCPRoute) *gatewayv1alpha2.TCPRoute {
	old := &gatewayv1alpha2.TCPRoute{ObjectMeta: route.ObjectMeta, Status: gatewayv1alpha2.TCPRouteStatus(route.Status)}
	old.Spec.CommonRouteSpec = route.Spec.CommonRouteSpec
	for _, rule := range route.Spec.Rules {
		old.Spec.Rules = append(old.Spec.Rules, gatewayv1alpha2.TCPRouteRule(rule))
	}
	return old
}

// UDPRouteFromV1alpha2 is the same for UDPRoutes.
func UDPRouteFromV1alpha2(old *gatewayv1alpha2.UDPRoute) *gatewayv1.UDPRoute {
	route := &gatewayv1.UDPRoute{ObjectMeta: old.ObjectMeta, Status: gatewayv1.UDPRouteStatus(old.Status)}
	route.Spec.CommonRouteSpec = old.Spec.CommonRouteSpec
	for _, rule := range old.Spec.Rules {
		route.Spec.Rules = append(route.Spec.Rules, gatewayv1.UDPRouteRule(rule))
	}
	return route
}

// UDPRouteToV1alpha2 is the same for UDPRoutes.
func UDPRouteToV1alpha2(route *gatewayv1.UDPRoute) *gatewayv1alpha2.UDPRoute {
	old := &gatewayv1alpha2.UDPRoute{ObjectMeta: route.ObjectMeta, Status: gatewayv1alpha2.UDPRouteStatus(route.Status)}
	old.Spec.CommonRouteSpec = route.Spec.CommonRouteSpec
	for _, rule := range route.Spec.Rules {
		old.Spec.Rules = append(old.Spec.Rules, gatewayv1alpha2.UDPRouteRule(rule))
	}
	return old
}
