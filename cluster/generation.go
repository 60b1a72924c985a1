package cluster

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// withGeneration gives an edited object the generation the API server would:
// one more when anything but metadata changed. A generation written in the file
// (other than 1) stands.
func withGeneration(old, object Object) Object {
	if object.GetGeneration() != 1 {
		return object
	}
	generation := old.GetGeneration()
	if !sameContent(old, object) {
		generation++
	}
	if generation == object.GetGeneration() {
		return object
	}
	edited, ok := object.DeepCopyObject().(Object)
	if !ok {
		return object
	}
	edited.SetGeneration(generation)
	return edited
}

// sameContent compares everything but metadata.
func sameContent(a, b Object) bool {
	return equality.Semantic.DeepEqual(contentOf(a), contentOf(b))
}

func contentOf(object Object) any {
	switch o := object.(type) {
	case *gatewayv1.GatewayClass:
		return o.Spec
	case *gatewayv1.Gateway:
		return o.Spec
	case *gatewayv1.ListenerSet:
		return o.Spec
	case *gatewayv1.TCPRoute:
		return o.Spec
	case *gatewayv1.UDPRoute:
		return o.Spec
	case *gatewayv1.ReferenceGrant:
		return o.Spec
	case *v1alpha1.AddressPool:
		return o.Spec
	case *v1alpha1.GatewayParameters:
		return o.Spec
	case *corev1.Namespace:
		return o.Spec
	case *corev1.Service:
		return o.Spec
	case *discoveryv1.EndpointSlice:
		return [2]any{o.Endpoints, o.Ports}
	default:
		return object
	}
}
