package controller

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
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

// convertedClient is a statusClient of P where the API server has O in its place.
type convertedClient[P, O object] struct {
	client statusClient[O]
	from   func(O) P
	to     func(P) O
}

func (c convertedClient[P, O]) Get(ctx context.Context, key types.NamespacedName) (P, error) {
	return c.convert(c.client.Get(ctx, key))
}

func (c convertedClient[P, O]) UpdateStatus(ctx context.Context, object P) (P, error) {
	return c.convert(c.client.UpdateStatus(ctx, c.to(object)))
}

func (c convertedClient[P, O]) convert(old O, err error) (P, error) {
	if err != nil {
		var none P
		return none, err
	}
	return c.from(old), nil
}
