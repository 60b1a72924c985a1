package topology

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// nodePortServices returns the Services by their NodePorts, which every node has as
// the listeners in node mode do. The API server gives each to one Service only; of
// files that say otherwise the oldest Service counts.
func nodePortServices(services map[types.NamespacedName]*corev1.Service) map[claim]age {
	owners := make(map[claim]age)
	for key, service := range services {
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			if port.NodePort < 1 || port.NodePort > 65535 {
				continue
			}
			at := claim{gatewayv1.ProtocolType(port.Protocol), uint16(port.NodePort)}
			owner := newAge(service.CreationTimestamp, key)
			if other, taken := owners[at]; !taken || compareAge(owner, other) < 0 {
				owners[at] = owner
			}
		}
	}
	return owners
}

// admitBesideNodePorts settles who has a port of the nodes, the listener or a Service:
// the older of Gateway and Service, as among Gateways. A Service that is younger
// takes no port away from a listener that works; but then it is told to the Gateway,
// since the Service has no status to tell it in.
func (b *bindings) admitBesideNodePorts(l *Listener) {
	service, taken := b.services[claim{l.Protocol, l.Port}]
	switch {
	case !taken:
	case compareAge(service, l.Gateway.age()) < 0:
		l.reject(nodePortTaken(l, service.name))
	default:
		l.outranked = service.name
	}
}
