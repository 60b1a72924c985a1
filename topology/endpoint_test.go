package topology

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/rules"
)

// slice makes an EndpointSlice "ns/name" of one TCP port named "p".
func slice(name string, port int32, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("p"), Protocol: ptr.To(corev1.ProtocolTCP), Port: &port}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	if len(addresses) > 0 && strings.Contains(addresses[0], ":") {
		s.AddressType = discoveryv1.AddressTypeIPv6
	}
	return s
}

func compact(given ...*discoveryv1.EndpointSlice) []*EndpointSlice {
	made := make([]*EndpointSlice, 0, len(given))
	for _, s := range given {
		made = append(made, NewEndpointSlice(s))
	}
	return made
}

func with(s *discoveryv1.EndpointSlice, change func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	change(s)
	return s
}

func conditions(ready, serving, terminating *bool) func(*discoveryv1.EndpointSlice) {
	return func(s *discoveryv1.EndpointSlice) {
		for i := range s.Endpoints {
			s.Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}
		}
	}
}

func TestEndpoints(t *testing.T) {
	yes, no := ptr.To(true), ptr.To(false)
	node := Node{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	tests := []struct {
		name     string
		slices   []*discoveryv1.EndpointSlice
		want     []string
		warnings []string
	}{
		{"none", nil, nil, nil},
		{
			"sorted by address, whatever their order",
			[]*discoveryv1.EndpointSlice{slice("b", 80, "10.0.0.3", "10.0.0.1"), slice("a", 80, "10.0.0.2")},
			[]string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"},
			nil,
		},
		{
			"a duplicate counts once",
			[]*discoveryv1.EndpointSlice{slice("a", 80, "10.0.0.1"), slice("b", 80, "10.0.0.1", "10.0.0.1")},
			[]string{"10.0.0.1:80"},
			nil,
		},
		{
			"a duplicate is local if any of its entries is",
			[]*discoveryv1.EndpointSlice{slice("a", 80, "10.0.0.1"), with(slice("b", 80, "10.0.0.1"), func(s *discoveryv1.EndpointSlice) {
				s.Endpoints[0].NodeName = ptr.To("n1")
			}), slice("c", 80, "10.0.0.1")},
			[]string{"10.0.0.1:80 local"},
			nil,
		},
		{
			"a named target port may differ per slice",
			[]*discoveryv1.EndpointSlice{slice("a", 8080, "10.0.0.1"), slice("b", 9090, "10.0.0.2")},
			[]string{"10.0.0.1:8080", "10.0.0.2:9090"},
			nil,
		},
		{
			"both families",
			[]*discoveryv1.EndpointSlice{slice("a", 80, "10.0.0.1"), slice("b", 80, "fd00::1")},
			[]string{"10.0.0.1:80", "[fd00::1]:80"},
			nil,
		},
		{
			"FQDN slices are not supported",
			[]*discoveryv1.EndpointSlice{with(slice("a", 80, "example.com"), func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN })},
			nil,
			[]string{"EndpointSlice ns/a: addressType FQDN is not supported; list IP addresses"},
		},
		{
			"addresses no packet may be sent to",
			[]*discoveryv1.EndpointSlice{
				slice("a", 80, "127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "x", "10.0.0.1"),
				slice("b", 80, "::1", "fe80::1", "ff02::1", "::", "10.0.0.2"),
			},
			[]string{"10.0.0.1:80"},
			[]string{
				"EndpointSlice ns/a: endpoints[0] left out: 127.0.0.1 is a loopback address",
				"EndpointSlice ns/a: endpoints[1] left out: 169.254.1.1 is a link-local address",
				"EndpointSlice ns/a: endpoints[2] left out: 224.0.0.1 is a multicast or broadcast address",
				"EndpointSlice ns/a: endpoints[3] left out: 0.0.0.0 is the unspecified address",
				"EndpointSlice ns/a: endpoints[4] left out: 255.255.255.255 is a multicast or broadcast address",
				"EndpointSlice ns/a: endpoints[5] left out: \"x\" is not an IP address",
				"EndpointSlice ns/b: endpoints[0] left out: ::1 is a loopback address",
				"EndpointSlice ns/b: endpoints[1] left out: fe80::1 is a link-local address",
				"EndpointSlice ns/b: endpoints[2] left out: ff02::1 is a multicast or broadcast address",
				"EndpointSlice ns/b: endpoints[3] left out: :: is the unspecified address",
				"EndpointSlice ns/b: endpoints[4] left out: 10.0.0.2 is not of the slice's addressType IPv6",
			},
		},
		{
			"only the first address counts, and there must be one",
			[]*discoveryv1.EndpointSlice{with(slice("a", 80, "10.0.0.1", "10.0.0.2"), func(s *discoveryv1.EndpointSlice) {
				s.Endpoints[0].Addresses = []string{"10.0.0.1", "10.0.0.9"}
				s.Endpoints[1].Addresses = nil
			})},
			[]string{"10.0.0.1:80"},
			[]string{"EndpointSlice ns/a: endpoints[1] left out: it has no address"},
		},
		{
			"not ready",
			[]*discoveryv1.EndpointSlice{with(slice("a", 80, "10.0.0.1"), conditions(no, no, no)), slice("b", 80, "10.0.0.2")},
			[]string{"10.0.0.2:80", "10.0.0.1:80 lingering"},
			nil,
		},
		{
			"terminating while another is ready",
			[]*discoveryv1.EndpointSlice{with(slice("a", 80, "10.0.0.1"), conditions(no, yes, yes)), with(slice("b", 80, "10.0.0.2"), conditions(yes, yes, no))},
			[]string{"10.0.0.2:80", "10.0.0.1:80 draining"},
			nil,
		},
		{
			"terminating but serving when none is ready, per family",
			[]*discoveryv1.EndpointSlice{
				with(slice("a", 80, "10.0.0.1"), conditions(no, yes, yes)), with(slice("b", 80, "10.0.0.2"), conditions(no, no, yes)), slice("c", 80, "fd00::1"),
			},
			[]string{"10.0.0.1:80", "10.0.0.2:80 lingering", "[fd00::1]:80"},
			nil,
		},
		{
			"another port, another protocol, no number",
			[]*discoveryv1.EndpointSlice{
				with(slice("a", 80, "10.0.0.1"), func(s *discoveryv1.EndpointSlice) { s.Ports[0].Name = ptr.To("q") }),
				with(slice("b", 80, "10.0.0.2"), func(s *discoveryv1.EndpointSlice) { s.Ports[0].Protocol = ptr.To(corev1.ProtocolUDP) }),
				with(slice("c", 80, "10.0.0.3"), func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = nil }),
				with(slice("d", 80, "10.0.0.4"), func(s *discoveryv1.EndpointSlice) { s.Ports = nil }),
			},
			nil, nil,
		},
		{
			"local by node name or by the node's own address, named after the pod",
			[]*discoveryv1.EndpointSlice{with(slice("a", 80, "10.0.0.1", "192.0.2.1", "10.0.0.3"), func(s *discoveryv1.EndpointSlice) {
				s.Endpoints[0].NodeName = ptr.To("n1")
				s.Endpoints[0].TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: "web-0"}
				s.Endpoints[2].NodeName = ptr.To("n2")
				s.Endpoints[2].TargetRef = &corev1.ObjectReference{Kind: "VirtualMachine", Name: "vm"}
			})},
			[]string{"10.0.0.1:80 web-0 local", "10.0.0.3:80", "192.0.2.1:80 local"},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServiceEndpoints(compact(tt.slices...))
			var got []string
			for _, port := range s.endpoints(node, usedPort{portKey: portKey{"p", rules.TCP}}) {
				for _, e := range port.endpoints {
					text := e.Addr.String()
					if e.Name != "" {
						text += " " + e.Name
					}
					if e.Local {
						text += " local"
					}
					got = append(got, text)
				}
				for _, addr := range port.draining {
					got = append(got, addr.String()+" draining")
				}
				for _, addr := range port.lingering {
					got = append(got, addr.String()+" lingering")
				}
			}
			s.endpoints(node, usedPort{portKey: portKey{"other", rules.UDP}}) // must not repeat the warnings
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, s.warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func BenchmarkEndpoints(b *testing.B) {
	var addresses []string
	for i := range 1000 {
		addresses = append(addresses, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
	}
	given := []*discoveryv1.EndpointSlice{slice("a", 80, addresses...)}
	for b.Loop() {
		newServiceEndpoints(compact(given...)).endpoints(Node{}, usedPort{portKey: portKey{"p", rules.TCP}})
	}
}
