package cluster

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// The functions of this file make objects as small as what is made of them.
// They may change what they are given: it was just decoded for us. Trimmed
// objects are for reading; whoever writes metadata or spec sends a patch.

// FieldManager is the name under which the controller writes statuses.
const FieldManager = "portway-controller"

// trimmer trims for one of the two programs. The zero value is the agent's: no
// statuses (but for Gateway addresses), no labels and annotations that nothing
// of the decision depends on.
type trimmer struct {
	// statuses: the writer of statuses compares with what is there.
	statuses bool
}

// meta trims metadata of a kind of the Gateway API.
func (t trimmer) meta(o Object) {
	clean(o)
	if !t.statuses {
		reduce(o, nil)
	}
}

// metaWithFields keeps for the controller which fields of the status it wrote: the
// status of such a kind says nowhere whose it is.
func (t trimmer) metaWithFields(o Object) {
	var wrote []metav1.ManagedFieldsEntry
	for _, entry := range o.GetManagedFields() {
		if t.statuses && entry.Manager == FieldManager && entry.Subresource == "status" {
			wrote = append(wrote, entry)
		}
	}
	t.meta(o)
	o.SetManagedFields(wrote)
}

// clean drops what nobody wants. The type of an object is that of its Go type;
// lists carry it in every item of a custom resource and watches do not, so that
// it would make equal objects differ.
func clean(o Object) {
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	if len(annotations) == 0 {
		o.SetAnnotations(nil)
	}
}

// reduce keeps of the metadata what identifies and orders objects, and labels.
func reduce(o metav1.Object, labels map[string]string) {
	o.SetAnnotations(nil)
	o.SetLabels(labels)
	o.SetOwnerReferences(nil)
	o.SetFinalizers(nil)
	o.SetManagedFields(nil)
	o.SetSelfLink("")
	o.SetGenerateName("")
}

func (t trimmer) gatewayClass(c *gatewayv1.GatewayClass) Object {
	t.meta(c)
	if !t.statuses {
		c.Status = gatewayv1.GatewayClassStatus{}
	}
	return c
}

// gateway keeps of the status, for an agent, the addresses and the record of where they
// are from: they are what agents are told.
func (t trimmer) gateway(g *gatewayv1.Gateway) Object {
	g.Spec.Listeners = exact(g.Spec.Listeners)
	for i := range g.Spec.Listeners {
		shareAllowed(&g.Spec.Listeners[i].AllowedRoutes)
	}
	t.metaWithFields(g)
	if !t.statuses {
		g.Status = gatewayv1.GatewayStatus{Addresses: g.Status.Addresses, Conditions: addressMode(g.Status.Conditions)}
	}
	return g
}

// addressMode keeps of a Gateway's conditions what topology.RecordedMode reads.
func addressMode(conditions []metav1.Condition) []metav1.Condition {
	for i := range conditions {
		if c := &conditions[i]; c.Type == topology.ConditionAddressMode {
			return []metav1.Condition{{Type: c.Type, Status: c.Status, Reason: c.Reason}}
		}
	}
	return nil
}

func (t trimmer) listenerSet(s *gatewayv1.ListenerSet) Object {
	s.Spec.Listeners = exact(s.Spec.Listeners)
	for i := range s.Spec.Listeners {
		shareAllowed(&s.Spec.Listeners[i].AllowedRoutes)
	}
	t.metaWithFields(s)
	if !t.statuses {
		s.Status = gatewayv1.ListenerSetStatus{}
	}
	return s
}

func (t trimmer) tcpRoute(r *gatewayv1.TCPRoute) Object {
	r.Spec.ParentRefs, r.Spec.Rules = shareParents(r.Spec.ParentRefs), exact(r.Spec.Rules)
	for i := range r.Spec.Rules {
		r.Spec.Rules[i].BackendRefs = shareBackends(r.Spec.Rules[i].BackendRefs)
	}
	t.meta(r)
	if !t.statuses {
		r.Status = gatewayv1.TCPRouteStatus{}
	}
	return r
}

func (t trimmer) udpRoute(r *gatewayv1.UDPRoute) Object {
	r.Spec.ParentRefs, r.Spec.Rules = shareParents(r.Spec.ParentRefs), exact(r.Spec.Rules)
	for i := range r.Spec.Rules {
		r.Spec.Rules[i].BackendRefs = shareBackends(r.Spec.Rules[i].BackendRefs)
	}
	t.meta(r)
	if !t.statuses {
		r.Status = gatewayv1.UDPRouteStatus{}
	}
	return r
}

func (t trimmer) tcpRouteV1alpha2(r *gatewayv1alpha2.TCPRoute) Object {
	return t.tcpRoute(TCPRouteFromV1alpha2(r))
}

