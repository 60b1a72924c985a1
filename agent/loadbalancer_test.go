package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/ports"
	"github.com/portway-dev/portway/topology"
)

// TestClusterServesNodePorts: in mode LoadBalancer an agent goes by the Service of the
// Gateway in its own namespace, and by no other, and reports the node ports with what it
// has committed.
func TestClusterServesNodePorts(t *testing.T) {
	const namespace = "edge-system"
	inCluster(t, func(b *clusterBench) { b.createBalanced(namespace) }, func(b *clusterBench) {
		serves := func(when, want string) (digest string) {
			b.t.Helper()
			b.settle(time.Second)
			if got := fmt.Sprint(b.kernel.last().Keys()); got != want {
				b.t.Errorf("%s: frontends %s, want %s", when, got, want)
			}
			return fmt.Sprint(b.cluster.reports.report("demo-node").Committed)
		}
		put := func(in string, nodePort int32) {
			b.t.Helper()
			service := balancer(b.t, b.cluster, nodePort)
			service.Namespace = in
			services := b.cluster.core.CoreV1().Services(in)
			if _, err := services.Update(b.t.Context(), service, metav1.UpdateOptions{}); err == nil {
				return
			}
			if _, err := services.Create(b.t.Context(), service, metav1.CreateOptions{}); err != nil {
				b.t.Fatal(err)
			}
		}
		serves("without a Service", "[]")
		put("default", 30001)
		before := serves("with a tenant's Service", "[]")
		put(namespace, 30080)
		first := serves("with its Service", "[192.0.2.1 tcp 30080 203.0.113.9 tcp 8080]")
		put(namespace, 30090)
		second := serves("with another node port", "[192.0.2.1 tcp 30090 203.0.113.9 tcp 8080]")
		if before == first || first == second {
			b.t.Errorf("committed %s, %s, %s", before, first, second)
		}
	})
}

// TestClusterReportsWhatItWithholds: a port that the node needs itself is not served at its
// own address, and the report has that as an error and not as proven.
func TestClusterReportsWhatItWithholds(t *testing.T) {
	const namespace = "edge-system"
	inCluster(t, func(b *clusterBench) {
		b.createBalanced(namespace)
		b.options.NodePorts = ports.Ranges{{First: 8080, Last: 8080}}
		service := balancer(b.t, b.cluster, 30080)
		service.Namespace = namespace
		service.Status.LoadBalancer.Ingress[0].IP = "192.0.2.1"
		if _, err := b.cluster.core.CoreV1().Services(namespace).Create(b.t.Context(), service, metav1.CreateOptions{}); err != nil {
			b.t.Fatal(err)
		}
	}, func(b *clusterBench) {
		b.settle(time.Second)
		if got := fmt.Sprint(b.kernel.last().Keys()); got != "[192.0.2.1 tcp 30080]" {
			b.t.Errorf("frontends %s, want its node port only", got)
		}
		report := b.cluster.reports.report("demo-node")
		if len(report.Committed) > 0 || len(report.Errors) != 1 || !strings.Contains(report.Errors[0].Message, "192.0.2.1 is an address of a node, which needs port 8080 itself") {
			b.t.Errorf("committed %v, errors %v", report.Committed, report.Errors)
		}
	})
}

// createBalanced creates the objects of the guide with a class of mode LoadBalancer.
func (b *clusterBench) createBalanced(namespace string) {
	ctx, c := b.t.Context(), b.cluster
	b.options.Namespace = namespace
	c.createGuide(b.t)
	parameters := &v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}}
	parameters.Spec.Mode = v1alpha1.AddressModeLoadBalancer
	if _, err := c.own.parameters("default").Create(ctx, parameters, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	class, err := c.gateway.GatewayV1().GatewayClasses().Get(ctx, "portway", metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	class.Spec.ParametersRef = &gatewayv1.ParametersReference{
		Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To(gatewayv1.Namespace("default")), Name: "edge",
	}
	if _, err := c.gateway.GatewayV1().GatewayClasses().Update(ctx, class, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// balancer is the Service of Gateway web, with an address.
func balancer(t *testing.T, c *fakeCluster, nodePort int32) *corev1.Service {
	t.Helper()
	class, err := c.gateway.GatewayV1().GatewayClasses().Get(t.Context(), "portway", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web, err := c.gateway.GatewayV1().Gateways("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	edge, err := c.own.parameters("default").Get(t.Context(), "edge", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key := types.NamespacedName{Namespace: "default", Name: "web"}
	resolution := topology.Resolve(topology.Snapshot{
		GatewayClasses:    map[string]*gatewayv1.GatewayClass{"portway": class},
		Gateways:          map[types.NamespacedName]*gatewayv1.Gateway{key: web},
		GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{{Namespace: "default", Name: "edge"}: edge},
	}, topology.DefaultConfig())
	service := resolution.Build(nil).Gateways[key].Service()
	service.Spec.Ports[0].NodePort = nodePort
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	return service
}
