package agent

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestDecisionsLeaveTime: where one change of Gateways follows another, decisions rest in between;
// endpoints do not, the first change after a while does not, and nothing is forgotten.
func TestDecisionsLeaveTime(t *testing.T) {
	for _, test := range []struct {
		name string
		took time.Duration
		rest time.Duration
	}{
		{"a while", 100 * time.Millisecond, 300 * time.Millisecond},
		{"long", 5 * time.Second, maxRest},
	} {
		t.Run(test.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testRest(t, test.took, test.rest) }) })
	}
}

func testRest(t *testing.T, took, rest time.Duration) {
	t.Helper()
	b := newBench(t)
	b.rests, b.kernel.takes = true, took
	edited := 0
	edit := func() {
		t.Helper()
		edited++
		if err := b.store.Put(anotherGateway(edited)); err != nil {
			t.Fatal(err)
		}
	}
	decided := func(what string, want bool) {
		t.Helper()
		before := b.graph
		b.must(t, false)
		if got := b.graph != before; got != want {
			t.Errorf("%s: decided %v, want %v", what, got, want)
		}
	}
	b.must(t, true)
	for range 2 {
		edit()
		b.kernel.takes = 0
		decided("while it rests", false)
		addr := fmt.Sprint("10.244.9.", edited)
		if err := b.store.Put(oneEndpoint("my-bar-service", addr)); err != nil {
			t.Fatal(err)
		}
		decided("endpoints, while it rests", false)
		if got := endpoints(b.kernel.last().Frontend(barKey)); !slices.Contains(got, addr+":6000") {
			t.Errorf("endpoints while it rests: %v, want %s among them", got, addr)
		}
		b.kernel.takes = took
		time.Sleep(rest - time.Millisecond)
		synctest.Wait()
		select {
		case <-b.nudge:
			t.Error("woken up too early")
		default:
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		select {
		case <-b.nudge:
		default:
			t.Fatal("nothing makes it decide")
		}
		decided("when it has rested", true)
		edit()
		b.kernel.takes = 0
		before := b.graph
		b.must(t, true)
		if b.graph == before {
			t.Error("a full pass has not decided")
		}
		time.Sleep(rest)
		b.kernel.takes = took
		edit()
		decided("after a while", true)
	}
}

// TestFilesAreOfOnePiece: what is put right in a file is decided in the pass that no longer calls its
// State partial, however long the last one took: what it was kept for would be removed.
func TestFilesAreOfOnePiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.kernel.takes = time.Second
		b.store.SetPartial(true)
		b.must(t, true)
		if !b.kernel.last().Partial() {
			t.Fatal("a State with an object missing is not partial")
		}
		if err := b.store.Put(anotherGateway(1)); err != nil {
			t.Fatal(err)
		}
		b.store.SetPartial(false)
		before := b.graph
		b.must(t, false)
		if b.kernel.last().Partial() || b.graph == before {
			t.Error("the State is whole and was not decided anew")
		}
	})
}

// anotherGateway has a port that no other edit has.
func anotherGateway(edited int) *gatewayv1.Gateway {
	gateway := &gatewayv1.Gateway{}
	gateway.Namespace, gateway.Name, gateway.Generation = "default", "more", int64(edited)
	gateway.Spec.GatewayClassName = "portway"
	gateway.Spec.Listeners = []gatewayv1.Listener{{Name: "tcp", Protocol: gatewayv1.TCPProtocolType, Port: gatewayv1.PortNumber(9000 + edited)}}
	return gateway
}

func oneEndpoint(service, addr string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = "default", service+"-2"
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](6000)}}
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{addr}}}
	return slice
}
