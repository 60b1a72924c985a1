package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

const (
	endpointsPerService  = 10
	listenersPerGateway  = 64 // the API's limit
	firstPort            = 20000
	gatewayClassManifest = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
`
)

// writeManifests writes listeners with a TCPRoute, a Service and an EndpointSlice
// each, one file per kind, as a user might have them.
func writeManifests(b *testing.B, listeners int) (paths []string) {
	b.Helper()
	var gateways, routes, services, slices strings.Builder
	gateways.WriteString(gatewayClassManifest)
	for i := range listeners {
		if i%listenersPerGateway == 0 {
			fmt.Fprintf(&gateways, `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway-%d}
spec:
  gatewayClassName: portway
  listeners:
`, i/listenersPerGateway)
		}
		fmt.Fprintf(&gateways, "  - {name: l%d, protocol: TCP, port: %d}\n", i, firstPort+i)
		fmt.Fprintf(&routes, `---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: route-%d}
spec:
  parentRefs: [{name: gateway-%d, sectionName: l%d}]
  rules: [{backendRefs: [{name: service-%d, port: 80}]}]
`, i, i/listenersPerGateway, i, i)
		fmt.Fprintf(&services, `---
apiVersion: v1
kind: Service
metadata: {name: service-%d}
spec: {ports: [{name: main, port: 80}]}
`, i)
		slices.WriteString(sliceManifest(b, i))
	}
	directory := b.TempDir()
	for name, text := range map[string]*strings.Builder{
		"gateways.yaml": &gateways, "routes.yaml": &routes, "services.yaml": &services, "endpointslices.yaml": &slices,
	} {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
			b.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// sliceManifest is what endpointSlice is in a file.
func sliceManifest(b *testing.B, service int) string {
	b.Helper()
	text, err := yaml.Marshal(endpointSlice(service, 0))
	if err != nil {
		b.Fatal(err)
	}
	return "---\n" + string(text)
}

// endpointSlice is the slice of a service. Its first endpoint depends on whether
// the revision is even or odd.
func endpointSlice(service, revision int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("service-%d-a", service),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("service-%d", service)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("main"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i := range endpointsPerService {
		pod := i
		if i == 0 && revision%2 == 1 {
			pod = endpointsPerService // the one that replaces the first
		}
		n := service*(endpointsPerService+1) + pod
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 64+n>>16, n>>8&255, n&255)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: fmt.Sprintf("pod-%d-%d", service, pod)},
		})
	}
	return slice
}
