package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
)

// asOurs names the writer, whatever the binary is called: by that name it knows
// its statuses again.
var asOurs = metav1.UpdateOptions{FieldManager: cluster.FieldManager}

// clients are the statusClients of all kinds, and what finalizers and Services need.
type clients struct {
	classes statusClient[*gatewayv1.GatewayClass]
	// patchClass and patchPool merge a patch into a class or pool.
	patchClass, patchPool func(ctx context.Context, name string, patch []byte) error
	gateways              statusClient[*gatewayv1.Gateway]
	// listGateways lists those of all namespaces.
	listGateways func(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error)
	pools        statusClient[*v1alpha1.AddressPool]
	sets         statusClient[*gatewayv1.ListenerSet]
	tcp          statusClient[*gatewayv1.TCPRoute]
	udp          statusClient[*gatewayv1.UDPRoute]
	// services are written in the namespace of the agents only.
	services typedcorev1.ServicesGetter
	// served returns the version that each kind is read in.
	served func() map[string]string
}

// newClients returns clients of a clientset, and for AddressPools and Services; served
// tells the version of kinds of which there are several.
func newClients(c gatewayclient.Interface, pools cluster.AddressPools, services typedcorev1.ServicesGetter, served func() map[string]string) clients {
	v1, v1alpha2 := c.GatewayV1(), c.GatewayV1alpha2()
	return clients{
		services: services, served: served,
		classes: typedClient[*gatewayv1.GatewayClass]{func(string) typed[*gatewayv1.GatewayClass] { return v1.GatewayClasses() }},
		patchClass: func(ctx context.Context, name string, patch []byte) error {
			_, err := v1.GatewayClasses().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cluster.FieldManager})
			return err
		},
		patchPool: func(ctx context.Context, name string, patch []byte) error {
			_, err := pools.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cluster.FieldManager})
			return err
		},
		gateways:     typedClient[*gatewayv1.Gateway]{func(ns string) typed[*gatewayv1.Gateway] { return v1.Gateways(ns) }},
		listGateways: v1.Gateways(metav1.NamespaceAll).List,
		pools:        typedClient[*v1alpha1.AddressPool]{func(string) typed[*v1alpha1.AddressPool] { return pools }},
		sets:         typedClient[*gatewayv1.ListenerSet]{func(ns string) typed[*gatewayv1.ListenerSet] { return v1.ListenerSets(ns) }},
		tcp: servedClient[*gatewayv1.TCPRoute]{"TCPRoute", served, map[string]statusClient[*gatewayv1.TCPRoute]{
			"v1": typedClient[*gatewayv1.TCPRoute]{func(ns string) typed[*gatewayv1.TCPRoute] { return v1.TCPRoutes(ns) }},
			"v1alpha2": convertedClient[*gatewayv1.TCPRoute, *gatewayv1alpha2.TCPRoute]{
				typedClient[*gatewayv1alpha2.TCPRoute]{func(ns string) typed[*gatewayv1alpha2.TCPRoute] { return v1alpha2.TCPRoutes(ns) }},
				cluster.TCPRouteFromV1alpha2, cluster.TCPRouteToV1alpha2,
			},
		}},
		udp: servedClient[*gatewayv1.UDPRoute]{"UDPRoute", served, map[string]statusClient[*gatewayv1.UDPRoute]{
			"v1": typedClient[*gatewayv1.UDPRoute]{func(ns string) typed[*gatewayv1.UDPRoute] { return v1.UDPRoutes(ns) }},
			"v1alpha2": convertedClient[*gatewayv1.UDPRoute, *gatewayv1alpha2.UDPRoute]{
				typedClient[*gatewayv1alpha2.UDPRoute]{func(ns string) typed[*gatewayv1alpha2.UDPRoute] { return v1alpha2.UDPRoutes(ns) }},
				cluster.UDPRouteFromV1alpha2, cluster.UDPRouteToV1alpha2,
			},
		}},
	}
}

// typed is what the generated clients of all kinds have in common.
type typed[P object] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (P, error)
	UpdateStatus(ctx context.Context, object P, options metav1.UpdateOptions) (P, error)
}

// typedClient makes a statusClient of a generated client.
type typedClient[P object] struct {
	in func(namespace string) typed[P]
}

func (c typedClient[P]) Get(ctx context.Context, key types.NamespacedName) (P, error) {
	return c.in(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
}

func (c typedClient[P]) UpdateStatus(ctx context.Context, object P) (P, error) {
	return c.in(object.GetNamespace()).UpdateStatus(ctx, object, asOurs)
}
