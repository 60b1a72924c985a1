package topology

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// testConfig is the document of kind TestConfig in a testdata manifest: what is
// not an API object. Without one every Gateway has an address of its own and
// one node serves everything.
type testConfig struct {
	Kind         string                    `json:"kind"`
	Gateways     map[string]testAssignment `json:"gateways"`
	MaxListeners *int                      `json:"maxListeners"`
	CRDVersions  map[string]string         `json:"crdVersions"`
	Reports      *testReports              `json:"reports"`
	// ForwardOn are the nodes whose forwarding state is to be shown.
	ForwardOn []testForwarder `json:"forwardOn"`

	slices map[types.NamespacedName][]*discoveryv1.EndpointSlice // by Service
}

type testForwarder struct {
	Node      string       `json:"node"`
	Zone      string       `json:"zone"`
	Addresses []netip.Addr `json:"addresses"`
}

type testAssignment struct {
	Unassigned bool         `json:"unassigned"`
	NodeMode   bool         `json:"nodeMode"`
	Addresses  []netip.Addr `json:"addresses"`
	Message    string       `json:"message"`
}

type testReports struct {
	NotEvaluated bool       `json:"notEvaluated"`
	Nodes        []testNode `json:"nodes"`
	Away         []testNode `json:"away"` // what they announce
}

type testNode struct {
	Node      string       `json:"node"`
	Behind    bool         `json:"behind"` // serves something else than the current digests
	Error     string       `json:"error"`
	Findings  []Finding    `json:"findings"`
	Announces []netip.Addr `json:"announces"`
	Unheard   string       `json:"unheard"`
}

// readManifest reads a multi-document manifest, strictly, so that a misspelt
// field fails the test. Objects without a namespace are in "default".
func readManifest(t *testing.T, text string) (Snapshot, testConfig) {
	t.Helper()
	snapshot, config := emptySnapshot(), testConfig{slices: map[types.NamespacedName][]*discoveryv1.EndpointSlice{}}
	for _, document := range strings.Split(text, "\n---\n") {
		var header metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &header); err != nil {
			t.Fatal(err)
		}
		switch header.Kind {
		case "TestConfig":
			decodeInto(t, document, &config)
		case "GatewayClass":
			object := decode[gatewayv1.GatewayClass](t, document)
			snapshot.GatewayClasses[object.Name] = object
		case "Gateway":
			putObject(snapshot.Gateways, decode[gatewayv1.Gateway](t, document))
		case "ListenerSet":
			putObject(snapshot.ListenerSets, decode[gatewayv1.ListenerSet](t, document))
		case "TCPRoute": // v1alpha2 has the same fields
			putObject(snapshot.TCPRoutes, decode[gatewayv1.TCPRoute](t, document))
		case "UDPRoute":
			putObject(snapshot.UDPRoutes, decode[gatewayv1.UDPRoute](t, document))
		case "ReferenceGrant":
			putObject(snapshot.ReferenceGrants, decode[gatewayv1.ReferenceGrant](t, document))
		case "Service":
			putObject(snapshot.Services, decode[corev1.Service](t, document))
		case "EndpointSlice":
			object := decode[discoveryv1.EndpointSlice](t, document)
			service := inDefault(object.Labels[discoveryv1.LabelServiceName])
			config.slices[service] = append(config.slices[service], object)
		case "AddressPool":
			object := decode[v1alpha1.AddressPool](t, document)
			snapshot.AddressPools[object.Name] = object
		case "GatewayParameters":
			putObject(snapshot.GatewayParameters, decode[v1alpha1.GatewayParameters](t, document))
		case "Namespace":
			object := decode[corev1.Namespace](t, document)
			snapshot.Namespaces[object.Name] = object
		default:
			t.Fatalf("document of unknown kind %q", header.Kind)
		}
	}
	assignAddresses(&snapshot, config)
	snapshot.CRDVersions = config.CRDVersions
	return snapshot, config
}

