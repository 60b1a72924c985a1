package topology

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const kindService gatewayv1.Kind = "Service"

// backendResolver resolves backendRefs to Service ports.
type backendResolver struct {
	services map[types.NamespacedName]*corev1.Service
	grants   grants
}

func newBackendResolver(s Snapshot) backendResolver {
	return backendResolver{services: s.Services, grants: newGrants(s.ReferenceGrants)}
}

// resolve fills in the route's Backends. All rules are checked for the status;
// Backends are those of the one rule a route may have.
func (b backendResolver) resolve(r *Route) {
	for i, refs := range r.Object.Rules {
		backends := make([]BackendRef, 0, len(refs))
		for j := range refs {
			backend, invalid := b.backend(r.Key, backendRefPosition{i, j}, &refs[j])
			if invalid.exists() {
				r.backendFaults = append(r.backendFaults, invalid)
			}
			backend.Valid = !invalid.exists()
			backends = append(backends, backend)
		}
		if len(r.Object.Rules) == 1 {
			r.Backends = backends
		}
	}
}

// backend resolves one reference. The order of the checks is the order of the
// reasons; above all, nothing in another namespace is looked at before a
// ReferenceGrant permits it. Service appProtocol is ignored: it names what
// flows inside a TCP or UDP flow.
func (b backendResolver) backend(route RouteKey, at backendRefPosition, ref *gatewayv1.BackendRef) (BackendRef, fault) {
	backend := BackendRef{
		Service: objectKey(ref.Namespace, ref.Name, route.Namespace),
		Port:    int32(ptr.Deref(ref.Port, 0)),
		Weight:  ptr.Deref(ref.Weight, 1),
	}
	group, kind := ptr.Deref(ref.Group, ""), ptr.Deref(ref.Kind, kindService)
	if group != "" || kind != kindService {
		return backend, backendKindUnsupported(at, group, kind)
	}
	if !b.grants.permit(route, backend.Service) {
		return backend, backendNotPermitted(at, route, backend.Service)
	}
	service, exists := b.services[backend.Service]
	switch {
	case !exists:
		return backend, serviceNotFound(at, backend.Service)
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		return backend, externalNameUnsupported(at, backend.Service)
	case ref.Port == nil:
		return backend, backendPortMissing(at)
	}
	port, numberExists := servicePort(service, backend.Port, routeProtocol(route.Kind))
	switch {
	case port != nil:
		backend.PortName = port.Name
		backend.LocalOnly = service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
		backend.ClientAffinity = service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
		return backend, fault{}
	case numberExists:
		return backend, servicePortProtocolDiffers(at, route.Kind, backend)
	default:
		return backend, servicePortNotFound(at, backend)
	}
}

// servicePort finds a port by number and protocol, since a Service may have one
// number for TCP and for UDP. numberExists tells a wrong protocol from a wrong
// number.
func servicePort(service *corev1.Service, number int32, protocol corev1.Protocol) (port *corev1.ServicePort, numberExists bool) {
	for i := range service.Spec.Ports {
		candidate := &service.Spec.Ports[i]
		if candidate.Port != number {
			continue
		}
		if cmp.Or(candidate.Protocol, corev1.ProtocolTCP) == protocol {
			return candidate, true
		}
		numberExists = true
	}
	return nil, numberExists
}

func routeProtocol(kind gatewayv1.Kind) corev1.Protocol {
	if kind == KindUDPRoute {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}
