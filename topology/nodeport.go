package topology

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// nodePortServices returns the Services by their NodePorts, which every node has as
// the listeners in node mode do. Services of ours are not among them: Gateways have
// their ports. The API server gives each to one Service only; of
// files that say otherwise the oldest Service counts.
func nodePortServices(services map[types.NamespacedName]*corev1.Service, c Config) map[claim]age {
	owners := make(map[claim]age)
	for key, service := range services {
		if c.owns(service) {
			continue
		}
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

// nodePortScopes are where a node port has to be free: it is of every address of every
// node.
var nodePortScopes = []place{{scope: allNodes}, {scope: someNodes}}

// admitNodePort takes the node port of a listener in mode LoadBalancer, or rejects the
// listener and reports false: an older Gateway in node mode may have the port, of which
// the API server knows nothing when it chooses one. A rejected listener is no longer a
// port of the Service; once that is so, it is valid again and gets another node port.
func (b *bindings) admitNodePort(l *Listener) bool {
	port := l.nodePort()
	if port == 0 {
		return true
	}
	wanted := binding{claim: claim{l.Protocol, port}}
	for _, wanted.place = range nodePortScopes {
		if holder, taken := b.taken[wanted]; taken {
			l.reject(nodePortHeld(l, holder))
			l.loses = true
			return false
		}
	}
	wanted.place = place{scope: allNodes}
	b.taken[wanted] = l
	return true
}
