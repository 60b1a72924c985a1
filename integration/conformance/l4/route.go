package l4

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// RouteOfOtherProtocol is in place of UDPRouteNotAllowedByListeners of the suite, which
// returns before its first assertion where TLSRoute is not supported.
var RouteOfOtherProtocol = suite.ConformanceTest{
	ShortName:   "L4RouteOfOtherProtocol",
	Description: "a UDPRoute at a TCP listener and a TCPRoute at a UDP listener are NotAllowedByListeners and attach to nothing",
	Features:    []features.FeatureName{features.SupportGateway, features.SupportTCPRoute, features.SupportUDPRoute},
	Manifests:   []string{"l4/route-of-other-protocol.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		gw := infra("route-of-other-protocol")
		ready(t, s)
		notAllowed := isFalse(gatewayv1.RouteConditionAccepted, gatewayv1.RouteReasonNotAllowedByListeners)
		kubernetes.UDPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, infra("udp-on-tcp"), gw, notAllowed)
		kubernetes.TCPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, infra("tcp-on-udp"), gw, notAllowed)
		kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, gw, []gatewayv1.ListenerStatus{
			{Name: "tcp", SupportedKinds: kinds("TCPRoute"), Conditions: working()},
			{Name: "udp", SupportedKinds: kinds("UDPRoute"), Conditions: working()},
		})
	},
}

// grant is a ReferenceGrant in the namespace of the web backends.
func grant(name string, from gatewayv1.ReferenceGrantFrom, to ...gatewayv1.ReferenceGrantTo) *gatewayv1.ReferenceGrant {
	return &gatewayv1.ReferenceGrant{
		ObjectMeta: metav1.ObjectMeta{Namespace: suite.WebBackendNamespace, Name: name},
		Spec:       gatewayv1.ReferenceGrantSpec{From: []gatewayv1.ReferenceGrantFrom{from}, To: to},
	}
}

// from names all objects of a kind in the suite's main namespace.
func from(kind gatewayv1.Kind) gatewayv1.ReferenceGrantFrom {
	return gatewayv1.ReferenceGrantFrom{Group: gatewayv1.GroupName, Kind: kind, Namespace: suite.InfrastructureNamespace}
}

func service(name gatewayv1.ObjectName) gatewayv1.ReferenceGrantTo {
	to := gatewayv1.ReferenceGrantTo{Kind: "Service"}
	if name != "" {
		to.Name = &name
	}
	return to
}

// wrong are grants that each miss a reference of a TCPRoute or UDPRoute to the web
// backends by one field.
func wrong() []client.Object {
	all := []client.Object{}
	for _, kind := range []gatewayv1.Kind{"TCPRoute", "UDPRoute"} {
		backend := backends[kind]
		group, namespace := from(kind), from(kind)
		group.Group, namespace.Namespace = "not-the-group.example", "not-the-namespace"
		otherGroup, otherKind := service(backend), service(backend)
		otherGroup.Group, otherKind.Kind = "not-the-group.example", "Secret"
		name := backend + "-"
		all = append(all,
			grant(string(name+"from-group"), group, service(backend)),
			grant(string(name+"from-kind"), from("Gateway"), service(backend)),
			grant(string(name+"from-namespace"), namespace, service(backend)),
			grant(string(name+"to-group"), from(kind), otherGroup),
			grant(string(name+"to-kind"), from(kind), otherKind),
			grant(string(name+"to-name"), from(kind), service("not-the-backend")),
		)
	}
	return all
}

var backends = map[gatewayv1.Kind]gatewayv1.ObjectName{"TCPRoute": "web-backend", "UDPRoute": "udp-web-backend"}

// ReferenceGrants is the half of the four tests of the suite whose references are those
// of HTTPS listeners to Secrets.
var ReferenceGrants = suite.ConformanceTest{
	ShortName:   "L4ReferenceGrants",
	Description: "a backend of another namespace is RefNotPermitted and refused without a grant and with grants that miss it by one field; a grant for it, or for all Services, permits it",
	Features:    []features.FeatureName{features.SupportGateway, features.SupportReferenceGrant, features.SupportTCPRoute, features.SupportUDPRoute},
	Manifests:   []string{"l4/reference-grants.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		const port = 9530
		name := infra("reference-grants")
		ready(t, s)
		host := address(t, s, name.Name)
		has := func(t *testing.T, c metav1.Condition) {
			t.Helper()
			kubernetes.TCPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, name, name, c)
			kubernetes.UDPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, name, name, c)
		}
		notPermitted := isFalse(gatewayv1.RouteConditionResolvedRefs, gatewayv1.RouteReasonRefNotPermitted)
		permitted := isTrue(gatewayv1.RouteConditionResolvedRefs, string(gatewayv1.RouteReasonResolvedRefs))

		t.Run("missing", func(t *testing.T) {
			has(t, notPermitted)
			refused(t, s, at(host, port))
		})
		t.Run("wrong", func(t *testing.T) {
			s.Applier.MustApplyObjectsWithCleanup(t, s.Client, s.TimeoutConfig, wrong(), true)
			has(t, notPermitted)
			refused(t, s, at(host, port))
		})
		for _, test := range []struct {
			name     string
			tcp, udp gatewayv1.ObjectName
		}{
			{name: "specific", tcp: backends["TCPRoute"], udp: backends["UDPRoute"]},
			{name: "all in namespace"},
		} {
			t.Run(test.name, func(t *testing.T) {
				s.Applier.MustApplyObjectsWithCleanup(t, s.Client, s.TimeoutConfig, []client.Object{
					grant("tcp", from("TCPRoute"), service(test.tcp)), grant("udp", from("UDPRoute"), service(test.udp)),
				}, true)
				has(t, permitted)
				tcpReaches(t, s, at(host, port), suite.WebBackendNamespace, "web-backend")
				udpReaches(t, s, at(host, port), suite.WebBackendNamespace, "udp-web-backend")
			})
			t.Run(test.name+", taken", func(t *testing.T) {
				has(t, notPermitted)
				refused(t, s, at(host, port))
			})
		}
	},
}

// accepted waits until a TCPRoute has the condition at a parent, by kind and name.
func accepted(t *testing.T, s *suite.ConformanceTestSuite, route string, parent types.NamespacedName) {
	t.Helper()
	kubernetes.TCPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, infra(route), parent,
		isTrue(gatewayv1.RouteConditionAccepted, string(gatewayv1.RouteReasonAccepted)))
}
