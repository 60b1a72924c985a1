package l4

import (
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// Tests are all of them, in the order in which they run.
var Tests = []suite.ConformanceTest{
	GatewayUnsupportedProtocol,
	GatewayInvalidRouteKind,
	GatewayModifyListeners,
	GatewayPort8080,
	ReferenceGrants,
	ListenerSetPorts,
	ListenerSetRouting,
	ListenerSetGrants,
	RouteOfOtherProtocol,
}
