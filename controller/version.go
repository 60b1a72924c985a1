package controller

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
)

// servedClient writes a kind in the version that it is read in, which changes when
// CRDs do.
type servedClient[P object] struct {
	kind     string
	served   func() map[string]string // version by kind, see cluster.Live
	versions map[string]statusClient[P]
}

func (c servedClient[P]) Get(ctx context.Context, key types.NamespacedName) (P, error) {
	client, err := c.client(key)
	if err != nil {
		var none P
		return none, err
	}
	return client.Get(ctx, key)
}

func (c servedClient[P]) UpdateStatus(ctx context.Context, object P) (P, error) {
	client, err := c.client(types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()})
	if err != nil {
		var none P
		return none, err
	}
	return client.UpdateStatus(ctx, object)
}

// client returns that of the served version. Without one, the objects are gone
// with their kind.
func (c servedClient[P]) client(key types.NamespacedName) (statusClient[P], error) {
	client := c.versions[c.served()[c.kind]]
	if client == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: gatewayv1.GroupName, Resource: c.kind}, key.String())
	}
	return client, nil
}

// tcpRouteV1alpha2 is a statusClient of v1 objects where v1alpha2 is served.
type tcpRouteV1alpha2 struct{ client gatewayclient.Interface }

func (c tcpRouteV1alpha2) Get(ctx context.Context, key types.NamespacedName) (*gatewayv1.TCPRoute, error) {
	old, err := c.client.GatewayV1alpha2().TCPRoutes(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return tcpRouteFrom(old), nil
}

func (c tcpRouteV1alpha2) UpdateStatus(ctx context.Context, route *gatewayv1.TCPRoute) (*gatewayv1.TCPRoute, error) {
	old, err := c.client.GatewayV1alpha2().TCPRoutes(route.Namespace).UpdateStatus(ctx, tcpRouteTo(route), asOurs)
	if err != nil {
		return nil, err
	}
	return tcpRouteFrom(old), nil
}

func tcpRouteFrom(old *gatewayv1alpha2.TCPRoute) *gatewayv1.TCPRoute {
	route := &gatewayv1.TCPRoute{ObjectMeta: old.ObjectMeta, Status: gatewayv1.TCPRouteStatus(old.Status)}
	route.Spec.CommonRouteSpec = old.Spec.CommonRouteSpec
	for _, rule := range old.Spec.Rules {
		route.Spec.Rules = append(route.Spec.Rules, gatewayv1.TCPRouteRule(rule))
	}
	return route
}

func tcpRouteTo(route *gatewayv1.TCPRoute) *gatewayv1alpha2.TCPRoute {
	old := &gatewayv1alpha2.TCPRoute{ObjectMeta: route.ObjectMeta, Status: gatewayv1alpha2.TCPRouteStatus(route.Status)}
	old.Spec.CommonRouteSpec = route.Spec.CommonRouteSpec
	for _, rule := range route.Spec.Rules {
		old.Spec.Rules = append(old.Spec.Rules, gatewayv1alpha2.TCPRouteRule(rule))
	}
	return old
}

// udpRouteV1alpha2 is the same for UDPRoutes.
type udpRouteV1alpha2 struct{ client gatewayclient.Interface }

func (c udpRouteV1alpha2) Get(ctx context.Context, key types.NamespacedName) (*gatewayv1.UDPRoute, error) {
	old, err := c.client.GatewayV1alpha2().UDPRoutes(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return udpRouteFrom(old), nil
}

func (c udpRouteV1alpha2) UpdateStatus(ctx context.Context, route *gatewayv1.UDPRoute) (*gatewayv1.UDPRoute, error) {
	old, err := c.client.GatewayV1alpha2().UDPRoutes(route.Namespace).UpdateStatus(ctx, udpRouteTo(route), asOurs)
	if err != nil {
		return nil, err
	}
	return udpRouteFrom(old), nil
}

func udpRouteFrom(old *gatewayv1alpha2.UDPRoute) *gatewayv1.UDPRoute {
	route := &gatewayv1.UDPRoute{ObjectMeta: old.ObjectMeta, Status: gatewayv1.UDPRouteStatus(old.Status)}
	route.Spec.CommonRouteSpec = old.Spec.CommonRouteSpec
	for _, rule := range old.Spec.Rules {
		route.Spec.Rules = append(route.Spec.Rules, gatewayv1.UDPRouteRule(rule))
	}
	return route
}

func udpRouteTo(route *gatewayv1.UDPRoute) *gatewayv1alpha2.UDPRoute {
	old := &gatewayv1alpha2.UDPRoute{ObjectMeta: route.ObjectMeta, Status: gatewayv1alpha2.UDPRouteStatus(route.Status)}
	old.Spec.CommonRouteSpec = route.Spec.CommonRouteSpec
	for _, rule := range route.Spec.Rules {
		old.Spec.Rules = append(old.Spec.Rules, gatewayv1alpha2.UDPRouteRule(rule))
	}
	return old
}
