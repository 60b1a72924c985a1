package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// controllerKilled: the leader dies in the middle of writing statuses; the other
// replica finishes, traffic does not notice.
func controllerKilled(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port, routes = 7020, 300
	s := c.space(t, "controller-killed")
	s.apply(t, backend("pods", 1), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 1)
	addr := addresses(t, s.programmed(t, "gw"))[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	stream := c.stream(t, "tcp", join(addr, port))

	applied := make(chan error, 1)
	go func() { applied <- s.createRoutes(t.Context(), "many", "gw", routes) }()
	written := func(want int) func() error {
		return func() error {
			list, err := c.Gateway.GatewayV1().TCPRoutes(s.name).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			n := 0
			for _, r := range list.Items {
				n += len(r.Status.Parents)
			}
			if n < want {
				return fmt.Errorf("%d statuses are written", n)
			}
			return nil
		}
	}
	eventually(t, settle, written(10))
	none := int64(0)
	if err := c.Kube.CoreV1().Pods(System).Delete(t.Context(), leader(t, c), metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
		t.Fatal(err)
	}
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	if written(routes+1)() == nil {
		t.Error("all statuses were written before the leader was gone: this run shows nothing")
	}
	took := eventually(t, time.Minute, func() error {
		gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, l := range gw.Status.Listeners {
			if l.Name == "tcp-7020" && l.AttachedRoutes != routes+1 {
				return fmt.Errorf("%d of %d routes are counted", l.AttachedRoutes, routes+1)
			}
		}
		return nil
	})
	t.Logf("statuses were whole %s after the leader was killed", took.Round(time.Millisecond))
	for i := range routes {
		s.routeHas(t, fmt.Sprintf("many-%03d", i), gatewayv1.RouteConditionAccepted, metav1.ConditionTrue, "")
	}
	stream.whole(t)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// createRoutes makes TCPRoutes to the backend "pods" as fast as the API server takes
// them.
func (s *space) createRoutes(ctx context.Context, prefix, gateway string, count int) error {
	for i := range count {
		r := tcpRoute(fmt.Sprintf("%s-%03d", prefix, i), gateway, nil)
		if _, err := s.Gateway.GatewayV1().TCPRoutes(s.name).Create(ctx, r, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// tcpRoute goes to the backend "pods".
func tcpRoute(name, gateway string, section *gatewayv1.SectionName) *gatewayv1.TCPRoute {
	port := gatewayv1.PortNumber(echoPort)
	return &gatewayv1.TCPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: gatewayv1.TCPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{
				Name: gatewayv1.ObjectName(gateway), SectionName: section,
			}}},
			Rules: []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{
				BackendObjectReference: gatewayv1.BackendObjectReference{Name: "pods", Port: &port},
			}}}},
		},
	}
}

// agentKilled: the agents die and come back, traffic does not notice, and no Gateway
// loses its Programmed for it.
func agentKilled(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7021
	s := c.space(t, "agent-killed")
	s.apply(t, backend("pods", 2), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 2)
	before := s.programmed(t, "gw")
	addr := addresses(t, before)[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	stream := c.stream(t, "tcp", join(addr, port))
	none := int64(0)
	if err := c.Kube.CoreV1().Pods(System).DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: &none},
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // until the DaemonSet's status says that they are gone
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream.whole(t)
	after := s.programmed(t, "gw")
	if fmt.Sprint(after.Status.Conditions) != fmt.Sprint(before.Status.Conditions) {
		t.Errorf("conditions moved:\n%v\n%v", before.Status.Conditions, after.Status.Conditions)
	}
}

