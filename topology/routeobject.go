package topology

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// RouteObject is what the decision needs of a TCPRoute or UDPRoute; Rules holds
// the backendRefs per rule.
type RouteObject struct {
	Meta       *metav1.ObjectMeta
	ParentRefs []gatewayv1.ParentReference
	Rules      [][]gatewayv1.BackendRef
}
