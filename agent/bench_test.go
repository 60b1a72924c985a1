package agent

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// BenchmarkPassEndpointChange measures everything but the kernel between a changed
// EndpointSlice and its State: 10 000 listeners, 10 endpoints each.
func BenchmarkPassEndpointChange(b *testing.B) {
	for _, listeners := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("listeners=%d", listeners), func(b *testing.B) {
			store := manyListeners(b, listeners)
			a := newAgent("n", topology.DefaultConfig(), store, instantProgrammer{},
				func() ([]netip.Addr, error) { return []netip.Addr{nodeIP}, nil })
			a.statuses = newStatusWriter("", io.Discard, false, clock.RealClock{})
			if err := a.pass(quiet(b), true); err != nil {
				b.Fatal(err)
			}
			if got := a.forwarder.State().Len(); got != listeners {
				b.Fatalf("%d frontends, want %d", got, listeners)
			}
			ctx := quiet(b)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := store.Put(benchSlice(i%listeners, i)); err != nil {
					b.Fatal(err)
				}
				if err := a.pass(ctx, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func quiet(b *testing.B) context.Context {
	b.Helper()
	return klog.NewContext(b.Context(), klog.Logger{})
}

// instantProgrammer commits everything and remembers nothing.
type instantProgrammer struct{}

func (instantProgrammer) Program(_ context.Context, state *rules.State) (rules.Results, error) {
	committed := map[string]string{}
	for gateway, digest := range state.Digests() {
		committed[gateway] = digest
	}
	return rules.Results{Committed: committed}, nil
}

func (instantProgrammer) Cleanup(context.Context) error { return nil }
func (instantProgrammer) Disturbed() bool               { return false }

func manyListeners(b *testing.B, n int) *cluster.Store {
	b.Helper()
	store := cluster.NewStore()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	objects := []cluster.Object{
		&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
	}
	var gateway *gatewayv1.Gateway
	for i := range n {
		if i%64 == 0 {
			gateway = &gatewayv1.Gateway{ObjectMeta: meta(fmt.Sprintf("g%d", i/64)), Spec: gatewayv1.GatewaySpec{GatewayClassName: "c"}}
			objects = append(objects, gateway)
		}
		name := fmt.Sprintf("s%d", i)
		gateway.Spec.Listeners = append(gateway.Spec.Listeners, gatewayv1.Listener{
			Name: gatewayv1.SectionName(name), Port: gatewayv1.PortNumber(20_000 + i), Protocol: gatewayv1.TCPProtocolType,
		})
		route := &gatewayv1.TCPRoute{ObjectMeta: meta(name)}
		route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: gatewayv1.ObjectName(gateway.Name), SectionName: ptr.To(gatewayv1.SectionName(name))}}
		ref := gatewayv1.BackendRef{}
		ref.Name, ref.Port = gatewayv1.ObjectName(name), ptr.To(gatewayv1.PortNumber(80))
		route.Spec.Rules = []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{ref}}}
		service := &corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}}
		objects = append(objects, route, service, benchSlice(i, 0))
	}
	if err := store.Apply(objects, nil); err != nil {
		b.Fatal(err)
	}
	return store
}

// benchSlice has ten endpoints; turn changes one of them.
func benchSlice(i, turn int) *discoveryv1.EndpointSlice {
	name := fmt.Sprintf("s%d", i)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(""), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(80))}},
	}
	for e := range 10 {
		last := e
		if e == 0 {
			last = 10 + turn%200
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i/250, i%250, last)}})
	}
	return slice
}
