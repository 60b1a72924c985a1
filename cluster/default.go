package cluster

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// The defaults of this file are those an API server sets: the "default" of the
// Gateway API's CRDs (v1.6.3) and ours, and k8s.io/kubernetes/pkg/apis/{core,discovery}
// for Services and EndpointSlices. A status in a file is dropped: a status is
// our output and never an input.

// defaultMeta sets what the API server fills in for objects of any kind.
func defaultMeta(meta metav1.Object, k kind) {
	if meta.GetNamespace() == "" && !k.cluster {
		meta.SetNamespace(metav1.NamespaceDefault)
	}
	if meta.GetGeneration() == 0 {
		meta.SetGeneration(1)
	}
}

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}

func defaultGatewayClass(c *gatewayv1.GatewayClass) { c.Status = gatewayv1.GatewayClassStatus{} }

func defaultGateway(g *gatewayv1.Gateway) {
	g.Status = gatewayv1.GatewayStatus{}
	for i := range g.Spec.Listeners {
		l := &g.Spec.Listeners[i]
		l.AllowedRoutes = defaultAllowedRoutes(l.AllowedRoutes)
		defaultListenerTLS(l.TLS)
	}
	for i := range g.Spec.Addresses {
		setDefault(&g.Spec.Addresses[i].Type, gatewayv1.IPAddressType)
	}
	if allowed := g.Spec.AllowedListeners; allowed != nil {
		setDefault(&allowed.Namespaces, gatewayv1.ListenerNamespaces{})
		setDefault(&allowed.Namespaces.From, gatewayv1.NamespacesFromNone)
	}
}

func defaultListenerSet(s *gatewayv1.ListenerSet) {
	s.Status = gatewayv1.ListenerSetStatus{}
	setDefault(&s.Spec.ParentRef.Group, gatewayv1.Group(gatewayGroup))
	setDefault(&s.Spec.ParentRef.Kind, "Gateway")
	for i := range s.Spec.Listeners {
		l := &s.Spec.Listeners[i]
		l.AllowedRoutes = defaultAllowedRoutes(l.AllowedRoutes)
		defaultListenerTLS(l.TLS)
	}
}

func defaultAllowedRoutes(a *gatewayv1.AllowedRoutes) *gatewayv1.AllowedRoutes {
	if a == nil {
		a = &gatewayv1.AllowedRoutes{}
	}
	setDefault(&a.Namespaces, gatewayv1.RouteNamespaces{})
	setDefault(&a.Namespaces.From, gatewayv1.NamespacesFromSame)
	for i := range a.Kinds {
		setDefault(&a.Kinds[i].Group, gatewayv1.Group(gatewayGroup))
	}
	return a
}

func defaultListenerTLS(tls *gatewayv1.ListenerTLSConfig) {
	if tls == nil {
		return
	}
	setDefault(&tls.Mode, gatewayv1.TLSModeTerminate)
	for i := range tls.CertificateRefs {
		setDefault(&tls.CertificateRefs[i].Group, "")
		setDefault(&tls.CertificateRefs[i].Kind, "Secret")
	}
}

func defaultTCPRoute(r *gatewayv1.TCPRoute) {
	r.Status = gatewayv1.TCPRouteStatus{}
	defaultParentRefs(r.Spec.ParentRefs)
	for i := range r.Spec.Rules {
		defaultBackendRefs(r.Spec.Rules[i].BackendRefs)
	}
}

func defaultUDPRoute(r *gatewayv1.UDPRoute) {
	r.Status = gatewayv1.UDPRouteStatus{}
	defaultParentRefs(r.Spec.ParentRefs)
	for i := range r.Spec.Rules {
		defaultBackendRefs(r.Spec.Rules[i].BackendRefs)
	}
}

func defaultParentRefs(refs []gatewayv1.ParentReference) {
	for i := range refs {
		setDefault(&refs[i].Group, gatewayv1.Group(gatewayGroup))
		setDefault(&refs[i].Kind, "Gateway")
	}
}

func defaultBackendRefs(refs []gatewayv1.BackendRef) {
	for i := range refs {
		setDefault(&refs[i].Group, "")
		setDefault(&refs[i].Kind, "Service")
		setDefault(&refs[i].Weight, 1)
	}
}

func defaultAddressPool(p *v1alpha1.AddressPool) {
	p.Status = v1alpha1.AddressPoolStatus{}
	setDefault(&p.Spec.AutoAssign, true)
	if namespaces := p.Spec.Namespaces; namespaces != nil {
		namespaces.From = cmp.Or(namespaces.From, v1alpha1.NamespacesFromAll)
	}
	if announcement := p.Spec.Announcement; announcement != nil {
		announcement.Mode = cmp.Or(announcement.Mode, v1alpha1.AnnouncementNone)
	}
}

// defaultNamespace sets the label by which selectors find a namespace; the API
// server sets it on every Namespace and allows no other value.
func defaultNamespace(n *corev1.Namespace) {
	n.Status = corev1.NamespaceStatus{}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func defaultService(s *corev1.Service) {
	s.Status = corev1.ServiceStatus{}
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if s.Spec.SessionAffinity == "" {
		s.Spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if s.Spec.ExternalTrafficPolicy == "" && externallyAccessible(s) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

// externallyAccessible reports whether a Service has a way in from outside, which
// is where an externalTrafficPolicy belongs.
func externallyAccessible(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	default:
		return s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
	}
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		setDefault(&s.Ports[i].Name, "")
		setDefault(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}
