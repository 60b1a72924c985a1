package l4

import (
	"context"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// GatewayUnsupportedProtocol is the half of GatewayListenerUnsupportedProtocol.
var GatewayUnsupportedProtocol = suite.ConformanceTest{
	ShortName:   "L4GatewayUnsupportedProtocol",
	Description: "listeners of HTTP, HTTPS, TLS and unknown protocols are refused with UnsupportedProtocol and no supportedKinds; TCP and UDP beside them work",
	Features:    []features.FeatureName{features.SupportGateway},
	Manifests:   []string{"l4/gateway-unsupported-protocol.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		unsupported := func(name gatewayv1.SectionName) gatewayv1.ListenerStatus {
			return gatewayv1.ListenerStatus{Name: name, SupportedKinds: kinds(), Conditions: []metav1.Condition{
				isFalse(gatewayv1.ListenerConditionAccepted, gatewayv1.ListenerReasonUnsupportedProtocol),
				isFalse(gatewayv1.ListenerConditionProgrammed, gatewayv1.ListenerReasonInvalid),
			}}
		}
		t.Run("no listener is good", func(t *testing.T) {
			gw := infra("only-unsupported-protocols")
			kubernetes.GatewayMustHaveLatestConditions(t, s.Client, s.TimeoutConfig, gw)
			kubernetes.GatewayMustHaveCondition(t, s.Client, s.TimeoutConfig, gw,
				isFalse(gatewayv1.GatewayConditionAccepted, gatewayv1.GatewayReasonListenersNotValid))
			kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, gw,
				[]gatewayv1.ListenerStatus{unsupported("invalid")})
		})
		t.Run("some are", func(t *testing.T) {
			gw := infra("supported-and-unsupported-protocols")
			kubernetes.GatewayMustHaveLatestConditions(t, s.Client, s.TimeoutConfig, gw)
			kubernetes.GatewayMustHaveCondition(t, s.Client, s.TimeoutConfig, gw,
				isTrue(gatewayv1.GatewayConditionAccepted, string(gatewayv1.GatewayReasonListenersNotValid)))
			kubernetes.GatewayMustHaveCondition(t, s.Client, s.TimeoutConfig, gw,
				isTrue(gatewayv1.GatewayConditionProgrammed, string(gatewayv1.GatewayReasonProgrammed)))
			kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, gw, []gatewayv1.ListenerStatus{
				{Name: "tcp", SupportedKinds: kinds("TCPRoute"), Conditions: working()},
				{Name: "udp", SupportedKinds: kinds("UDPRoute"), Conditions: working()},
				unsupported("http"), unsupported("https"), unsupported("tls"), unsupported("invalid"),
			})
		})
	},
}

// GatewayInvalidRouteKind is the half of the suite's test of that name.
var GatewayInvalidRouteKind = suite.ConformanceTest{
	ShortName:   "L4GatewayInvalidRouteKind",
	Description: "a kind of route that a listener cannot serve is InvalidRouteKinds and no supportedKind; kinds beside it that it can are",
	Features:    []features.FeatureName{features.SupportGateway},
	Manifests:   []string{"l4/gateway-invalid-route-kind.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		invalid := []metav1.Condition{isFalse(gatewayv1.ListenerConditionResolvedRefs, gatewayv1.ListenerReasonInvalidRouteKinds)}
		kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, infra("only-invalid-route-kind"), []gatewayv1.ListenerStatus{
			{Name: "invalid", SupportedKinds: kinds(), Conditions: invalid},
			{Name: "other-protocol", SupportedKinds: kinds(), Conditions: invalid},
		})
		kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, infra("supported-and-invalid-route-kind"), []gatewayv1.ListenerStatus{
			{Name: "tcp", SupportedKinds: kinds("TCPRoute"), Conditions: invalid},
			{Name: "udp", SupportedKinds: kinds("UDPRoute"), Conditions: invalid},
		})
	},
}

// GatewayModifyListeners is the half of the suite's test of that name, with traffic.
var GatewayModifyListeners = suite.ConformanceTest{
	ShortName:   "L4GatewayModifyListeners",
	Description: "a listener that is added serves the routes that match it; one that is removed refuses at once and the other serves on",
	Features:    []features.FeatureName{features.SupportGateway, features.SupportTCPRoute},
	Manifests:   []string{"l4/gateway-modify-listeners.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		const first, second = 9520, 9521
		gw := infra("modify-listeners")
		ready(t, s)
		host := address(t, s, gw.Name)
		tcpReaches(t, s, at(host, first), gw.Namespace, suite.InfraBackendServiceNameV1)

		attached := func(names ...gatewayv1.SectionName) (list []gatewayv1.ListenerStatus) {
			for _, name := range names {
				list = append(list, gatewayv1.ListenerStatus{Name: name, SupportedKinds: kinds("TCPRoute"), Conditions: working(), AttachedRoutes: 1})
			}
			return list
		}
		t.Run("add", func(t *testing.T) {
			modify(t, s, func(g *gatewayv1.Gateway) {
				g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{Name: "second", Port: second, Protocol: gatewayv1.TCPProtocolType})
			})
			ready(t, s)
			kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, gw, attached("first", "second"))
			tcpReaches(t, s, at(host, second), gw.Namespace, suite.InfraBackendServiceNameV1)
			tcpReaches(t, s, at(host, first), gw.Namespace, suite.InfraBackendServiceNameV1)
		})
		t.Run("remove", func(t *testing.T) {
			modify(t, s, func(g *gatewayv1.Gateway) { g.Spec.Listeners = g.Spec.Listeners[1:] })
			ready(t, s)
			kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, gw, attached("second"))
			refused(t, s, at(host, first))
			tcpReaches(t, s, at(host, second), gw.Namespace, suite.InfraBackendServiceNameV1)
		})
	},
}

// modify patches the Gateway of GatewayModifyListeners.
func modify(t *testing.T, s *suite.ConformanceTestSuite, change func(*gatewayv1.Gateway)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.TimeoutConfig.DefaultTestTimeout)
	defer cancel()
	var original gatewayv1.Gateway
	if err := s.Client.Get(ctx, infra("modify-listeners"), &original); err != nil {
		t.Fatal(err)
	}
	changed := original.DeepCopy()
	change(changed)
	if err := s.Client.Patch(ctx, changed, client.MergeFrom(&original)); err != nil {
		t.Fatal(err)
	}
}

// GatewayPort8080 is for a feature whose tests in the suite need HTTPRoute.
var GatewayPort8080 = suite.ConformanceTest{
	ShortName:   "L4GatewayPort8080",
	Description: "a Gateway serves TCP and UDP on port 8080, each to its own backend",
	Features:    []features.FeatureName{features.SupportGateway, features.SupportGatewayPort8080, features.SupportTCPRoute, features.SupportUDPRoute},
	Manifests:   []string{"l4/gateway-port-8080.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		const port = 8080
		ready(t, s)
		gw := infra("port-8080")
		host := address(t, s, gw.Name)
		kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, gw, []gatewayv1.ListenerStatus{
			{Name: "tcp", SupportedKinds: kinds("TCPRoute"), Conditions: working(), AttachedRoutes: 1},
			{Name: "udp", SupportedKinds: kinds("UDPRoute"), Conditions: working(), AttachedRoutes: 1},
		})
		tcpReaches(t, s, at(host, port), gw.Namespace, suite.InfraBackendServiceNameV1)
		udpReaches(t, s, at(host, port), gw.Namespace, "udp-backend")
	},
}
