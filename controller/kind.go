package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// object is an API object of a kind whose status is ours to write.
type object interface {
	metav1.Object
	runtime.Object
}

// statusClient reads and writes objects of one kind.
type statusClient[P object] interface {
	Get(ctx context.Context, key types.NamespacedName) (P, error)
	// UpdateStatus writes the status where the object's resourceVersion is still
	// the current one.
	UpdateStatus(ctx context.Context, object P) (P, error)
}

// kind is everything the writer knows about a kind of objects: P is the object, S
// its status.
type kind[P object, S any] struct {
	name   gatewayv1.Kind
	client statusClient[P]
	copy   func(P) P
	status func(P) *S
	merge  func(existing, desired *S, now metav1.Time) S
	equal  func(a, b *S) bool
	// release returns a status without what these fields say we wrote. nil for
	// statuses that name their writer, which merge goes by.
	release func(existing *S, wrote fields) S
	// events returns what an operator must know about a change of status to what is
	// desired (nil: nothing of ours).
	events func(before, after, desired *S) []event
}

// kinds are those with a status of ours.
type kinds struct {
	classes  kind[*gatewayv1.GatewayClass, gatewayv1.GatewayClassStatus]
	pools    kind[*v1alpha1.AddressPool, v1alpha1.AddressPoolStatus]
	gateways kind[*gatewayv1.Gateway, gatewayv1.GatewayStatus]
	sets     kind[*gatewayv1.ListenerSet, gatewayv1.ListenerSetStatus]
	tcp      kind[*gatewayv1.TCPRoute, gatewayv1.RouteStatus]
	udp      kind[*gatewayv1.UDPRoute, gatewayv1.RouteStatus]

	classFinalizer finalizer[*gatewayv1.GatewayClass]
	poolFinalizer  finalizer[*v1alpha1.AddressPool]
}

// after returns the status an object gets: what is desired in place of what was
// ours, or, nil, nothing of ours.
func (k *kind[P, S]) after(o P, desired *S, now metav1.Time) S {
	if desired == nil {
		return k.release(k.status(o), wroteFields(o))
	}
	return k.merge(k.status(o), desired, now)
}

func newKinds(c clients, ours gatewayv1.GatewayController) kinds {
	mergeParents := func(existing, desired *gatewayv1.RouteStatus, now metav1.Time) gatewayv1.RouteStatus {
		return mergeRoute(existing, desired, ours, now)
	}
	parentEvents := func(before, after, desired *gatewayv1.RouteStatus) []event {
		return routeEvents(before, after, desired, ours)
	}
	return kinds{
		classFinalizer: classFinalizer(c), poolFinalizer: poolFinalizer(c),
		classes: kind[*gatewayv1.GatewayClass, gatewayv1.GatewayClassStatus]{
			name: "GatewayClass", client: c.classes, copy: (*gatewayv1.GatewayClass).DeepCopy,
			status: func(o *gatewayv1.GatewayClass) *gatewayv1.GatewayClassStatus { return &o.Status },
			merge:  mergeGatewayClass, equal: equalGatewayClass,
			events: func(_, _, _ *gatewayv1.GatewayClassStatus) []event { return nil },
		},
		pools: kind[*v1alpha1.AddressPool, v1alpha1.AddressPoolStatus]{
			name: "AddressPool", client: c.pools, copy: (*v1alpha1.AddressPool).DeepCopy,
			status: func(o *v1alpha1.AddressPool) *v1alpha1.AddressPoolStatus { return &o.Status },
			merge:  mergeAddressPool, equal: equalAddressPool,
			events: func(_, _, _ *v1alpha1.AddressPoolStatus) []event { return nil },
		},
		gateways: kind[*gatewayv1.Gateway, gatewayv1.GatewayStatus]{
			name: "Gateway", client: c.gateways, copy: (*gatewayv1.Gateway).DeepCopy,
			status: func(o *gatewayv1.Gateway) *gatewayv1.GatewayStatus { return &o.Status },
			merge:  mergeGateway, equal: equalGateway, release: releaseGateway, events: gatewayEvents,
		},
		sets: kind[*gatewayv1.ListenerSet, gatewayv1.ListenerSetStatus]{
			name: "ListenerSet", client: c.sets, copy: (*gatewayv1.ListenerSet).DeepCopy,
			status: func(o *gatewayv1.ListenerSet) *gatewayv1.ListenerSetStatus { return &o.Status },
			merge:  mergeListenerSet, equal: equalListenerSet, release: releaseListenerSet, events: listenerSetEvents,
		},
		tcp: kind[*gatewayv1.TCPRoute, gatewayv1.RouteStatus]{
			name: "TCPRoute", client: c.tcp, copy: (*gatewayv1.TCPRoute).DeepCopy,
			status: func(o *gatewayv1.TCPRoute) *gatewayv1.RouteStatus { return &o.Status.RouteStatus },
			merge:  mergeParents, equal: equalRoute, events: parentEvents,
		},
		udp: kind[*gatewayv1.UDPRoute, gatewayv1.RouteStatus]{
			name: "UDPRoute", client: c.udp, copy: (*gatewayv1.UDPRoute).DeepCopy,
			status: func(o *gatewayv1.UDPRoute) *gatewayv1.RouteStatus { return &o.Status.RouteStatus },
			merge:  mergeParents, equal: equalRoute, events: parentEvents,
		},
	}
}
