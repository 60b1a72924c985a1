package controller

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/portway-dev/portway/cluster"
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
	return cluster.TCPRouteFromV1alpha2(old), nil
}

func (c tcpRouteV1alpha2) UpdateStatus(ctx context.Context, route *gatewayv1.TCPRoute) (*gatewayv1.TCPRoute, error) {
	old, err := c.client.GatewayV1alpha2().TCPRoutes(route.Namespace).UpdateStatus(ctx, cluster.TCPRouteToV1alpha2(route), asOurs)
	if err != nil {
		return nil, err
	}
	return cluster.TCPRouteFromV1alpha2(old), nil
}

// udpRouteV1alpha2 is the same for UDPRoutes.
type udpRouteV1alpha2 struct{ client gatewayclient.Interface }

func (c udpRouteV1alpha2) Get(ctx context.Context, key types.NamespacedName) (*gatewayv1.UDPRoute, error) {
	old, err := c.client.GatewayV1alpha2().UDPRoutes(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return cluster.UDPRouteFromV1alpha2(old), nil
}

func (c udpRouteV1alpha2) UpdateStatus(ctx context.Context, route *gatewayv1.UDPRoute) (*gatewayv1.UDPRoute, error) {
	old, err := c.client.GatewayV1alpha2().UDPRoutes(route.Namespace).UpdateStatus(ctx, cluster.UDPRouteToV1alpha2(route), asOurs)
	if err != nil {
		return nil, err
	}
	return cluster.UDPRouteFromV1alpha2(old), nil
}
