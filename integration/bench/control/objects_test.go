package control

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/topology"
)

const (
	listenersPerGateway = 64 // the API's limit
	firstPort           = 20000
	nodeName            = "node"
	namespace           = "default"
	system              = "portway-system"
)

// site is what a measured cluster consists of: listeners with a TCPRoute and a Service each,
// 64 of them in a Gateway.
type site struct{ listeners, endpoints int }

func (s site) gateways() int { return (s.listeners + listenersPerGateway - 1) / listenersPerGateway }

// objects are all of them, as full as an API server holds them.
func (s site) objects() []apisim.Object {
	all := []apisim.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{corev1.LabelMetadataName: namespace}}},
		node(nodeName, netns.NodeAddr4),
		&gatewayv1.GatewayClass{
			ObjectMeta: metav1.ObjectMeta{Name: "portway"},
			Spec:       gatewayv1.GatewayClassSpec{ControllerName: topology.DefaultConfig().ControllerName},
		},
	}
	for i := range s.gateways() {
		g := &gatewayv1.Gateway{ObjectMeta: meta(fmt.Sprintf("gateway-%d", i)), Spec: gatewayv1.GatewaySpec{GatewayClassName: "portway"}}
		for l := i * listenersPerGateway; l < min((i+1)*listenersPerGateway, s.listeners); l++ {
			g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{
				Name: gatewayv1.SectionName(fmt.Sprintf("l%d", l)), Port: gatewayv1.PortNumber(firstPort + l), Protocol: gatewayv1.TCPProtocolType,
				AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: ptr.To(gatewayv1.NamespacesFromSame)}},
			})
		}
		all = append(all, g)
	}
	for i := range s.listeners {
		all = append(all, route(i), service(i), s.slice(i, 0))
	}
	return all
}

// meta is metadata with what an API server and controllers add.
func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 1, ManagedFields: []metav1.ManagedFieldsEntry{{
		Manager: "kubectl", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/last-applied-configuration":{}},"f:labels":{".":{},"f:app":{}}},"f:spec":{}}`),
	}}}
}

func node(name string, addr netip.Addr) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: "a"}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.String()}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func route(i int) *gatewayv1.TCPRoute {
	return &gatewayv1.TCPRoute{
		ObjectMeta: meta(fmt.Sprintf("route-%d", i)),
		Spec: gatewayv1.TCPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{
				Group: ptr.To(gatewayv1.Group(gatewayv1.GroupName)), Kind: ptr.To(gatewayv1.Kind("Gateway")),
				Name:        gatewayv1.ObjectName(fmt.Sprintf("gateway-%d", i/listenersPerGateway)),
				SectionName: ptr.To(gatewayv1.SectionName(fmt.Sprintf("l%d", i))),
			}}},
			Rules: []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{
				BackendObjectReference: gatewayv1.BackendObjectReference{
					Group: ptr.To(gatewayv1.Group("")), Kind: ptr.To(gatewayv1.Kind("Service")),
					Name: gatewayv1.ObjectName(serviceName(i)), Port: ptr.To(servicePort(i)),
				},
				Weight: ptr.To[int32](1),
			}}}},
		},
	}
}

func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

// servicePort: Services are not all alike.
func servicePort(i int) int32 { return int32(80 + i%50) }

func service(i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: meta(serviceName(i)),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack),
			Selector: map[string]string{"app": serviceName(i)}, SessionAffinity: corev1.ServiceAffinityNone,
			InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyCluster),
			Ports:                 []corev1.ServicePort{{Name: "main", Protocol: corev1.ProtocolTCP, Port: servicePort(i)}},
		},
	}
}

// slice is the EndpointSlice of a Service as Kubernetes' own controller writes it. Its first
// endpoint depends on whether the revision is even or odd.
func (s site) slice(i, revision int) *discoveryv1.EndpointSlice {
	name := serviceName(i)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name + "-x7k2p", GenerateName: name + "-", Generation: int64(revision + 1),
			Labels: map[string]string{
				discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", "app": name,
			},
			Annotations:     map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-11-23T10:11:12Z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: name, UID: uid(i), Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)}},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "discovery.k8s.io/v1", FieldsType: "FieldsV1",
				FieldsV1: metav1.NewFieldsV1(`{"f:addressType":{},"f:endpoints":{},"f:metadata":{"f:annotations":{".":{},"f:endpoints.kubernetes.io/last-change-trigger-time":{}},"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:endpointslice.kubernetes.io/managed-by":{},"f:kubernetes.io/service-name":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"8c1b0d5e-0000-4000-8000-000000000000\"}":{}}},"f:ports":{}}`),
			}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("main"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for e := range s.endpoints {
		pod := e
		if e == 0 && revision%2 == 1 {
			pod = s.endpoints // the one that replaces the first
		}
		n := i*(s.endpoints+1) + pod
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 64+n>>16, n>>8&255, n&255)},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
			NodeName:   ptr.To(fmt.Sprintf("node-%d.example.internal", n%5000)),
			Zone:       ptr.To(string(rune('a' + n%3))),
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: namespace, Name: fmt.Sprintf("%s-6d4cf56db6-%05d", name, pod), UID: uid(n),
			},
		})
	}
	return slice
}

func uid(n int) types.UID {
	return types.UID(fmt.Sprintf("8c1b0d5e-0000-4000-8000-%012d", n))
}
