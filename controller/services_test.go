package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// TestServiceOfAGateway: it is made, its address is the Gateway's, and once all is as it
// has to be nothing is written.
func TestServiceOfAGateway(t *testing.T) {
	b := newBalancedBench(t)
	b.put(testGateway("g", 8080))
	for range 2 { // the second time before the informers see the first
		if err := b.pass(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		b.write()
	}
	if written := b.written(); !slices.Equal(written, []string{"create"}) {
		t.Errorf("written %v", written)
	}
	b.sync()
	b.settleAll()
	if got, want := b.programmed("g"), "False/AddressNotAssigned: no address could be assigned: waiting for the provider of LoadBalancer Services of class example.com/a to give Service "; !strings.HasPrefix(got, want) {
		t.Error(got)
	}
	service := b.service()
	nodePort := service.Spec.Ports[0].NodePort
	want := []corev1.ServicePort{{Name: "tcp-8080", Protocol: "TCP", Port: 8080, NodePort: nodePort, TargetPort: intstr.FromInt32(nodePort)}}
	if diff := cmp.Diff(want, service.Spec.Ports); diff != "" || *service.Spec.LoadBalancerClass != "example.com/a" {
		t.Errorf("%+v; ports (-want +got):\n%s", service.Spec, diff)
	}
	b.provide(corev1.LoadBalancerIngress{IP: "203.0.113.9"}, corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
	b.settleAll()
	if diff := cmp.Diff([]string{"IPAddress 203.0.113.9", "Hostname lb.example.com"}, shownAddresses(b.gateway("g"))); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	b.prove("a")
	b.settleAll()
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/") {
		t.Error(got)
	}
	b.written()
	b.step()
	b.restart()
	if left := b.step(); len(left) > 0 {
		t.Errorf("there is something to write: %v", left)
	}
	if written := b.written(); len(written) > 0 {
		t.Errorf("written: %v", written)
	}
}

// TestServiceIsKeptInStep: what is ours follows the Gateway and is repaired, what others
// say stays.
func TestServiceIsKeptInStep(t *testing.T) {
	b := newBalancedBench(t)
	g := testGateway("g", 8080, 8081)
	g.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{
		Labels:      map[gatewayv1.LabelKey]gatewayv1.LabelValue{"team": "red"},
		Annotations: map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue{"example.com/subnet": "one"},
	}
	b.put(g)
	b.settleAll()
	made := b.service()
	b.change(func(s *corev1.Service) {
		s.Labels["cloud"], s.Annotations["example.com/id"], s.Finalizers = "x", "lb-1", []string{"example.com/cleanup"}
		s.Spec.ClusterIP, s.Spec.HealthCheckNodePort = "10.96.0.9", 32000
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	})
	b.settleAll()

	b.revise("g", func(g *gatewayv1.Gateway) {
		g.Spec.Infrastructure.Labels = nil
		g.Spec.Infrastructure.Annotations = map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue{"example.com/other": "two"}
		g.Spec.Listeners = append(g.Spec.Listeners[1:], gatewayv1.Listener{Name: "dns", Protocol: gatewayv1.UDPProtocolType, Port: 8081})
	})
	b.settleAll()
	s := b.service()
	if _, still := s.Labels["team"]; still || s.Labels["cloud"] != "x" {
		t.Errorf("labels %v", s.Labels)
	}
	if _, still := s.Annotations["example.com/subnet"]; still || s.Annotations["example.com/other"] != "two" || s.Annotations["example.com/id"] != "lb-1" {
		t.Errorf("annotations %v", s.Annotations)
	}
	if s.UID != made.UID || s.Spec.ClusterIP != "10.96.0.9" || s.Spec.HealthCheckNodePort != 32000 || len(s.Finalizers) != 1 || len(s.Status.LoadBalancer.Ingress) != 1 {
		t.Errorf("lost is something of others: %+v", s)
	}
	ports := map[string]int32{}
	for _, port := range s.Spec.Ports {
		ports[port.Name] = port.NodePort
		if port.TargetPort.IntVal != port.NodePort {
			t.Errorf("port %+v", port)
		}
	}
	if len(ports) != 2 || ports["tcp-8081"] != made.Spec.Ports[1].NodePort || ports["udp-8081"] == 0 {
		t.Errorf("ports %v, before %v", ports, made.Spec.Ports)
	}

	b.written()
	b.change(func(s *corev1.Service) {
		s.Spec.Selector = map[string]string{"app": "other"}
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		s.Spec.Ports[0].TargetPort = intstr.FromInt32(22)
		delete(s.Annotations, v1alpha1.GatewayUIDAnnotation)
	})
	b.settleAll()
	if got := b.service(); !maps.Equal(got.Spec.Selector, s.Spec.Selector) || got.Spec.ExternalTrafficPolicy != s.Spec.ExternalTrafficPolicy ||
		!slices.Equal(got.Spec.Ports, s.Spec.Ports) || !maps.Equal(got.Annotations, s.Annotations) {
		t.Errorf("not repaired: %+v", got)
	}
	if written := b.written(); !slices.Equal(written, []string{"patch"}) {
		t.Errorf("written %v", written)
	}
}

// TestForeignServiceIsNotTouched: neither one that is known, nor one that is made at the
// same moment.
func TestForeignServiceIsNotTouched(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known=%t", known), func(t *testing.T) {
			b := newBalancedBench(t)
			b.put(testGateway("g", 8080))
			b.step()
			name := b.graph.Gateways[types.NamespacedName{Namespace: "default", Name: "g"}].LoadBalancer.Key.Name
			foreign := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: agentsNamespace, Name: name, Labels: map[string]string{"app": "other"}},
				Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8080, NodePort: 32000}}},
			}
			if _, err := b.core.CoreV1().Services(agentsNamespace).Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			b.core.ClearActions()
			if known {
				b.sync()
				b.step()
			}
			b.write()
			b.sync()
			b.settleAll()
			if written := b.written(); len(written) > 0 || len(b.service().Labels) != 1 || b.service().Spec.Type != "" {
				t.Errorf("written %v: %+v", written, b.service())
			}
			want := "False/AddressNotAssigned: no address could be assigned: Service portway-system/" + name + " has the name of this Gateway's Service, but not its labels; delete it, or, if it is this Gateway's, give it back portway.dev/gateway-namespace and portway.dev/gateway-name"
			if got := b.programmed("g"); got != want {
				t.Error(got)
			}
			b.remove(b.gateway("g"))
			b.elapse()
			if b.service() == nil {
				t.Error("it was deleted")
			}
		})
	}
}

