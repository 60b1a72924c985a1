package l4

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/conformance/utils/tcp"
	"sigs.k8s.io/gateway-api/conformance/utils/udp"
)

// infra names an object of the suite's main namespace.
func infra(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: suite.InfrastructureNamespace, Name: name}
}

func isTrue[T ~string](condition T, reason string) metav1.Condition {
	return metav1.Condition{Type: string(condition), Status: metav1.ConditionTrue, Reason: reason}
}

func isFalse[T, R ~string](condition T, reason R) metav1.Condition {
	return metav1.Condition{Type: string(condition), Status: metav1.ConditionFalse, Reason: string(reason)}
}

func kinds(names ...gatewayv1.Kind) []gatewayv1.RouteGroupKind {
	group := gatewayv1.Group(gatewayv1.GroupName)
	list := []gatewayv1.RouteGroupKind{}
	for _, name := range names {
		list = append(list, gatewayv1.RouteGroupKind{Group: &group, Kind: name})
	}
	return list
}

// working are the conditions of a listener that serves.
func working() []metav1.Condition {
	return []metav1.Condition{
		isTrue(gatewayv1.ListenerConditionAccepted, ""),
		isTrue(gatewayv1.ListenerConditionResolvedRefs, ""),
		isTrue(gatewayv1.ListenerConditionProgrammed, ""),
	}
}

// conflicted are the conditions of a listener whose port another one has.
func conflicted() []metav1.Condition {
	reason := gatewayv1.ListenerReasonProtocolConflict
	return []metav1.Condition{
		isFalse(gatewayv1.ListenerConditionAccepted, reason),
		isFalse(gatewayv1.ListenerConditionProgrammed, reason),
		isTrue(gatewayv1.ListenerConditionConflicted, string(reason)),
	}
}

func ready(t *testing.T, s *suite.ConformanceTestSuite) {
	t.Helper()
	kubernetes.NamespacesMustBeReady(t, s.Client, s.TimeoutConfig, []string{suite.InfrastructureNamespace})
}

// address waits until a Gateway has one and returns it without a port.
func address(t *testing.T, s *suite.ConformanceTestSuite, gateway string) string {
	t.Helper()
	hostPort, err := kubernetes.WaitForGatewayAddress(t, s.Client, s.TimeoutConfig, kubernetes.NewGatewayRef(infra(gateway)))
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func at(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func tcpReaches(t *testing.T, s *suite.ConformanceTestSuite, address, namespace, backend string) {
	t.Helper()
	tcp.MakeTCPRequestAndExpectEventuallyValidResponse(t, s.TimeoutConfig, address, nil, "", false,
		tcp.ExpectedResponse{Backend: backend, Namespace: namespace})
}

func udpReaches(t *testing.T, s *suite.ConformanceTestSuite, address, namespace, backend string) {
	t.Helper()
	udp.ExpectEchoResponseFromBackend(t, s.TimeoutConfig.MaxTimeToConsistency, address,
		udp.ExpectedResponse{Service: backend, Namespace: namespace})
}

// refused waits until connections to the address are refused, by a reset or by ICMP.
func refused(t *testing.T, s *suite.ConformanceTestSuite, address string) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), s.TimeoutConfig.DefaultPollInterval, s.TimeoutConfig.MaxTimeToConsistency, true,
		func(ctx context.Context) (bool, error) {
			var dialer net.Dialer
			ctx, cancel := context.WithTimeout(ctx, s.TimeoutConfig.RequestTimeout)
			defer cancel()
			conn, err := dialer.DialContext(ctx, "tcp", address)
			if err == nil {
				err = conn.Close()
			}
			last = err
			return errors.Is(last, syscall.ECONNREFUSED), nil
		})
	if err != nil {
		t.Errorf("%s does not refuse connections: last got %v", address, last)
	}
}
