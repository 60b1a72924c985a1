package l4

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

var listenerSetFeatures = []features.FeatureName{features.SupportGateway, features.SupportListenerSet, features.SupportTCPRoute}

// ListenerSetPorts is ListenerSetHostnameConflict for ports instead of host names.
var ListenerSetPorts = suite.ConformanceTest{
	ShortName:   "L4ListenerSetPorts",
	Description: "a ListenerSet may have the port of its Gateway for the other protocol; the port of the Gateway or of an older set is a conflict that only the newcomer loses",
	Features:    listenerSetFeatures,
	Manifests:   []string{"l4/listenerset-ports.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		ready(t, s)
		gw, older, newer := infra("listenerset-ports"), infra("listenerset-ports-1"), infra("listenerset-ports-2")
		kubernetes.GatewayMustHaveAttachedListeners(t, s.Client, s.TimeoutConfig, gw, 1)
		kubernetes.GatewayListenersMustHaveConditions(t, s.Client, s.TimeoutConfig, gw, working(), "tcp")
		kubernetes.ListenerSetMustHaveCondition(t, s.Client, s.TimeoutConfig, older,
			isTrue(gatewayv1.ListenerSetConditionProgrammed, string(gatewayv1.ListenerSetReasonProgrammed)))
		kubernetes.ListenerSetListenersMustHaveConditions(t, s.Client, s.TimeoutConfig, older, working(), "udp")
		for _, condition := range []gatewayv1.ListenerSetConditionType{gatewayv1.ListenerSetConditionAccepted, gatewayv1.ListenerSetConditionProgrammed} {
			kubernetes.ListenerSetMustHaveCondition(t, s.Client, s.TimeoutConfig, newer,
				isFalse(condition, gatewayv1.ListenerSetReasonListenersNotValid))
		}
		kubernetes.ListenerSetListenersMustHaveConditions(t, s.Client, s.TimeoutConfig, newer, conflicted(), "tcp", "udp")
	},
}

// ListenerSetRouting is the half of ListenerSetHTTPRouting and of the tests of section
// names and parents beside it, which need HTTPRoute.
var ListenerSetRouting = suite.ConformanceTest{
	ShortName:   "L4ListenerSetRouting",
	Description: "a route of the Gateway serves the Gateway's own listeners only, a route of a ListenerSet all of that set's; a section name is looked up in the parent only",
	Features:    listenerSetFeatures,
	Manifests:   []string{"l4/listenerset-routing.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		const gateway, one, two = 9550, 9551, 9552
		ready(t, s)
		name := infra("listenerset-routing") // the Gateway's and the set's
		accepted(t, s, "of-the-gateway", name)
		accepted(t, s, "of-the-set", name)
		kubernetes.TCPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, infra("section-of-nobody"), name,
			isFalse(gatewayv1.RouteConditionAccepted, gatewayv1.RouteReasonNoMatchingParent))

		kinds := kinds("TCPRoute")
		kubernetes.GatewayStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, name, []gatewayv1.ListenerStatus{
			{Name: "gateway", SupportedKinds: kinds, Conditions: working(), AttachedRoutes: 1},
		})
		kubernetes.ListenerSetStatusMustHaveListeners(t, s.Client, s.TimeoutConfig, name, []gatewayv1.ListenerEntryStatus{
			{Name: "one", SupportedKinds: kinds, Conditions: working(), AttachedRoutes: 1},
			{Name: "two", SupportedKinds: kinds, Conditions: working(), AttachedRoutes: 1},
		})
		host := address(t, s, name.Name)
		tcpReaches(t, s, at(host, gateway), name.Namespace, suite.InfraBackendServiceNameV1)
		tcpReaches(t, s, at(host, one), name.Namespace, suite.InfraBackendServiceNameV2)
		tcpReaches(t, s, at(host, two), name.Namespace, suite.InfraBackendServiceNameV2)
	},
}

// ListenerSetGrants is the half of ListenerSetReferenceGrant.
var ListenerSetGrants = suite.ConformanceTest{
	ShortName:   "L4ListenerSetGrants",
	Description: "the reference of a ListenerSet's route to a backend of another namespace needs a grant for the route's kind: one for Gateways or ListenerSets is none",
	Features:    append([]features.FeatureName{features.SupportReferenceGrant}, listenerSetFeatures...),
	Manifests:   []string{"l4/listenerset-grants.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) { //nolint:thelper // a test
		const port = 9561
		ready(t, s)
		name := infra("listenerset-grants") // the Gateway's, the set's and the route's
		host := address(t, s, name.Name)
		has := func(t *testing.T, c metav1.Condition) {
			t.Helper()
			kubernetes.TCPRouteMustHaveCondition(t, s.Client, s.TimeoutConfig, name, name, c)
		}
		t.Run("of others", func(t *testing.T) {
			s.Applier.MustApplyObjectsWithCleanup(t, s.Client, s.TimeoutConfig, []client.Object{
				grant("gateway", from("Gateway"), service("")), grant("listenerset", from("ListenerSet"), service("")),
			}, true)
			has(t, isFalse(gatewayv1.RouteConditionResolvedRefs, gatewayv1.RouteReasonRefNotPermitted))
			refused(t, s, at(host, port))
		})
		t.Run("of the route", func(t *testing.T) {
			s.Applier.MustApplyObjectsWithCleanup(t, s.Client, s.TimeoutConfig, []client.Object{
				grant("route", from("TCPRoute"), service("web-backend")),
			}, true)
			has(t, isTrue(gatewayv1.RouteConditionResolvedRefs, string(gatewayv1.RouteReasonResolvedRefs)))
			tcpReaches(t, s, at(host, port), suite.WebBackendNamespace, "web-backend")
		})
	},
}
