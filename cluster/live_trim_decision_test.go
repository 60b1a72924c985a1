package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// TestTrimChangesNoDecision decides every case of package topology with what is left of its
// objects for either program, and with all of it.
func TestTrimChangesNoDecision(t *testing.T) {
	paths, err := filepath.Glob("../topology/testdata/*.in.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".in.yaml"), func(t *testing.T) {
			whole := decisionOf(t, objectsOf(t, path))
			for _, controller := range []bool{false, true} {
				var trimmed []Object
				for _, object := range objectsOf(t, path) {
					o, ok := trimAny(t, trimmer{statuses: controller}, object).(Object)
					if !ok {
						t.Fatalf("%T is no object", o)
					}
					trimmed = append(trimmed, o)
				}
				want, got := whole, decisionOf(t, trimmed)
				if !controller {
					want.Services, got.Services = nil, nil // that an agent does not write
				}
				if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
					t.Errorf("controller %v (-whole +trimmed):\n%s", controller, diff)
				}
			}
		})
	}
}

// objectsOf reads the objects of a case; what is not of the API is left out.
func objectsOf(t *testing.T, path string) []Object {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	var objects []Object
	for _, document := range strings.Split(string(text), "\n---\n") {
		if strings.Contains(document, "kind: TestConfig\n") {
			continue
		}
		encoded, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		decoded, _, err := decoder.Decode(encoded, nil, nil)
		switch old := decoded.(type) {
		case *gatewayv1alpha2.TCPRoute:
			decoded = TCPRouteFromV1alpha2(old)
		case *gatewayv1alpha2.UDPRoute:
			decoded = UDPRouteFromV1alpha2(old)
		case *gatewayv1beta1.ReferenceGrant:
			decoded = (*gatewayv1.ReferenceGrant)(old)
		}
		o, ok := decoded.(Object)
		if err != nil || !ok {
			t.Fatalf("%v\n%s", err, document)
		}
		if o.GetNamespace() == "" && !slices.Contains([]string{"GatewayClass", "AddressPool", "Namespace"}, o.GetObjectKind().GroupVersionKind().Kind) {
			o.SetNamespace("default")
		}
		objects = append(objects, o)
	}
	return objects
}

// decision is what comes of objects.
type decision struct {
	Statuses   topology.Statuses
	Digests    map[string]string
	Services   map[string]*corev1.Service
	Orphans    []string
	Forwarding map[string]*rules.Frontend
	Warnings   []string
}

func decisionOf(t *testing.T, objects []Object) decision {
	t.Helper()
	store := NewStore()
	for _, o := range objects {
		put(t, store, o)
	}
	update := store.Next()
	config := topology.DefaultConfig()
	resolution := topology.Resolve(*update.Snapshot, config)
	graph := resolution.Build(Assigned(resolution))
	d := decision{
		Statuses: graph.Statuses(topology.Reports{NotEvaluated: true}),
		Digests:  map[string]string{}, Services: map[string]*corev1.Service{}, Forwarding: map[string]*rules.Frontend{},
	}
	for key, gateway := range graph.Gateways {
		d.Digests[key.String()] = gateway.Digest
		if service := gateway.Service(); service != nil {
			d.Services[key.String()] = service
		}
	}
	for _, orphan := range graph.Orphans {
		d.Orphans = append(d.Orphans, orphan.Name)
	}
	forwarder := topology.NewForwarder(topology.Node{Name: "n1", Zone: "a", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}})
	forwarder.SetGraph(graph)
	for service, list := range update.Slices {
		forwarder.SetEndpointSlices(service, list)
	}
	for key, frontend := range forwarder.State().All() {
		d.Forwarding[fmt.Sprint(key)] = frontend
	}
	d.Warnings = forwarder.Warnings()
	return d
}
