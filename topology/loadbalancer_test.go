package topology

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/rules"
)

var balancerAddr = netip.MustParseAddr("203.0.113.9")

// balancedBy puts the Gateway of graphOf behind a Service with an address, and node ports
// 30000, 30001, … for its listeners.
func balancedBy(families ...corev1.IPFamily) func(*Gateway) {
	return func(g *Gateway) {
		service := &corev1.Service{}
		service.Spec.IPFamilies = families
		for i, l := range g.Listeners {
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: int32(l.Port), NodePort: int32(30000 + i)})
		}
		service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: balancerAddr.String()}}
		g.LoadBalancer = &LoadBalancer{}
		g.LoadBalancer.read(service)
		g.Assignment = g.LoadBalancer.assignment()
	}
}

// TestForwarderNodePorts: a node port is another key of the listener's Frontend, at the
// node's addresses of the Service's families.
func TestForwarderNodePorts(t *testing.T) {
	f := forwarderOf(graphOf(2, balancedBy(corev1.IPv4Protocol)))
	f.SetEndpointSlices(named("s0"), compact(slice("a", 80, "10.0.0.1")))
	state := f.State()
	public, node := state.Frontend(frontendKey(balancerAddr, 8000)), state.Frontend(frontendKey(nodeV4, 30000))
	if public == nil || public != node || len(public.Backends[0].Endpoints) != 1 {
		t.Errorf("Frontends %+v and %+v, want the same one", public, node)
	}
	if n := state.Len(); n != 4 {
		t.Errorf("%d Frontends, want 4: %v", n, contents(state))
	}

	steps := []struct {
		name   string
		change func()
		keys   []rules.FrontendKey
	}{
		{"endpoints", func() {
			f.SetEndpointSlices(named("s0"), compact(slice("a", 80, "10.0.0.2")))
		}, []rules.FrontendKey{frontendKey(nodeV4, 30000), frontendKey(balancerAddr, 8000)}},
		{"nothing", func() { f.SetGraph(graphOf(2, balancedBy(corev1.IPv4Protocol))) }, nil},
		{"families", func() { f.SetGraph(graphOf(2, balancedBy(corev1.IPv6Protocol, corev1.IPv4Protocol))) }, []rules.FrontendKey{
			frontendKey(nodeV6, 30000), frontendKey(nodeV6, 30001),
		}},
		{"address of the node", func() { f.SetNode(Node{Name: "n1", Addresses: []netip.Addr{nodeV4}}) }, []rules.FrontendKey{
			frontendKey(nodeV6, 30000), frontendKey(nodeV6, 30001),
		}},
		{"node port", func() {
			f.SetGraph(graphOf(2, balancedBy(corev1.IPv4Protocol), func(g *Gateway) {
				service := g.LoadBalancer.Source.DeepCopy()
				service.Spec.Ports[1].NodePort = 30009
				g.LoadBalancer = &LoadBalancer{}
				g.LoadBalancer.read(service)
			}))
		}, []rules.FrontendKey{frontendKey(nodeV4, 30001), frontendKey(nodeV4, 30009)}},
		{"mode", func() { f.SetGraph(graphOf(1)) }, []rules.FrontendKey{
			frontendKey(nodeV4, 8000), frontendKey(nodeV4, 30000), frontendKey(nodeV4, 30009),
			frontendKey(balancerAddr, 8000), frontendKey(balancerAddr, 8001),
		}},
	}
	for _, step := range steps {
		before := f.State()
		step.change()
		if diff := cmp.Diff(step.keys, changedKeys(before, f.State()), plain); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// TestServiceNames: no two Gateways have a Service of the same name, whatever theirs are.
func TestServiceNames(t *testing.T) {
	long := strings.Repeat("a.b-", 60)
	seen := map[string]bool{}
	for _, namespace := range []string{"a", "a-b", "1", strings.Repeat("n", 63)} {
		for _, name := range []string{"b-c", "c", "b", "b.c", long, long + "x"} {
			for _, uid := range []string{"", "1", "2"} {
				key := named(name)
				key.Namespace = namespace
				service := serviceName(key, types.UID(uid))
				if problems := validation.IsDNS1035Label(service); len(problems) > 0 || seen[service] {
					t.Errorf("%s: %q: %v, there before: %t", key, service, problems, seen[service])
				}
				seen[service] = true
			}
		}
	}
	for _, name := range []string{strings.Repeat("n", 63), strings.Repeat("n", 64), long} {
		label := labelOf(name)
		if problems := validation.IsValidLabelValue(label); len(problems) > 0 || (label == name) != (len(name) <= 63) {
			t.Errorf("%q: %v", label, problems)
		}
	}
}

// TestSameService: what we say of a Service and somebody changed is another Service; what
// others say of it is not.
func TestSameService(t *testing.T) {
	g := graphOf(1, balancedBy(corev1.IPv4Protocol)).Gateways[named("gw")]
	g.Parameters = &Parameters{Families: []corev1.IPFamily{corev1.IPv4Protocol}}
	g.LoadBalancer.Source.Spec.Type, g.LoadBalancer.Source.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, ptr.To("example.com/a")
	tests := []struct {
		name   string
		change func(*corev1.Service)
		same   bool
	}{
		{"nothing", func(*corev1.Service) {}, true},
		{"what the cluster fills in", func(s *corev1.Service) {
			s.Labels["other"], s.Annotations["other"], s.Finalizers = "x", "y", []string{"example.com/f"}
			s.Spec.ClusterIP, s.Spec.HealthCheckNodePort, s.Spec.Ports[0].NodePort = "10.96.0.1", 32000, 30000
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "other", Port: 1})
			slices.Reverse(s.Spec.Ports)
		}, true},
		{"label", func(s *corev1.Service) { delete(s.Labels, "portway.dev/gateway-name") }, false},
		{"annotation", func(s *corev1.Service) { s.Annotations["portway.dev/gateway-uid"] = "x" }, false},
		{"hash", func(s *corev1.Service) { delete(s.Annotations, "portway.dev/applied") }, false},
		{"type", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, false},
		{"selector", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "x"} }, false},
		{"wider selector", func(s *corev1.Service) { s.Spec.Selector = nil }, false},
		{"policy", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster }, false},
		{"class", func(s *corev1.Service) { s.Spec.LoadBalancerClass = nil }, false},
		{"families", func(s *corev1.Service) { s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol) }, false},
		{"family policy", func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack) }, false},
		{"port", func(s *corev1.Service) { s.Spec.Ports = nil }, false},
		{"protocol", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }, false},
		{"port name", func(s *corev1.Service) { s.Spec.Ports[0].Name = "x" }, false},
		{"target port", func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.IntVal = 22 }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			is := g.Service().DeepCopy()
			test.change(is)
			if got := SameService(is, g.Service()); got != test.same {
				t.Errorf("the same: %t, want %t", got, test.same)
			}
		})
	}
}

// TestAgentsAreSelected: by the labels that deploy/base gives them.
func TestAgentsAreSelected(t *testing.T) {
	all, err := os.ReadFile("../deploy/base/portway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(all), "\n---\n")
	i := slices.IndexFunc(documents, func(text string) bool { return strings.Contains(text, "\nkind: DaemonSet\n") })
	if i < 0 {
		t.Fatal("no DaemonSet")
	}
	agents := decode[appsv1.DaemonSet](t, documents[i])
	if diff := cmp.Diff(agents.Spec.Template.Labels, agentLabels); diff != "" || agents.Namespace != DefaultConfig().Namespace {
		t.Errorf("namespace %s, labels (-agents +selector):\n%s", agents.Namespace, diff)
	}
}
