package e2e

import (
	"errors"
	"fmt"
	"math"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// TestCluster runs what one cluster can serve, the cases that break it last.
func TestCluster(t *testing.T) {
	c := deployed(t, lab.CRDsStandard)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Cluster)
	}{
		{"zero-endpoints", zeroEndpoints},
		{"invalid-share", invalidShare},
		{"churn", churn},
		{"scale", scaleFromZero},
		{"reference-grant", referenceGrant},
		{"two-gateways", twoGateways},
		{"take-over", takeOver},
		{"move", move},
		{"class-away", classAway},
		{"listenerset-conflicts", listenerSetConflicts},
		{"parameters", parameters},
		{"load-balancer", loadBalancer},
		{"static-addresses", staticAddresses},
		{"pools", pools},
		{"many-gateways", manyGateways},
		{"endpoint-latency", endpointLatency},
		{"silent-agent", silentAgent},
		{"clocks-off", clocksOff},
		{"controller-killed", controllerKilled},
		{"lease-stolen", leaseStolen},
		{"leader-frozen", leaderFrozen},
		{"agent-killed", agentKilled},
		{"crd-removed", crdRemoved},
		{"node-crash", nodeCrash},
		{"api-server-down", apiServerDown}, // Kubernetes itself takes a while to recover
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

// zeroEndpoints: the route is fine, nobody can serve, and clients learn it at once.
func zeroEndpoints(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7001
	s := c.space(t, "zero-endpoints")
	s.apply(t, backend("none", 0), gateway("gw", port), route("TCPRoute", "tcp", "gw", "none"), route("UDPRoute", "udp", "gw", "none"))
	s.programmed(t, "gw")
	s.routeHas(t, "tcp", gatewayv1.RouteConditionResolvedRefs, metav1.ConditionTrue, gatewayv1.RouteReasonResolvedRefs)
	for _, addr := range everyNode(c) {
		eventually(t, settle, func() error { return c.refuses(t.Context(), join(addr, port)) })
	}
	// UDP is dropped, as on a port that nobody serves: that there is a rule shows when
	// there is somebody to answer.
	addr := join(everyNode(c)[0], port)
	s.kubectl(t, "scale", "deployment", "none", "--replicas=1")
	s.ready(t, "none", 1)
	c.reach(t, "udp", addr, "none")
	s.kubectl(t, "scale", "deployment", "none", "--replicas=0")
	eventually(t, settle, func() error {
		if pod, err := c.ask(t.Context(), "udp", addr); err == nil {
			return fmt.Errorf("UDP: %s answers", pod)
		}
		return nil
	})
}

// invalidShare: a backend that does not exist gets its share, and the share is refused.
func invalidShare(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port      = 7002
		total     = 600
		share     = 0.8
		tolerance = 0.05
	)
	s := c.space(t, "invalid-share")
	s.apply(t, backend("valid", 1), gateway("gw", port), route("TCPRoute", "tcp", "gw", "no-such-service=80", "valid=20"))
	s.ready(t, "valid", 1)
	gw := s.programmed(t, "gw")
	s.routeHas(t, "tcp", gatewayv1.RouteConditionResolvedRefs, metav1.ConditionFalse, gatewayv1.RouteReasonBackendNotFound)
	addr := addresses(t, gw)[0]
	eventually(t, settle, func() error { _, err := c.ask(t.Context(), "tcp", join(addr, port)); return err })

	refused := 0
	for range total {
		_, err := c.ask(t.Context(), "tcp", join(addr, port))
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			refused++
		case err != nil:
			t.Fatalf("neither refused nor served: %v", err)
		}
	}
	got := float64(refused) / total
	t.Logf("%.1f %% of %d refused", 100*got, total)
	if math.Abs(got-share) > tolerance {
		t.Errorf("%.1f %% refused, want %.0f %% ± %.0f", 100*got, 100*share, 100*tolerance)
	}
}