// TestServiceGoesWithItsGateway: once it has been without it for a while, whatever the
// reason; and never for want of knowledge.
func TestServiceGoesWithItsGateway(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testbench)
		gone   bool
	}{
		{"nothing", func(*testbench) {}, false},
		{"Gateway deleted", func(b *testbench) { b.remove(b.gateway("g")) }, true},
		{"not all is read", func(b *testbench) {
			b.remove(b.gateway("g"))
			b.store.SetPartial(true)
		}, false},
		{"Gateways are not served", func(b *testbench) {
			b.remove(b.gateway("g"))
			delete(b.served, "Gateway")
		}, false},
		{"what is watched is behind", func(b *testbench) {
			if err := b.store.Delete(b.gateway("g")); err != nil {
				b.t.Fatal(err)
			}
		}, false},
		{"the API server does not answer", func(b *testbench) {
			b.remove(b.gateway("g"))
			b.client.PrependReactor("get", "gateways", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewInternalError(errors.New("etcd is away"))
			})
		}, false},
		{"mode", func(b *testbench) { b.choose(v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModeNode}) }, true},
		{"class", func(b *testbench) {
			b.revise("g", func(g *gatewayv1.Gateway) { g.Spec.GatewayClassName = "other" })
		}, true},
		{"parameters gone", func(b *testbench) {
			if err := b.store.Delete(&v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}}); err != nil {
				b.t.Fatal(err)
			}
		}, false},
		{"no valid listener", func(b *testbench) {
			b.revise("g", func(g *gatewayv1.Gateway) { g.Spec.Listeners[0].Protocol = gatewayv1.HTTPProtocolType })
		}, false},
		{"labels removed a moment ago", func(b *testbench) {
			b.remove(b.gateway("g"))
			s := b.service()
			delete(s.Labels, v1alpha1.GatewayNameLabel)
			if _, err := b.core.CoreV1().Services(agentsNamespace).Update(context.Background(), s, metav1.UpdateOptions{}); err != nil {
				b.t.Fatal(err)
			}
		}, false},
		{"labels removed", func(b *testbench) {
			b.remove(b.gateway("g"))
			b.change(func(s *corev1.Service) { delete(s.Labels, v1alpha1.GatewayNameLabel) })
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBalancedBench(t)
			b.put(testGateway("g", 8080))
			b.settleAll()
			b.provide(corev1.LoadBalancerIngress{IP: "203.0.113.9"})
			b.settleAll()
			test.change(b)
			b.step()
			b.attempt()
			if b.service() == nil {
				t.Fatal("gone at once")
			}
			b.clock.Step(orphanGrace)
			b.step()
			b.attempt()
			if gone := b.service() == nil; gone != test.gone {
				t.Errorf("gone: %t, want %t", gone, test.gone)
			}
		})
	}
}

// TestOrphansRipenInSightOnly: what is not known to be without a Gateway does not grow older.
func TestOrphansRipenInSightOnly(t *testing.T) {
	for name, hide := range map[string]func(b *testbench, hidden bool){
		"not all is read": func(b *testbench, hidden bool) { b.store.SetPartial(hidden) },
		"not served": func(b *testbench, hidden bool) {
			b.served["Gateway"] = map[bool]string{false: "v1"}[hidden]
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancedBench(t)
			b.put(testGateway("g", 8080))
			b.settleAll()
			b.remove(b.gateway("g"))
			hide(b, true)
			b.step()
			b.clock.Step(orphanGrace)
			hide(b, false)
			b.settleAll()
			if b.service() == nil {
				t.Fatal("deleted at first sight")
			}
			b.elapse()
			if b.service() != nil {
				t.Error("still there")
			}
		})
	}
}