// apiServerDown: for a minute. Rules stay and serve; afterwards changes go through.
func apiServerDown(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port = 7022
		down = time.Minute
	)
	s := c.space(t, "api-server-down")
	s.apply(t, backend("pods", 2), backend("others", 1), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 2)
	s.ready(t, "others", 1)
	addr := addresses(t, s.programmed(t, "gw"))[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	stream := c.stream(t, "tcp", join(addr, port))
	if err := c.Stop(lab.APIServer); err != nil {
		t.Fatal(err)
	}
	time.Sleep(down)
	if n := stream.failed(); n > 0 {
		t.Errorf("%d connections failed without an API server", n)
	}
	if err := c.Start(lab.APIServer); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	s.apply(t, route("TCPRoute", "r", "gw", "others"))
	eventually(t, time.Minute, func() error {
		pod, err := c.ask(t.Context(), "tcp", join(addr, port))
		if err != nil {
			return err
		}
		return only(map[string]int{pod: 1}, "others")
	})
	t.Logf("a change is served %s after the API server is back", time.Since(started).Round(time.Millisecond))
	stream.whole(t)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
	s.programmed(t, "gw")
}

// nodeCrash: a dead node's addresses leave the Gateways and it does not hold up
// Programmed; when it is back, so are they.
func nodeCrash(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port   = 7023
		victim = 3
		limit  = 90 * time.Second
	)
	s := c.space(t, "node-crash")
	s.apply(t, backend("pods", 3), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 3)
	gw := s.programmed(t, "gw")
	addr := c.Node(1).Addresses[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	dead := c.Node(victim).Addresses
	if err := c.Crash(victim); err != nil {
		t.Fatal(err)
	}
	has := func(want bool) func() error {
		return func() (err error) {
			if gw, err = c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{}); err != nil {
				return err
			}
			for _, a := range gw.Status.Addresses {
				if is := strings.Contains(fmt.Sprint(dead), a.Value); is && !want {
					return fmt.Errorf("%s is still an address of the Gateway", a.Value)
				}
			}
			if want && len(gw.Status.Addresses) != 2*Nodes {
				return fmt.Errorf("%d addresses", len(gw.Status.Addresses))
			}
			return nil
		}
	}
	t.Logf("its addresses left after %s", eventually(t, limit, has(false)).Round(time.Millisecond))
	s.apply(t, gateway("gw", port, port+10))
	s.programmed(t, "gw")
	// By chance alone 20 connections would miss one of three endpoints once in 3000 runs.
	eventually(t, limit, func() error {
		for range 20 {
			if _, err := c.ask(t.Context(), "tcp", join(addr, port)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := c.Boot(victim); err != nil {
		t.Fatal(err)
	}
	t.Logf("its addresses were back after %s", eventually(t, limit, has(true)).Round(time.Millisecond))
	s.programmed(t, "gw")
	for _, a := range dead {
		c.reach(t, "tcp", join(a, port), "pods")
	}
}

// TestBeforeCRDs: the product is there before the Gateway API is; it says so, does not
// end, and serves as soon as it can.
func TestBeforeCRDs(t *testing.T) {
	c := start(t, lab.CRDsNone)
	if err := c.Deploy(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, settle, func() error {
		a, err := c.Kube.AppsV1().DaemonSets(System).Get(t.Context(), "portway-agent", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if a.Status.CurrentNumberScheduled < Nodes {
			return fmt.Errorf("%d agents run", a.Status.CurrentNumberScheduled)
		}
		return nil
	})
	time.Sleep(5 * time.Second) // long enough to crash
	restarts(t, c)
	dir, err := lab.CRDDir(t.Context(), lab.CRDsStandard)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "apply", "--server-side", "-f", dir); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	const port = 7100
	s := c.space(t, "before-crds")
	s.apply(t, backend("pods", 1), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 1)
	var addr netip.Addr
	eventually(t, time.Minute, func() error {
		gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionTrue, "")
	})
	addr = addresses(t, s.programmed(t, "gw"))[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	restarts(t, c)
}

// restarts fails the test if a container of the product was restarted.
func restarts(t *testing.T, c *Cluster) {
	t.Helper()
	pods, err := c.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			if status.RestartCount > 0 {
				t.Errorf("%s was restarted %d times: %+v", pod.Name, status.RestartCount, status.LastTerminationState.Terminated)
			}
		}
	}
}
