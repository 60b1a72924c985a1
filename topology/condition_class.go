package topology

import (
	"cmp"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func (c *GatewayClass) acceptedCondition() Condition {
	const accepted = gatewayv1.GatewayClassConditionStatusAccepted
	if c.fault.exists() {
		return c.fault.condition(string(accepted))
	}
	return newCondition(accepted, metav1.ConditionTrue, gatewayv1.GatewayClassReasonAccepted, "Gateways of this class are served")
}

func supportedVersionCondition(untested, tested []string) Condition {
	const supported = gatewayv1.GatewayClassConditionStatusSupportedVersion
	if len(untested) == 0 {
		return newCondition(supported, metav1.ConditionTrue, gatewayv1.GatewayClassReasonSupportedVersion,
			"all Gateway API CRDs are of a tested version")
	}
	return newCondition(supported, metav1.ConditionFalse, gatewayv1.GatewayClassReasonUnsupportedVersion,
		fmt.Sprintf("served as well as possible, but not tested with %s; tested with %s", atMost(3, untested), strings.Join(tested, ", ")))
}

func crdVersion(crd, version string) string { return crd + " " + cmp.Or(version, "(no version)") }
