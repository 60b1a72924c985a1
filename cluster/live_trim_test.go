package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// big is metadata as clusters have it.
func big(name string) metav1.ObjectMeta {
	fields := metav1.NewFieldsV1(`{"f:spec":{` + strings.Repeat(`"f:x":{},`, 200) + `"f:y":{}}}`)
	return metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: "7d9c8a2e-0b1f-4f6e-9d58-1f0d5c2a3b4c", ResourceVersion: "123456", Generation: 3,
		Labels:        map[string]string{discoveryv1.LabelServiceName: "s", "app": "demo"},
		Annotations:   map[string]string{corev1.LastAppliedConfigAnnotation: strings.Repeat("x", 3000), "note": "mine"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: fields}},
		Finalizers:    []string{"example.com/f"},
	}
}

// owned is metadata of a Service of ours.
func owned(m metav1.ObjectMeta) metav1.ObjectMeta {
	m.Labels[v1alpha1.GatewayNamespaceLabel], m.Labels[v1alpha1.GatewayNameLabel] = "default", "web"
	return m
}

// TestTrimKeepsWhatIsApplied: the controller compares all that it says of a Service.
func TestTrimKeepsWhatIsApplied(t *testing.T) {
	service := &corev1.Service{ObjectMeta: owned(big("s")), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "selected"},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack),
		LoadBalancerClass: ptr.To("example.com/a"), ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
		Ports: []corev1.ServicePort{{Name: "tcp-80", Port: 80, NodePort: 30080, TargetPort: intstr.FromInt32(30080)}},
	}}
	delete(service.Annotations, corev1.LastAppliedConfigAnnotation)
	trimmed, ok := trimAny(t, trimmer{statuses: true}, service.DeepCopy()).(*corev1.Service)
	service.Spec.Ports[0].NodePort = 0 // which is not ours to say
	if !ok || !topology.SameService(trimmed, service) {
		t.Errorf("lost is something of (-want +got):\n%s", cmp.Diff(service.Spec, trimmed.Spec))
	}
}

func TestTrimSizes(t *testing.T) {
	conditions := []metav1.Condition{{Type: "Accepted", Message: strings.Repeat("m", 500)}}
	parents := gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{Conditions: conditions}}}
	objects := map[string]struct {
		object              Object
		agent, controller   int // bytes of JSON at most
		keepsInTheFirst     string
		notEvenInTheSecond  string
		controllerHasStatus bool
	}{
		"Gateway": {
			object: &gatewayv1.Gateway{ObjectMeta: big("g"), Status: gatewayv1.GatewayStatus{
				Conditions: append(slices.Clone(conditions), metav1.Condition{Type: topology.ConditionAddressMode, Status: metav1.ConditionTrue, Reason: "Pool", Message: strings.Repeat("m", 100)}),
				Addresses:  []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.1"}},
			}},
			agent: 400, controller: 1400, keepsInTheFirst: `"reason":"Pool"`, notEvenInTheSecond: "last-applied", controllerHasStatus: true,
		},
		"GatewayClass": {
			object: &gatewayv1.GatewayClass{ObjectMeta: big("c"), Status: gatewayv1.GatewayClassStatus{Conditions: conditions}},
			agent:  250, controller: 1100, notEvenInTheSecond: "last-applied", controllerHasStatus: true,
		},
		"ListenerSet": {
			object: &gatewayv1.ListenerSet{ObjectMeta: big("l"), Status: gatewayv1.ListenerSetStatus{Conditions: conditions}},
			agent:  300, controller: 1100, notEvenInTheSecond: "last-applied", controllerHasStatus: true,
		},
		"TCPRoute": {
			object: &gatewayv1.TCPRoute{ObjectMeta: big("r"), Status: gatewayv1.TCPRouteStatus{RouteStatus: parents}},
			agent:  250, controller: 1200, notEvenInTheSecond: "managedFields", controllerHasStatus: true,
		},
		"UDPRoute": {
			object: &gatewayv1.UDPRoute{ObjectMeta: big("r"), Status: gatewayv1.UDPRouteStatus{RouteStatus: parents}},
			agent:  250, controller: 1200, notEvenInTheSecond: "managedFields", controllerHasStatus: true,
		},
		"Namespace": {
			object: &corev1.Namespace{ObjectMeta: big("n"), Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}}},
			agent:  300, controller: 300, keepsInTheFirst: `"app":"demo"`, notEvenInTheSecond: "note",
		},
		"Service": {
			object: &corev1.Service{ObjectMeta: big("s"), Spec: corev1.ServiceSpec{
				Selector: map[string]string{"app": "demo"}, ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "web", Port: 80, NodePort: 30080}},
			}},
			agent: 300, controller: 300, keepsInTheFirst: `"port":80`, notEvenInTheSecond: "10.96.0.1",
		},
		"Service with policies": {
			object: &corev1.Service{ObjectMeta: big("s"), Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, SessionAffinity: corev1.ServiceAffinityClientIP,
				SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](10800)}},
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyCluster),
			}},
			agent: 350, controller: 350, notEvenInTheSecond: "10800",
			keepsInTheFirst: `"spec":{"type":"NodePort","sessionAffinity":"ClientIP","externalTrafficPolicy":"Local"}`,
		},
		"Service of a Gateway": {
			object: &corev1.Service{ObjectMeta: owned(big("s")), Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "selected"}, ClusterIP: "10.96.0.1",
				IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, LoadBalancerClass: ptr.To("example.com/a"),
				Ports: []corev1.ServicePort{{Name: "tcp-80", Port: 80, NodePort: 30080, TargetPort: intstr.FromInt32(30080)}},
			}, Status: corev1.ServiceStatus{
				LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}, Conditions: conditions,
			}},
			agent: 520, controller: 620, notEvenInTheSecond: "10.96.0.1",
			keepsInTheFirst: `"type":"LoadBalancer","ipFamilies":["IPv4"],"loadBalancerClass":"example.com/a"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}`,
		},
		"Node": {
			object: &corev1.Node{ObjectMeta: big("n1"), Status: corev1.NodeStatus{
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
				Images:     []corev1.ContainerImage{{Names: []string{strings.Repeat("i", 1000)}}},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Message: "disk"}},
			}},
			agent: 650, controller: 650, keepsInTheFirst: "192.0.2.1", notEvenInTheSecond: "disk",
		},
	}
	size := func(object any) (int, string) {
		if plain, ok := object.(*plainService); ok {
			object = []any{plain.namespace, plain.name, plain.content}
		}
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		return len(text), string(text)
	}
	for name, test := range objects {
		t.Run(name, func(t *testing.T) {
			for _, controller := range []bool{false, true} {
				limit := test.agent
				if controller {
					limit = test.controller
				}
				trimmed := trimAny(t, trimmer{statuses: controller}, test.object.DeepCopyObject())
				bytes, text := size(trimmed)
				if before, _ := size(test.object); bytes > limit {
					t.Errorf("controller %v: %d bytes of %d, want at most %d:\n%s", controller, bytes, before, limit, text)
				}
				if !strings.Contains(text, test.keepsInTheFirst) || strings.Contains(text, test.notEvenInTheSecond) {
					t.Errorf("controller %v: %s", controller, text)
				}
				if has := strings.Contains(text, "Accepted"); has != (controller && test.controllerHasStatus) {
					t.Errorf("controller %v has a status: %v", controller, has)
				}
			}
		})
	}
}