// TestGatewayMadeAnew: another one of the same name does not wait for the Service of the
// one before.
func TestGatewayMadeAnew(t *testing.T) {
	b := newBalancedBench(t)
	b.put(testGateway("g", 8080))
	b.settleAll()
	b.provide(corev1.LoadBalancerIngress{IP: "203.0.113.9"})
	b.settleAll()
	old := b.service()
	b.remove(b.gateway("g"))
	anew := testGateway("g", 8080)
	anew.UID = "another"
	b.put(anew)
	b.settleAll()
	list, err := b.core.CoreV1().Services(agentsNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%d Services: %v", len(list.Items), err)
	}
	if shown := shownAddresses(b.gateway("g")); len(shown) > 0 {
		t.Errorf("it has %v", shown)
	}
	b.elapse()
	if left := b.service(); left.UID == old.UID || left.Annotations[v1alpha1.GatewayUIDAnnotation] != "another" {
		t.Errorf("left is %+v", left)
	}
}

// TestServiceThatCannotBeWritten: the Gateway says why, one Event tells it, and both end
// when it can.
func TestServiceThatCannotBeWritten(t *testing.T) {
	b := newBalancedBench(t)
	quota := apierrors.NewForbidden(corev1.Resource("services"), "x", errors.New("exceeded quota: services.loadbalancers=0"))
	failing := true
	b.core.PrependReactor("*", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return failing && (action.GetVerb() == "create" || action.GetVerb() == "patch"), nil, quota
	})
	b.put(testGateway("g", 8080))
	b.step()
	select {
	case <-b.changed:
	default:
	}
	b.attempt()
	select {
	case <-b.changed:
	default:
		t.Error("no pass is asked for")
	}
	b.step()
	if got := b.graph.Gateways[types.NamespacedName{Namespace: "default", Name: "g"}].Assignment.Message; !strings.Contains(got, "exceeded quota") {
		t.Errorf("the next pass does not know of it: %s", got)
	}
	for range 3 {
		b.step()
		b.attempt()
		b.sync()
	}
	name := b.graph.Gateways[types.NamespacedName{Namespace: "default", Name: "g"}].LoadBalancer.Key.String()
	problem := "Service " + name + " could not be written: " + quota.Error()
	if got, want := b.programmed("g"), "False/AddressNotAssigned: no address could be assigned: "+problem; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	told := slices.DeleteFunc(b.events.take(), func(e string) bool { return !strings.Contains(e, reasonServiceNotWritten) })
	if want := []string{"g ServiceNotWritten: " + problem}; !slices.Equal(told, want) {
		t.Errorf("Events %q, want %q", told, want)
	}

	failing = false
	b.settleAll()
	b.provide(corev1.LoadBalancerIngress{IP: "203.0.113.9"})
	b.settleAll()
	b.prove("a")
	b.settleAll()
	if got := b.programmed("g"); !strings.HasPrefix(got, "True/") {
		t.Error(got)
	}

	failing = true
	b.revise("g", func(g *gatewayv1.Gateway) {
		g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{Name: "dns", Protocol: gatewayv1.UDPProtocolType, Port: 53})
	})
	for range 3 {
		b.step()
		b.attempt()
		b.sync()
		b.prove("a")
		b.clock.Step(b.config.LagTolerance)
	}
	if got, want := b.programmed("g"), "False/Pending: waiting for Service "+name+" to have UDP port 53 of listener \"dns\" of Gateway default/g: "+problem; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	b.revise("g", func(g *gatewayv1.Gateway) { g.Spec.Listeners = g.Spec.Listeners[:1] })
	b.step()
	if len(b.writer.failures) > 0 {
		t.Errorf("nothing fails any more, but %v", b.writer.failures)
	}
}

// TestOrphansRipen: only what is an orphan all the time.
func TestOrphansRipen(t *testing.T) {
	one := &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "1"}}
	two := &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "2"}}
	o := orphans{}
	steps := []struct {
		after  time.Duration
		found  []*corev1.Service
		ripe   int
		nextIn time.Duration
	}{
		{0, []*corev1.Service{one}, 0, orphanGrace},
		{orphanGrace - 1, []*corev1.Service{one, two}, 0, 1},
		{1, []*corev1.Service{one, two}, 1, orphanGrace - 1},
		{1, []*corev1.Service{one}, 1, 0},
		{0, nil, 0, 0},
		{orphanGrace, []*corev1.Service{one, two}, 0, orphanGrace},
		{orphanGrace, []*corev1.Service{one, two}, 2, 0},
	}
	now := epoch
	for i, step := range steps {
		now = now.Add(step.after)
		ripe, next := o.ripe(now, step.found)
		wait := time.Duration(0)
		if !next.IsZero() {
			wait = next.Sub(now)
		}
		if len(ripe) != step.ripe || wait != step.nextIn {
			t.Errorf("step %d: %d are ripe, next in %s; want %d and %s", i, len(ripe), wait, step.ripe, step.nextIn)
		}
	}
}
