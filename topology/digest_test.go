package topology

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

const digestManifest = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: portway
  allowedListeners: {namespaces: {from: Same}}
  listeners:
  - {name: a, protocol: TCP, port: 1}
  - {name: b, protocol: UDP, port: 2}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: set}
spec:
  parentRef: {name: gw}
  listeners:
  - {name: c, protocol: TCP, port: 3}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: gw, sectionName: a}]
  rules:
  - backendRefs: [{name: app, port: 80, weight: 1}, {name: app, port: 81, weight: 3}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: superseded}
spec:
  parentRefs: [{name: gw, sectionName: a}]
  rules:
  - backendRefs: [{name: app, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {ports: [{name: http, port: 80}, {name: alt, port: 81}]}
`

var digestKey = inDefault("gw")

func inDefault(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: name}
}

func digestGateway(s Snapshot) *gatewayv1.GatewaySpec { return &s.Gateways[digestKey].Spec }

func digestRefs(s Snapshot, route string) []gatewayv1.BackendRef {
	return s.TCPRoutes[inDefault(route)].Spec.Rules[0].BackendRefs
}

func digestService(s Snapshot) *corev1.ServiceSpec { return &s.Services[inDefault("app")].Spec }

func digestPorts(s Snapshot) []corev1.ServicePort { return digestService(s).Ports }

func digestAssign(s Snapshot, nodeMode bool, addrs ...string) {
	assignment := Assignment{NodeMode: nodeMode}
	for _, addr := range addrs {
		assignment.Addresses = append(assignment.Addresses, netip.MustParseAddr(addr))
	}
	s.Addresses[digestKey] = assignment
}

// digestPool makes the class one of a pool, of which the Gateway has 192.0.2.1.
func digestPool(s Snapshot, addresses v1alpha1.AddressRange) {
	s.AddressPools["public"] = &v1alpha1.AddressPool{Spec: v1alpha1.AddressPoolSpec{Addresses: []v1alpha1.AddressRange{addresses}}}
	s.GatewayParameters[inDefault("pool")] = &v1alpha1.GatewayParameters{Spec: v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModePool, Pool: "public"}}
	s.GatewayClasses["portway"].Spec.ParametersRef = &gatewayv1.ParametersReference{
		Group: v1alpha1.GroupName, Kind: KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("default"), Name: "pool",
	}
	has(s.Gateways[digestKey], v1alpha1.AddressModePool, "192.0.2.1")
	s.Addresses[digestKey] = Resolve(s, DefaultConfig()).Gateways[digestKey].Kept()
}

// digestBalance makes the class one of mode LoadBalancer, and the Gateway's Service, as
// changed, one with the addresses 192.0.2.1 and 192.0.2.2.
func digestBalance(s Snapshot, change func(*corev1.Service)) {
	s.GatewayParameters[inDefault("balanced")] = &v1alpha1.GatewayParameters{Spec: v1alpha1.GatewayParametersSpec{Mode: v1alpha1.AddressModeLoadBalancer}}
	s.GatewayClasses["portway"].Spec.ParametersRef = &gatewayv1.ParametersReference{
		Group: v1alpha1.GroupName, Kind: KindGatewayParameters, Namespace: ptr.To[gatewayv1.Namespace]("default"), Name: "balanced",
	}
	key := types.NamespacedName{Namespace: DefaultConfig().Namespace, Name: serviceName(digestKey, "")}
	service := &corev1.Service{}
	service.Namespace, service.Name = key.Namespace, key.Name
	service.Labels = map[string]string{v1alpha1.GatewayNamespaceLabel: digestKey.Namespace, v1alpha1.GatewayNameLabel: digestKey.Name}
	service.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	service.Spec.Ports = []corev1.ServicePort{{Protocol: "TCP", Port: 1, NodePort: 30001}, {Protocol: "UDP", Port: 2, NodePort: 30002}, {Protocol: "TCP", Port: 3, NodePort: 30003}}
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "192.0.2.2"}, {Hostname: "a.example.com"}}
	change(service)
	s.Services[key] = service
	s.Addresses[digestKey] = Resolve(s, DefaultConfig()).Gateways[digestKey].Kept()
}

func balanced(change func(*corev1.Service)) func(Snapshot) {
	return func(s Snapshot) { digestBalance(s, change) }
}

var asMade = balanced(func(*corev1.Service) {})

var digestTests = []struct {
	name   string
	before func(Snapshot) // optional: another start
	change func(Snapshot)
	moves  bool
}{
	{"nothing", nil, func(Snapshot) {}, false},
	{"listener port", nil, func(s Snapshot) { digestGateway(s).Listeners[0].Port = 9 }, true},
	{"listener protocol", nil, func(s Snapshot) { digestGateway(s).Listeners[1].Protocol = gatewayv1.TCPProtocolType }, true},
	{"listener name", nil, func(s Snapshot) { digestGateway(s).Listeners[1].Name = "z" }, true},
	{"listener gone", nil, func(s Snapshot) { digestGateway(s).Listeners = digestGateway(s).Listeners[:1] }, true},
	{"listener turns invalid", nil, func(s Snapshot) { digestGateway(s).Listeners[1].Port = 0 }, true},
	{"listener order", nil, func(s Snapshot) { slices.Reverse(digestGateway(s).Listeners) }, false},
	{"invalid listener", nil, func(s Snapshot) {
		digestGateway(s).Listeners = append(digestGateway(s).Listeners, gatewayv1.Listener{Name: "web", Protocol: "HTTP", Port: 80})
	}, false},
	{"entry of a set", nil, func(s Snapshot) {
		s.ListenerSets[inDefault("set")].Spec.Listeners[0].Port = 9
	}, true},
	{"set gone", nil, func(s Snapshot) { delete(s.ListenerSets, inDefault("set")) }, true},
	{"other winner with the same backends", nil, func(s Snapshot) {
		s.TCPRoutes[inDefault("superseded")].Spec.Rules = s.TCPRoutes[inDefault("r")].Spec.Rules
		delete(s.TCPRoutes, inDefault("r"))
	}, true},
	{"superseded route", nil, func(s Snapshot) { digestRefs(s, "superseded")[0].Weight = ptr.To[int32](7) }, false},
	{"weight", nil, func(s Snapshot) { digestRefs(s, "r")[0].Weight = ptr.To[int32](2) }, true},
	{"weight 1 left out", nil, func(s Snapshot) { digestRefs(s, "r")[0].Weight = nil }, false},
	{"backend port", nil, func(s Snapshot) { digestRefs(s, "r")[0].Port = ptr.To[gatewayv1.PortNumber](81) }, true},
	{"backend order", nil, func(s Snapshot) { slices.Reverse(digestRefs(s, "r")) }, true},
	{"backend turns invalid", nil, func(s Snapshot) { delete(s.Services, inDefault("app")) }, true},
	{"service port name", nil, func(s Snapshot) { digestPorts(s)[0].Name = "web" }, true},
	{"service port order", nil, func(s Snapshot) { slices.Reverse(digestPorts(s)) }, false},
	{"target port", nil, func(s Snapshot) { digestPorts(s)[0].TargetPort.IntVal = 8080 }, false},
	{"service session affinity", nil, func(s Snapshot) { digestService(s).SessionAffinity = corev1.ServiceAffinityClientIP }, true},
	{"service session affinity by default", nil, func(s Snapshot) { digestService(s).SessionAffinity = corev1.ServiceAffinityNone }, false},
	{"service session affinity timeout", nil, func(s Snapshot) {
		digestService(s).SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](9)}}
	}, false},
	{"service external traffic policy", nil, func(s Snapshot) {
		digestService(s).ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}, true},
	{"service external traffic policy by default", nil, func(s Snapshot) {
		digestService(s).ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}, false},
	{"service internal traffic policy", nil, func(s Snapshot) {
		digestService(s).InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}, false},
	{"service traffic distribution", nil, func(s Snapshot) {
		digestService(s).TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameZone)
	}, false},
	{"policies of one service are not each other's", func(s Snapshot) {
		digestService(s).SessionAffinity = corev1.ServiceAffinityClientIP
	}, func(s Snapshot) {
		digestService(s).SessionAffinity = corev1.ServiceAffinityNone
		digestService(s).ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}, true},
	{"generation", nil, func(s Snapshot) { s.Gateways[digestKey].Generation++ }, false},
	{"status", nil, func(s Snapshot) {
		s.Gateways[digestKey].Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.1"}}
	}, false},
	{"address", nil, func(s Snapshot) { digestAssign(s, false, "192.0.2.9") }, true},
	{
		"address order", func(s Snapshot) { digestAssign(s, false, "192.0.2.1", "192.0.2.2") },
		func(s Snapshot) { digestAssign(s, false, "192.0.2.2", "192.0.2.1") }, false,
	},
	{"node mode", func(s Snapshot) { digestAssign(s, false) }, func(s Snapshot) { digestAssign(s, true) }, true},
	{"node address", func(s Snapshot) { digestAssign(s, true, "192.0.2.1") }, func(s Snapshot) { digestAssign(s, true, "192.0.2.2") }, false},
	{"pool of the address", func(s Snapshot) { digestAssign(s, false, "192.0.2.1") }, func(s Snapshot) {
		digestPool(s, "192.0.2.0/24")
	}, false},
	{"retained address", func(s Snapshot) {
		digestPool(s, "192.0.2.0/24")
	}, func(s Snapshot) {
		pool := s.AddressPools["public"]
		pool.Spec.Addresses, pool.Status.Retained = []v1alpha1.AddressRange{"198.51.100.0/24"}, []string{"192.0.2.1"}
		s.Addresses[digestKey] = Resolve(s, DefaultConfig()).Gateways[digestKey].Kept()
	}, false},
	{"parameters gone", func(s Snapshot) {
		digestPool(s, "192.0.2.0/24")
	}, func(s Snapshot) {
		clear(s.GatewayParameters)
	}, false},
	{"class from the nodes to a pool", func(s Snapshot) { digestAssign(s, true) }, func(s Snapshot) { digestPool(s, "192.0.2.0/24") }, true},
	{"class from the nodes to load balancers", func(s Snapshot) { digestAssign(s, true) }, asMade, true},
	{"node ports of the same addresses", func(s Snapshot) { digestAssign(s, false, "192.0.2.1", "192.0.2.2") }, asMade, true},
	{"node port", asMade, balanced(func(s *corev1.Service) { s.Spec.Ports[2].NodePort++ }), true},
	{"node port of no listener", asMade, balanced(func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: 4, NodePort: 30004})
	}), false},
	{"no node ports", asMade, balanced(func(s *corev1.Service) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}), true},
	{"families of node ports", asMade, balanced(func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv4", "IPv6"} }), true},
	{"load balancer's address", asMade, balanced(func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "192.0.2.9" }), true},
	{"load balancer turns proxy", asMade, balanced(func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress[0].IPMode = ptr.To(corev1.LoadBalancerIPModeProxy)
	}), true},
	{"load balancer's host name", asMade, balanced(func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[2].Hostname = "b.example.com" }), false},
	{"order of the load balancer's addresses", asMade, balanced(func(s *corev1.Service) { slices.Reverse(s.Status.LoadBalancer.Ingress) }), false},
	{"load balancer's target port", asMade, balanced(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.IntVal = 9 }), false},
	{"load balancer's parameters gone", asMade, func(s Snapshot) { clear(s.GatewayParameters) }, false},
	{"requested node address", func(s Snapshot) {
		digestGateway(s).Addresses = []gatewayv1.GatewaySpecAddress{{Value: "192.0.2.1"}}
		digestAssign(s, true, "192.0.2.1")
	}, func(s Snapshot) {
		digestGateway(s).Addresses[0].Value = "192.0.2.2"
		digestAssign(s, true, "192.0.2.2")
	}, true},
}

// TestDigestMoves: what nodes program moves the digest, what they do not leaves
// it where it is.
func TestDigestMoves(t *testing.T) {
	for _, test := range digestTests {
		t.Run(test.name, func(t *testing.T) {
			snapshot, config := readManifest(t, digestManifest)
			if test.before != nil {
				test.before(snapshot)
			}
			before := Build(snapshot, config.config()).Gateways[digestKey].Digest
			test.change(snapshot)
			after := Build(snapshot, config.config()).Gateways[digestKey].Digest
			if !strings.HasPrefix(before, digestVersion) || len(before) != len(digestVersion)+12 {
				t.Errorf("digest %q", before)
			}
			if (before != after) != test.moves {
				t.Errorf("moves: %t, want %t", before != after, test.moves)
			}
		})
	}
}

// TestDigestEncodingIsStable: the digest of this manifest is part of the format.
// If it changes, nodes of two releases disagree, so digestVersion has to change
// with it.
func TestDigestEncodingIsStable(t *testing.T) {
	snapshot, config := readManifest(t, digestManifest)
	got := Build(snapshot, config.config()).Gateways[digestKey].Digest
	if want := "1:TbGN5QrtbBbW"; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}