// churn: pods come and go under traffic, one is ready at any time, nothing fails and
// the Gateway stays Programmed.
func churn(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port, rounds = 7003, 3
	s := c.space(t, "churn")
	s.apply(t, backend("pods", 3), gateway("gw", port), route("TCPRoute", "tcp", "gw", "pods"), route("UDPRoute", "udp", "gw", "pods"))
	s.ready(t, "pods", 3)
	gw := s.programmed(t, "gw")
	since := gw.Status.Conditions
	addr := addresses(t, gw)[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	c.reach(t, "udp", join(addr, port), "pods")
	tcp, udp := c.stream(t, "tcp", join(addr, port)), c.stream(t, "udp", join(addr, port))
	for range rounds {
		for _, replicas := range []int{1, 4, 2, 5, 1} {
			s.scale(t, "pods", replicas)
		}
		s.kubectl(t, "rollout", "restart", "deployment/pods")
		s.kubectl(t, "rollout", "status", "deployment/pods", "--timeout=30s")
	}
	tcp.whole(t)
	udp.whole(t)
	after, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(after.Status.Conditions) != fmt.Sprint(since) {
		t.Errorf("conditions moved under churn:\n%v\n%v", since, after.Status.Conditions)
	}
}

// scaleFromZero: 0 → 3 → 0.
func scaleFromZero(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7004
	s := c.space(t, "scale")
	s.apply(t, backend("pods", 0), gateway("gw", port), route("TCPRoute", "tcp", "gw", "pods"))
	addr := addresses(t, s.programmed(t, "gw"))[0]
	eventually(t, settle, func() error { return c.refuses(t.Context(), join(addr, port)) })

	s.scale(t, "pods", 3)
	c.reach(t, "tcp", join(addr, port), "pods")
	served := map[string]int{}
	eventually(t, settle, func() error {
		pod, err := c.ask(t.Context(), "tcp", join(addr, port))
		if err != nil {
			t.Errorf("three pods are ready: %v", err)
		}
		if served[pod]++; len(served) < 3 {
			return fmt.Errorf("only %v serve", served)
		}
		return nil
	})
	s.scale(t, "pods", 0)
	eventually(t, settle, func() error { return c.refuses(t.Context(), join(addr, port)) })
}

// referenceGrant: given and taken under traffic to a second backend that needs none.
func referenceGrant(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7005
	s, other := c.space(t, "grant-from"), c.space(t, "grant-to")
	other.apply(t, backend("there", 1))
	s.apply(t, backend("here", 1), gateway("gw", port), route("TCPRoute", "tcp", "gw", "here=50", "grant-to/there=50"))
	s.ready(t, "here", 1)
	other.ready(t, "there", 1)
	addr := addresses(t, s.programmed(t, "gw"))[0]
	s.routeHas(t, "tcp", gatewayv1.RouteConditionResolvedRefs, metav1.ConditionFalse, gatewayv1.RouteReasonRefNotPermitted)
	stream := c.stream(t, "tcp", join(addr, port))

	for range 2 {
		c.share(t, join(addr, port), map[string]float64{"here": .5, "": .5})
		other.apply(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: grant-from}]
  to: [{group: "", kind: Service, name: there}]
`)
		s.routeHas(t, "tcp", gatewayv1.RouteConditionResolvedRefs, metav1.ConditionTrue, gatewayv1.RouteReasonResolvedRefs)
		s.programmed(t, "gw")
		c.share(t, join(addr, port), map[string]float64{"here": .5, "there": .5})
		other.kubectl(t, "delete", "referencegrant", "grant")
		s.routeHas(t, "tcp", gatewayv1.RouteConditionResolvedRefs, metav1.ConditionFalse, gatewayv1.RouteReasonRefNotPermitted)
	}
	c.share(t, join(addr, port), map[string]float64{"here": .5, "": .5})
	stream.servedOrRefused(t)
}

// share waits until connections are served by Deployments in these shares; what is
// refused counts for "".
func (c *Cluster) share(t *testing.T, address string, want map[string]float64) {
	t.Helper()
	const (
		total     = 300
		tolerance = 0.1
	)
	eventually(t, settle, func() error {
		got := map[string]float64{}
		for range total {
			pod, err := c.ask(t.Context(), "tcp", address)
			switch {
			case err == nil:
				got[deploymentOf(pod)] += 1. / total
			case errors.Is(err, syscall.ECONNREFUSED):
				got[""] += 1. / total
			default:
				t.Fatalf("neither refused nor served: %v", err)
			}
		}
		for name := range got {
			if math.Abs(got[name]-want[name]) > tolerance {
				return fmt.Errorf("shares are %v, want %v", got, want)
			}
		}
		return nil
	})
}

// twoGateways of one port: the older has it. When it goes, the other one is Accepted
// at once and serves; how soon is what freedPort measures.
func twoGateways(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7006
	s := c.space(t, "two-gateways")
	s.apply(t, backend("old", 1), backend("new", 1), gateway("old", port), route("TCPRoute", "old", "old", "old"), route("TCPRoute", "new", "new", "new"))
	s.ready(t, "old", 1)
	s.ready(t, "new", 1)
	addr := addresses(t, s.programmed(t, "old"))[0]
	time.Sleep(1100 * time.Millisecond) // creation times have seconds: the next one is younger
	s.apply(t, gateway("new", port))
	listener := func(reason gatewayv1.ListenerConditionReason, status metav1.ConditionStatus) func() error {
		return func() error {
			gw, err := s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "new", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, l := range gw.Status.Listeners {
				if err := current(l.Conditions, gw.Generation, string(gatewayv1.ListenerConditionAccepted), status, string(reason)); err != nil {
					return err
				}
			}
			if len(gw.Status.Listeners) != 2 {
				return fmt.Errorf("%d listeners in the status", len(gw.Status.Listeners))
			}
			return nil
		}
	}
	eventually(t, settle, listener(gatewayv1.ListenerReasonPortUnavailable, metav1.ConditionFalse))
	c.reach(t, "tcp", join(addr, port), "old")

	if err := s.Gateway.GatewayV1().Gateways(s.name).Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 5*time.Second, listener(gatewayv1.ListenerReasonAccepted, metav1.ConditionTrue))
	t.Logf("Accepted %s after the older one was deleted", took.Round(time.Millisecond))
	s.programmed(t, "new")
	c.reach(t, "tcp", join(addr, port), "new")
}

// takeOver: two routes at one listener; the older serves until it is deleted.
func takeOver(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7007
	s := c.space(t, "take-over")
	s.apply(t, backend("older", 1), backend("younger", 1), gateway("gw", port), route("TCPRoute", "z-older", "gw", "older"))
	s.ready(t, "older", 1)
	s.ready(t, "younger", 1)
	addr := addresses(t, s.programmed(t, "gw"))[0]
	c.reach(t, "tcp", join(addr, port), "older")
	time.Sleep(1100 * time.Millisecond) // creation times have seconds: the next one is younger
	s.apply(t, route("TCPRoute", "a-younger", "gw", "younger"))
	s.routeHas(t, "a-younger", gatewayv1.RouteConditionAccepted, metav1.ConditionTrue, gatewayv1.RouteReasonAccepted)
	s.routeHas(t, "a-younger", "portway.dev/Superseded", metav1.ConditionTrue, "")
	stream := c.stream(t, "tcp", join(addr, port))
	eventually(t, settle, func() error { return more(stream, 100) })
	if err := only(stream.answered(), "older"); err != nil {
		t.Error(err)
	}
	s.kubectl(t, "delete", "tcproute", "z-older")
	c.reach(t, "tcp", join(addr, port), "younger")
	stream.whole(t)
}

func more(s *stream, than int) error {
	if n := s.count(); n <= than {
		return fmt.Errorf("%d answers so far", n)
	}
	return nil
}

// move: a route goes to another listener, another Gateway, and its twin to another
// namespace. Where it was refuses, where it is serves.
func move(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const first, second, third = 7008, 7009, 7010
	s := c.space(t, "move")
	s.apply(t, backend("pods", 1), gateway("one", first, second), gateway("two", third), route("TCPRoute", "r", "one:tcp-7008", "pods"))
	s.ready(t, "pods", 1)
	addr := addresses(t, s.programmed(t, "one"))[0]
	s.programmed(t, "two")
	serves := func(port int) {
		t.Helper()
		c.reach(t, "tcp", join(addr, port), "pods")
		for _, other := range []int{first, second, third} {
			if other != port {
				eventually(t, settle, func() error { return c.refuses(t.Context(), join(addr, other)) })
			}
		}
	}
	serves(first)
	s.apply(t, route("TCPRoute", "r", "one:tcp-7009", "pods"))
	serves(second)
	s.apply(t, route("TCPRoute", "r", "two", "pods"))
	serves(third)
	s.attached(t, "one", 0)
	s.attached(t, "two", 1)
	s.parents(t, "r", "two")

	other := c.space(t, "moved")
	s.kubectl(t, "delete", "tcproute", "r")
	other.apply(t, backend("pods", 1), `
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: one, namespace: move, sectionName: tcp-7008}]
  rules: [{backendRefs: [{name: pods, port: 6000}]}]
