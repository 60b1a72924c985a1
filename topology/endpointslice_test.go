package topology

import (
	"net/netip"
	"testing"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// TestEndpointSliceEqual: whatever a Forwarder goes by is a difference, nothing else is.
func TestEndpointSliceEqual(t *testing.T) {
	tests := map[string]struct {
		change func(*discoveryv1.EndpointSlice)
		equal  bool
	}{
		"nothing": {func(*discoveryv1.EndpointSlice) {}, true},
		"metadata": {func(s *discoveryv1.EndpointSlice) {
			s.ResourceVersion, s.Annotations = "7", map[string]string{"a": "b"}
		}, true},
		"zone": {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Zone = ptr.To("z9") }, true},
		"second address": {func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Addresses = append(s.Endpoints[0].Addresses, "10.0.0.9")
		}, true},
		"what means the same": {func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)}
		}, true},
		"name":            {func(s *discoveryv1.EndpointSlice) { s.Name = "b" }, false},
		"port":            {func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = ptr.To[int32](81) }, false},
		"port's name":     {func(s *discoveryv1.EndpointSlice) { s.Ports[0].Name = ptr.To("q") }, false},
		"port's protocol": {func(s *discoveryv1.EndpointSlice) { s.Ports[0].Protocol = ptr.To(corev1.ProtocolUDP) }, false},
		"address":         {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = []string{"10.0.0.9"} }, false},
		"bad address":     {func(s *discoveryv1.EndpointSlice) { s.Endpoints[1].Addresses = []string{"127.0.0.2"} }, false},
		"one less":        {func(s *discoveryv1.EndpointSlice) { s.Endpoints = s.Endpoints[:1] }, false},
		"not ready":       {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = ptr.To(false) }, false},
		"node":            {func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].NodeName = ptr.To("n9") }, false},
		"pod": {func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: "p"}
		}, false},
		"hint": {func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}}}
		}, false},
		"address type": {func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before, changed := slice("a", 80, "10.0.0.1", "127.0.0.1"), slice("a", 80, "10.0.0.1", "127.0.0.1")
			test.change(changed)
			if a, b := NewEndpointSlice(before), NewEndpointSlice(changed); a.Equal(b) != test.equal || b.Equal(a) != test.equal {
				t.Errorf("%+v\n%+v\nwant equal %v", a, b, test.equal)
			}
		})
	}
}

// TestEndpointSliceHoldsEachEndpoint: what belongs to one endpoint is not another's, although
// most of it is held apart from them.
func TestEndpointSliceHoldsEachEndpoint(t *testing.T) {
	hints := &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}}}
	for _, addrs := range [][]string{{"10.0.0.1", "127.0.0.1", "10.0.0.3", "10.0.0.4"}, {"2001:db8::1", "::1", "::10.0.0.3", "2001:db8::4"}} {
		given := slice("a", 80, addrs...)
		for i, pod := range []string{"first", "left-out", "", "last"} {
			if pod != "" {
				given.Endpoints[i].TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: pod}
			}
		}
		given.Endpoints[0].NodeName, given.Endpoints[2].Hints = ptr.To("n1"), hints
		held := NewEndpointSlice(given)
		want := []sliceEndpoint{
			{addr: netip.MustParseAddr(addrs[0]), pod: "first", node: unique.Make("n1"), traits: ready | serving},
			{addr: netip.MustParseAddr(addrs[2]), node: unique.Make(""), hints: hints, traits: ready | serving},
			{addr: netip.MustParseAddr(addrs[3]), pod: "last", node: unique.Make(""), traits: ready | serving},
		}
		for i := range held.endpoints {
			if got := held.endpoint(i); i >= len(want) || got != want[i] {
				t.Errorf("endpoint %d of %v: %+v", i, addrs, got)
			}
		}
		if len(held.endpoints) != len(want) {
			t.Errorf("%d endpoints of %v", len(held.endpoints), addrs)
		}
	}
}