func (t trimmer) udpRouteV1alpha2(r *gatewayv1alpha2.UDPRoute) Object {
	return t.udpRoute(UDPRouteFromV1alpha2(r))
}

func (t trimmer) referenceGrant(g *gatewayv1.ReferenceGrant) Object {
	t.meta(g)
	return g
}

func (t trimmer) referenceGrantV1beta1(g *gatewayv1beta1.ReferenceGrant) Object {
	return t.referenceGrant((*gatewayv1.ReferenceGrant)(g))
}

// addressPool keeps of the status, for an agent, what Gateways may keep.
func (t trimmer) addressPool(p *v1alpha1.AddressPool) Object {
	t.meta(p)
	if !t.statuses {
		p.Status = v1alpha1.AddressPoolStatus{Addresses: p.Status.Addresses, Retained: p.Status.Retained}
	}
	return p
}

func (t trimmer) gatewayParameters(p *v1alpha1.GatewayParameters) Object {
	clean(p)
	reduce(p, nil)
	return p
}

func (trimmer) namespace(n *corev1.Namespace) Object {
	clean(n)
	reduce(n, n.Labels)
	n.Spec, n.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	return n
}

func (t trimmer) service(s *corev1.Service) Object {
	clean(s)
	if s.Labels[v1alpha1.GatewayNamespaceLabel] != "" && s.Labels[v1alpha1.GatewayNameLabel] != "" {
		return t.loadBalancer(s)
	}
	ports, plain := make([]corev1.ServicePort, 0, len(s.Spec.Ports)), true
	for _, p := range s.Spec.Ports {
		ports = append(ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port, NodePort: p.NodePort})
		plain = plain && p.NodePort == 0
	}
	spec := corev1.ServiceSpec{
		Type: s.Spec.Type, Ports: ports,
		SessionAffinity: s.Spec.SessionAffinity, ExternalTrafficPolicy: s.Spec.ExternalTrafficPolicy,
	}
	if plain {
		return newPlainService(s, spec)
	}
	reduce(s, nil)
	s.Spec, s.Status = spec, corev1.ServiceStatus{}
	return s
}

// loadBalancer keeps of a Service of ours what it is reached at, and for the controller
// what it has to be like.
func (t trimmer) loadBalancer(s *corev1.Service) Object {
	labels := map[string]string{
		v1alpha1.GatewayNamespaceLabel: s.Labels[v1alpha1.GatewayNamespaceLabel], v1alpha1.GatewayNameLabel: s.Labels[v1alpha1.GatewayNameLabel],
	}
	var annotations map[string]string
	spec := corev1.ServiceSpec{
		Type: s.Spec.Type, Ports: s.Spec.Ports, IPFamilies: s.Spec.IPFamilies, LoadBalancerClass: s.Spec.LoadBalancerClass,
		SessionAffinity: s.Spec.SessionAffinity, ExternalTrafficPolicy: s.Spec.ExternalTrafficPolicy,
	}
	if t.statuses {
		labels, annotations = s.Labels, s.Annotations
		spec.Selector, spec.IPFamilyPolicy = s.Spec.Selector, s.Spec.IPFamilyPolicy
	}
	reduce(s, labels)
	s.SetAnnotations(annotations)
	s.Spec, s.Status = spec, corev1.ServiceStatus{LoadBalancer: s.Status.LoadBalancer}
	return s
}

// endpointSlice keeps what the decision goes by. Above all not the annotation with the time
// of the last change of a pod: it moves when nothing else does.
func (trimmer) endpointSlice(s *discoveryv1.EndpointSlice) Object { return newEndpointSlice(s) }

// node keeps labels, addresses, which boot it is and whether the node is ready. A kubelet writes
// the time of its heartbeat every few minutes: nothing for us.
func (trimmer) node(n *corev1.Node) Object {
	clean(n)
	reduce(n, n.Labels)
	status := corev1.NodeStatus{Addresses: n.Status.Addresses, NodeInfo: corev1.NodeSystemInfo{BootID: n.Status.NodeInfo.BootID}}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status, Reason: c.Reason, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	n.Spec = corev1.NodeSpec{Unschedulable: n.Spec.Unschedulable}
	n.Status = status
	return n
}

func (trimmer) lease(l *coordinationv1.Lease) Object {
	clean(l)
	reduce(l, l.Labels)
	return l
}

// crd keeps of a CustomResourceDefinition which release of the Gateway API it is
// of; those of others stay as names only.
func (trimmer) crd(c *metav1.PartialObjectMetadata) Object {
	clean(c)
	version, known := c.Annotations[consts.BundleVersionAnnotation]
	reduce(c, nil)
	if known && isGatewayCRD(c) {
		c.SetAnnotations(map[string]string{consts.BundleVersionAnnotation: version})
	}
	return c
}
