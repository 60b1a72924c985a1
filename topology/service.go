package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// agentLabels are those of the agents' pods (deploy/chart).
var agentLabels = map[string]string{"app.kubernetes.io/name": "portway", "app.kubernetes.io/component": "agent"}

// discardPort is where kube-proxy leads what our rules do not take, while a port has no
// node port yet: agents share the network of their nodes, so that any other port would
// be one of the node's own programs, offered to the world (RFC 863).
const discardPort = 9

// Service returns what the Gateway's Service has to be like: what we say of it and
// nothing else, so that it can be applied. nil where it needs none, and where the one it
// has, or another's of that name, has to stay as it is: an address is not given up over
// a typing mistake.
func (g *Gateway) Service() *corev1.Service {
	lb := g.LoadBalancer
	if lb == nil || lb.foreign || lb.deleting() {
		return nil
	}
	ports := g.servicePorts()
	if len(ports) == 0 {
		return nil
	}
	infrastructure := ptr.Deref(g.Source.Spec.Infrastructure, gatewayv1.GatewayInfrastructure{})
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: lb.Key.Namespace, Name: lb.Key.Name,
			Labels: propagated(infrastructure.Labels), Annotations: propagated(infrastructure.Annotations),
		},
		Spec: corev1.ServiceSpec{
			Type:                  corev1.ServiceTypeLoadBalancer,
			Selector:              agentLabels,
			Ports:                 ports,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, // nodes with an agent only, and clients keep their address
		},
	}
	service.Spec.IPFamilies, service.Spec.IPFamilyPolicy = g.serviceFamilies()
	if class := g.serviceClass(); class != "" {
		service.Spec.LoadBalancerClass = &class
	}
	service.Labels[v1alpha1.GatewayNamespaceLabel] = g.Key.Namespace
	service.Labels[v1alpha1.GatewayNameLabel] = labelOf(g.Key.Name)
	service.Annotations[v1alpha1.GatewayAnnotation] = g.Key.String()
	service.Annotations[v1alpha1.GatewayUIDAnnotation] = string(g.Source.UID)
	service.Annotations[v1alpha1.AppliedAnnotation] = contentHash(service)
	return service
}

// propagated leaves out what is ours to say.
func propagated[K, V ~string](given map[K]V) map[string]string {
	kept := map[string]string{}
	for key, value := range given {
		if !strings.HasPrefix(string(key), v1alpha1.GroupName+"/") {
			kept[string(key)] = string(value)
		}
	}
	return kept
}

// servicePorts are those of the valid listeners. Whoever translates before our rules, a
// load balancer that knows pods or a kube-proxy of eBPF, sends to the target port of an
// agent's address: with the node port there, that is a Frontend like the others.
func (g *Gateway) servicePorts() []corev1.ServicePort {
	var ports []corev1.ServicePort
	for _, l := range g.Listeners {
		if l.Valid {
			ports = append(ports, newServicePort(l.Protocol, l.Port, cmp.Or(l.nodePort(), discardPort)))
		}
	}
	if i := slices.IndexFunc(g.Listeners, func(l *Listener) bool { return l.loses }); i >= 0 && len(ports) == 0 {
		// A Service has at least one port; the listener's own has to go for a moment.
		other := gatewayv1.UDPProtocolType
		if g.Listeners[i].Protocol == other {
			other = gatewayv1.TCPProtocolType
		}
		return []corev1.ServicePort{newServicePort(other, g.Listeners[i].Port, discardPort)}
	}
	slices.SortFunc(ports, func(a, b corev1.ServicePort) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return ports
}

func newServicePort(protocol gatewayv1.ProtocolType, port, target uint16) corev1.ServicePort {
	return corev1.ServicePort{
		Name:       fmt.Sprintf("%s-%d", strings.ToLower(string(protocol)), port),
		Protocol:   corev1.Protocol(protocol),
		Port:       int32(port),
		TargetPort: intstr.FromInt32(int32(target)),
	}
}

// serviceFamilies: the API server never changes the first family of a Service. What the
// parameters leave open is as the cluster made it.
func (g *Gateway) serviceFamilies() ([]corev1.IPFamily, *corev1.IPFamilyPolicy) {
	families := g.Parameters.Families
	if source := g.LoadBalancer.Source; source != nil && len(source.Spec.IPFamilies) > 0 {
		first := source.Spec.IPFamilies[0]
		if !slices.Contains(families, first) {
			return source.Spec.IPFamilies, source.Spec.IPFamilyPolicy
		}
		families = append([]corev1.IPFamily{first}, slices.DeleteFunc(slices.Clone(families), func(f corev1.IPFamily) bool { return f == first })...)
	}
	switch len(families) {
	case 0:
		return nil, nil
	case 1:
		return families, ptr.To(corev1.IPFamilyPolicySingleStack)
	default:
		return families, ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	}
}

// serviceClass: the API server never changes that either, as long as the type stays.
func (g *Gateway) serviceClass() string {
	if source := g.LoadBalancer.Source; source != nil && source.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return ptr.Deref(source.Spec.LoadBalancerClass, "")
	}
	return g.Parameters.LoadBalancerClass
}

func contentHash(service *corev1.Service) string {
	content, err := json.Marshal([]any{service.Labels, service.Annotations, service.Spec})
	if err != nil { // it has no field that could not be encoded
		return ""
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:digestBytes])
}

// SameService reports whether a Service is as it has to be. Fields that we say nothing of
// are those of others, and so are further ports.
func SameService(is, want *corev1.Service) bool {
	return holds(is.Labels, want.Labels) && holds(is.Annotations, want.Annotations) &&
		is.Spec.Type == want.Spec.Type && maps.Equal(is.Spec.Selector, want.Spec.Selector) &&
		is.Spec.ExternalTrafficPolicy == want.Spec.ExternalTrafficPolicy &&
		ptr.Equal(is.Spec.LoadBalancerClass, want.Spec.LoadBalancerClass) &&
		(len(want.Spec.IPFamilies) == 0 || slices.Equal(is.Spec.IPFamilies, want.Spec.IPFamilies)) &&
		(want.Spec.IPFamilyPolicy == nil || ptr.Equal(is.Spec.IPFamilyPolicy, want.Spec.IPFamilyPolicy)) &&
		!slices.ContainsFunc(want.Spec.Ports, func(port corev1.ServicePort) bool {
			return !slices.ContainsFunc(is.Spec.Ports, func(other corev1.ServicePort) bool {
				other.NodePort, other.AppProtocol = 0, nil
				return other == port
			})
		})
}

// holds reports whether a map has all that another one has.
func holds(is, want map[string]string) bool {
	for key, value := range want {
		if has, ok := is[key]; !ok || has != value {
			return false
		}
	}
	return true
}