// TestTrimEndpointSlice: what is left of metadata is what informers need; a change of the
// rest is no news.
func TestTrimEndpointSlice(t *testing.T) {
	given := slice("a", "s", "10.0.0.1")
	given.ObjectMeta = big("a")
	trimmed, ok := trimAny(t, trimmer{}, given.DeepCopy()).(*endpointSlice)
	if !ok {
		t.Fatal("of another type")
	}
	want := &endpointSlice{named{noMetadata, "default", "a", "123456"}, "s", topology.NewEndpointSlice(given)}
	if diff := cmp.Diff(want, trimmed, cmp.AllowUnexported(endpointSlice{}, named{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s := NewStore()
	put(t, s, trimmed)
	s.Next()
	given.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05Z"}
	given.Endpoints[0].Zone = ptr.To("zone-a")
	put(t, s, given)
	if signalled(s) {
		t.Error("the time of a pod's last change is a change")
	}
	given.Endpoints[0].NodeName = ptr.To("n1")
	put(t, s, given)
	if !signalled(s) {
		t.Error("another node is none")
	}
}

// trimAny trims as the informer of the kind would, twice: an informer may.
func trimAny(t *testing.T, tr trimmer, object runtime.Object) any {
	t.Helper()
	role := ForAgent
	if tr.statuses {
		role = ForController
	}
	clients := newFakeAPI(t).clients()
	kinds := append(liveKinds(clients, role, "x"), liveKinds(clients, 1-role, "x")...)
	for _, kind := range kinds {
		if fmt.Sprintf("%T", kind.versions[0].example) != fmt.Sprintf("%T", object) {
			continue
		}
		once, err := kind.versions[0].trim(object)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := kind.versions[0].trim(once)
		if err != nil {
			t.Fatal(err)
		}
		return twice
	}
	t.Fatalf("%T is not watched", object)
	return nil
}

// TestTrimMakesEqualObjectsEqual: lists of custom resources carry a type in every
// item, watches do not.
func TestTrimMakesEqualObjectsEqual(t *testing.T) {
	listed := gateway("web", "c")
	listed.TypeMeta = metav1.TypeMeta{APIVersion: v1Group, Kind: "Gateway"}
	listed.Annotations = map[string]string{}
	s := NewStore()
	put(t, s, trimmer{statuses: true}.gateway(gateway("web", "c")))
	s.Next()
	put(t, s, trimmer{statuses: true}.gateway(listed))
	if signalled(s) {
		t.Error("a list after a watch is a change")
	}
}
