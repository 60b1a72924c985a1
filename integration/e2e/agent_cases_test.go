package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// silentAgent: the agent of a ready node hangs. Its address leaves the Gateway, which
// names the node and stays Programmed for as long as what the node last proved is what
// is asked for: its rules serve on. After an edit it is not, until the agent is back.
func silentAgent(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port, added = 7026, 7027
		victim      = 3
		name        = "node3"
		// an agent may be silent for 40 s, of which up to 10 s have passed
		limit = time.Minute
	)
	s := c.space(t, "silent-agent")
	s.apply(t, backend("pods", 2), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 2)
	if n := len(addresses(t, s.programmed(t, "gw"))); n != 2*Nodes {
		t.Fatalf("the Gateway has %d addresses", n)
	}
	live, silent := c.Node(1).Addresses, c.Node(victim).Addresses
	for _, addr := range silent {
		c.reach(t, "tcp", join(addr, port), "pods")
	}

	told := s.followGateway(t, "gw")
	stream := c.stream(t, "tcp", join(silent[0], port))
	restore := sync.OnceValue(c.mute(t, name))
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
	})
	took := eventually(t, limit, func() error {
		gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			return err
		}
		got := sorted(addresses(t, gw))
		if want := sorted(slices.Concat(live, c.Node(2).Addresses)); !slices.Equal(got, want) {
			return fmt.Errorf("its addresses are %v, want %v", got, want)
		}
		return names(gw, metav1.ConditionTrue, name)
	})
	t.Logf("the address left and the node was named after %s", took.Round(time.Second))
	s.programmed(t, "gw")
	stayedProgrammed(t, told)
	for _, addr := range slices.Concat(live, silent) {
		c.reach(t, "tcp", join(addr, port), "pods")
	}
	nodeReady(t, c, name)

	s.apply(t, gateway("gw", port, added))
	eventually(t, settle, func() error {
		gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionFalse, string(gatewayv1.GatewayReasonPending)); err != nil {
			return err
		}
		return names(gw, metav1.ConditionFalse, name)
	})
	c.reach(t, "tcp", join(live[0], added), "pods")
	c.reach(t, "tcp", join(silent[0], port), "pods") // what it had stands

	if err := restore(); err != nil {
		t.Fatal(err)
	}
	back := eventually(t, limit, func() error {
		gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n := len(addresses(t, gw)); n != 2*Nodes {
			return fmt.Errorf("the Gateway has %d addresses", n)
		}
		return current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionTrue, "")
	})
	t.Logf("all was well %s after the agent was back", back.Round(time.Millisecond))
	if names(s.programmed(t, "gw"), metav1.ConditionTrue, name) == nil {
		t.Errorf("%s is still named", name)
	}
	for _, addr := range silent {
		c.reach(t, "tcp", join(addr, added), "pods")
	}
	stream.whole(t)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// names returns an error unless the Gateway's Programmed has the status and names the
// node.
func names(gw *gatewayv1.Gateway, status metav1.ConditionStatus, node string) error {
	c := meta.FindStatusCondition(gw.Status.Conditions, string(gatewayv1.GatewayConditionProgrammed))
	if c == nil || c.Status != status || !strings.Contains(c.Message, node) {
		return fmt.Errorf("Programmed is %+v, want it %s and to name %s", c, status, node)
	}
	return nil
}

func nodeReady(t *testing.T, c *Cluster, name string) {
	t.Helper()
	node, err := c.Kube.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return
		}
	}
	t.Errorf("%s is not ready: %+v", name, node.Status.Conditions)
}