func emptySnapshot() Snapshot {
	return Snapshot{
		GatewayClasses:  map[string]*gatewayv1.GatewayClass{},
		Gateways:        map[types.NamespacedName]*gatewayv1.Gateway{},
		ListenerSets:    map[types.NamespacedName]*gatewayv1.ListenerSet{},
		TCPRoutes:       map[types.NamespacedName]*gatewayv1.TCPRoute{},
		UDPRoutes:       map[types.NamespacedName]*gatewayv1.UDPRoute{},
		ReferenceGrants: map[types.NamespacedName]*gatewayv1.ReferenceGrant{},
		Namespaces:      map[string]*corev1.Namespace{},
		Services:        map[types.NamespacedName]*corev1.Service{},
		Addresses:       map[types.NamespacedName]Assignment{},

		AddressPools:      map[string]*v1alpha1.AddressPool{},
		GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{},
	}
}

// assignAddresses: a Gateway of which the TestConfig says nothing keeps what its status
// shows where its class has parameters, and else has an address of its own.
func assignAddresses(s *Snapshot, config testConfig) {
	resolution := Resolve(*s, config.config())
	addr := netip.MustParseAddr("192.0.2.100")
	for _, key := range sortedKeys(s.Gateways) {
		addr = addr.Next()
		given, found := config.Gateways[key.String()]
		parameters := resolution.Gateways[key]
		switch {
		case !found && parameters != nil && (parameters.Mode != v1alpha1.AddressModeNode || parameters.Frozen || len(parameters.Published) > 0):
			s.Addresses[key] = parameters.Kept()
		case !found:
			s.Addresses[key] = Assignment{Addresses: []netip.Addr{addr}}
		case !given.Unassigned:
			s.Addresses[key] = Assignment{NodeMode: given.NodeMode, Addresses: given.Addresses, Message: given.Message}
		}
	}
}

// config returns what Build gets.
func (c testConfig) config() Config {
	config := DefaultConfig()
	if c.MaxListeners != nil {
		config.MaxListeners = *c.MaxListeners
	}
	return config
}

// reports makes the nodes prove the digests of a Graph.
func (c testConfig) reports(g *Graph) Reports {
	given := testReports{Nodes: []testNode{{Node: "node-a"}}}
	if c.Reports != nil {
		given = *c.Reports
	}
	reports := Reports{NotEvaluated: given.NotEvaluated}
	for _, node := range given.Nodes {
		report := NodeReport{Node: node.Node, Findings: node.Findings, Announces: node.Announces, Unheard: node.Unheard, Committed: map[types.NamespacedName]string{}, Errors: map[types.NamespacedName]string{}}
		for key, gateway := range g.Gateways {
			report.Committed[key] = gateway.Digest
			if node.Behind {
				report.Committed[key] = "1:of-yesterday"
				report.Errors[key] = node.Error
			}
		}
		reports.Nodes = append(reports.Nodes, report)
	}
	for _, node := range given.Away {
		reports.Away = append(reports.Away, AwayNode{node.Node, node.Announces})
	}
	return reports
}

// forwarding renders the Frontends of the nodes in question, by node and key.
func (c testConfig) forwarding(g *Graph) map[string]map[string]goldenFrontend {
	nodes := map[string]map[string]goldenFrontend{}
	for _, node := range c.ForwardOn {
		f := NewForwarder(Node{Name: node.Node, Zone: node.Zone, Addresses: node.Addresses})
		f.SetGraph(g)
		for service, given := range c.slices {
			f.SetEndpointSlices(service, compact(given...))
		}
		frontends := map[string]goldenFrontend{}
		for key, frontend := range f.State().All() {
			frontends[key.String()] = renderFrontend(frontend)
		}
		nodes[node.Node] = frontends
	}
	return nodes
}

func decode[T any](t *testing.T, document string) *T {
	t.Helper()
	object := new(T)
	decodeInto(t, document, object)
	return object
}

func decodeInto(t *testing.T, document string, object any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
		t.Fatalf("%v in:\n%s", err, document)
	}
}

func putObject[T metav1.Object](objects map[types.NamespacedName]T, object T) {
	if object.GetNamespace() == "" {
		object.SetNamespace("default")
	}
	objects[types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}] = object
}

func sortedKeys[V any](objects map[types.NamespacedName]V) []types.NamespacedName {
	keys := make([]types.NamespacedName, 0, len(objects))
	for key := range objects {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return keys
}