`)
	other.ready(t, "pods", 1)
	serves(first)
	s.attached(t, "one", 1)
	s.attached(t, "two", 0)
	other.parents(t, "r", "one")
}

// attached waits until the listeners of a Gateway have so many routes together.
func (s *space) attached(t *testing.T, gateway string, routes int) {
	t.Helper()
	eventually(t, settle, func() error {
		gw, err := s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), gateway, metav1.GetOptions{})
		if err != nil {
			return err
		}
		got := 0
		for _, l := range gw.Status.Listeners {
			got += int(l.AttachedRoutes)
		}
		if got != routes {
			return fmt.Errorf("%d routes are attached to %s, want %d", got, gateway, routes)
		}
		return nil
	})
}

// parents waits until the status of a TCPRoute is of one Gateway only.
func (s *space) parents(t *testing.T, name, gateway string) {
	t.Helper()
	eventually(t, settle, func() error {
		r, err := s.Gateway.GatewayV1().TCPRoutes(s.name).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if all := r.Status.Parents; len(all) != 1 || string(all[0].ParentRef.Name) != gateway {
			return fmt.Errorf("the parents in the status are %+v, want %s", all, gateway)
		}
		return nil
	})
}

// classAway: a Gateway changes to a foreign class. Its rules go, and so does what we
// wrote into its status and into those of its routes; what others wrote stays.
func classAway(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7011
	s := c.space(t, "class-away")
	s.apply(t, backend("pods", 1), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 1)
	addr := addresses(t, s.programmed(t, "gw"))[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	s.kubectl(t, "patch", "tcproute", "r", "--subresource=status", "--type=json", "-p",
		`[{"op":"add","path":"/status/parents/-","value":{"parentRef":{"name":"gw"},"controllerName":"example.com/other","conditions":[{"type":"Accepted","status":"True","reason":"Accepted","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}]`)
	s.kubectl(t, "patch", "gateway", "gw", "--subresource=status", "--type=json", "-p",
		`[{"op":"add","path":"/status/conditions/-","value":{"type":"example.com/Foreign","status":"True","reason":"Foreign","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}}]`)
	s.kubectl(t, "patch", "gateway", "gw", "--type=merge", "-p", `{"spec":{"gatewayClassName":"somebody-else"}}`)

	eventually(t, settle, func() error { return c.notServed(t, join(addr, port)) })
	eventually(t, settle, func() error {
		r, err := s.Gateway.GatewayV1().TCPRoutes(s.name).Get(t.Context(), "r", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(r.Status.Parents) != 1 || r.Status.Parents[0].ControllerName != "example.com/other" {
			return fmt.Errorf("parents are %+v, want only the foreign one", r.Status.Parents)
		}
		return nil
	})
	eventually(t, settle, func() error {
		gw, err := s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := gw.Status
		if len(status.Conditions) != 1 || status.Conditions[0].Type != "example.com/Foreign" ||
			len(status.Addresses) > 0 || len(status.Listeners) > 0 || status.AttachedListenerSets != nil {
			return fmt.Errorf("the status is %+v, want only the foreign condition", status)
		}
		return nil
	})
}

func (c *Cluster) notServed(t *testing.T, address string) error {
	t.Helper()
	if pod, err := c.ask(t.Context(), "tcp", address); err == nil {
		return fmt.Errorf("%s still answers", pod)
	}
	return nil
}

func deploymentOf(pod string) string {
	for range 2 { // NAME-REPLICASET-SUFFIX
		for i := len(pod) - 1; i >= 0; i-- {
			if pod[i] == '-' {
				pod = pod[:i]
				break
			}
		}
	}
	return pod
}
