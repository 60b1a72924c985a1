package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// leaseStolen: another one writes itself into the leader's Lease, again and again. The
// leader gives way, nobody writes statuses meanwhile, and when it stops there is a
// leader again and all is made up for.
func leaseStolen(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port    = 7024
		thefts  = 6
		given   = 4 // thefts after which the leader has given way: more than its renew deadline of 10 s
		thief   = "thief"
		gaining = time.Minute
	)
	s := c.space(t, "lease-stolen")
	s.apply(t, backend("pods", 1), gateway("gw", port))
	s.ready(t, "pods", 1)
	s.programmed(t, "gw")
	leases := c.Kube.CoordinationV1().Leases(System)
	for i := range thefts {
		if i == given {
			s.apply(t, route("TCPRoute", "r", "gw", "pods"))
		}
		err := retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error {
			lease, err := leases.Get(t.Context(), "portway-controller", metav1.GetOptions{})
			if err != nil {
				return err
			}
			holder, now := thief, metav1.NowMicro()
			lease.Spec.HolderIdentity, lease.Spec.RenewTime = &holder, &now
			_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
	}
	r, err := c.Gateway.GatewayV1().TCPRoutes(s.name).Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Status.Parents) > 0 {
		t.Errorf("somebody wrote a status while %s held the Lease", thief)
	}
	var lease *coordinationv1.Lease
	took := eventually(t, gaining, func() (err error) {
		if lease, err = leases.Get(t.Context(), "portway-controller", metav1.GetOptions{}); err != nil {
			return err
		}
		if *lease.Spec.HolderIdentity == thief {
			return fmt.Errorf("%s holds the Lease", thief)
		}
		return nil
	})
	t.Logf("%s leads %s after the last theft", *lease.Spec.HolderIdentity, took.Round(time.Millisecond))
	s.routeHas(t, "r", "Accepted", metav1.ConditionTrue, "")
	s.programmed(t, "gw")
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// leaderFrozen: the leader stops for longer than its Lease lasts, another one leads, and
// then the first goes on as if it still led. One of the two gives way, and they do not
// fight over any status.
func leaderFrozen(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port    = 7028
		gaining = time.Minute
		calm    = 5 * time.Second
	)
	s := c.space(t, "leader-frozen")
	s.apply(t, backend("pods", 1), gateway("gw", port))
	s.ready(t, "pods", 1)
	s.programmed(t, "gw")
	name := leader(t, c)
	frozen, err := c.Kube.CoreV1().Pods(System).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.kill(t.Context(), "STOP", frozen); err != nil {
		t.Fatal(err)
	}
	thaw := sync.OnceValue(func() error { return c.kill(context.Background(), "CONT", frozen) })
	t.Cleanup(func() {
		if err := thaw(); err != nil {
			t.Error(err)
		}
	})
	s.apply(t, route("TCPRoute", "r", "gw", "pods"))
	took := eventually(t, gaining, func() error {
		if leader(t, c) == name {
			return fmt.Errorf("%s holds the Lease", name)
		}
		return nil
	})
	t.Logf("another one leads after %s", took.Round(time.Millisecond))
	if err := thaw(); err != nil {
		t.Fatal(err)
	}
	s.apply(t, gateway("gw", port, port+1000))
	eventually(t, settle, func() error { return oneLeads(t, c) })
	s.routeHas(t, "r", "Accepted", metav1.ConditionTrue, "")
	s.programmed(t, "gw")
	s.attached(t, "gw", 2)
	fight := s.followGateway(t, "gw")
	until(t, fight, settle, func(*gatewayv1.Gateway) error { return nil }) // as it is
	select {
	case again := <-fight:
		t.Errorf("somebody wrote once more: %+v", again.object.Status)
	case <-time.After(calm):
	}
	if err := oneLeads(t, c); err != nil {
		t.Error(err)
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// leader returns the pod that holds the leader's Lease.
func leader(t *testing.T, c *Cluster) string {
	t.Helper()
	lease, err := c.Kube.CoordinationV1().Leases(System).Get(t.Context(), "portway-controller", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return pod
}

// oneLeads returns an error unless exactly one controller says that it leads.
func oneLeads(t *testing.T, c *Cluster) error {
	t.Helper()
	pods, err := c.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=controller"})
	if err != nil {
		return err
	}
	var leaders []string
	for _, pod := range pods.Items {
		m, err := c.scrape(t.Context(), net.JoinHostPort(pod.Status.PodIP, "9618"))
		if err != nil {
			return err
		}
		if m.sum("portway_controller_leading") > 0 {
			leaders = append(leaders, pod.Name)
		}
	}
	if len(leaders) != 1 || leaders[0] != leader(t, c) {
		return fmt.Errorf("%v lead, and %s holds the Lease", leaders, leader(t, c))
	}
	return nil
}

// clocksOff: the API server makes what agents write of the time five minutes old, as if
// their clocks were slow; it is all of a clock that leaves a node. What counts is that
// Leases are renewed, not what they say.
func clocksOff(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port = 7031
		// longer than an agent may be silent, 40 s
		patience = 50 * time.Second
	)
	if err := c.Apply(t.Context(), slowClocks); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, kind := range []string{"mutatingadmissionpolicybinding", "mutatingadmissionpolicy"} {
			// The test's own context has ended by now.
			if _, err := c.Kubectl(context.Background(), "delete", kind, "slow-clocks"); err != nil {
				t.Error(err)
			}
		}
	})
	leases := c.Kube.CoordinationV1().Leases(System)
	eventually(t, time.Minute, func() error {
		all, err := leases.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		slow := 0
		for _, l := range all.Items {
			if l.Name != "portway-controller" && time.Since(l.Spec.RenewTime.Time) > 4*time.Minute {
				slow++
			}
		}
		if slow != Nodes {
			return fmt.Errorf("%d of %d Leases are slow", slow, Nodes)
		}
		return nil
	})
	s := c.space(t, "clocks-off")
	s.apply(t, backend("pods", 1), gateway("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 1)
	s.programmed(t, "gw")
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Second) {
		if n := len(addresses(t, s.programmed(t, "gw"))); n != 2*Nodes {
			t.Fatalf("the Gateway has %d addresses", n)
		}
	}
}

const slowClocks = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: slow-clocks}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [coordination.k8s.io], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [leases]}
  matchConditions:
  - {name: agents, expression: "object.metadata.namespace == '` + System + `' && object.metadata.name != 'portway-controller'"}
  reinvocationPolicy: Never
  failurePolicy: Fail
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: |
        [JSONPatch{op: "replace", path: "/spec/renewTime", value: string(timestamp(int(timestamp(object.spec.renewTime)) - 300)).replace("Z", ".000000Z")}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: slow-clocks}
spec: {policyName: slow-clocks}
`

// crdRemoved: the CRD of UDPRoute goes with its objects and comes back. UDP is refused
// and served again, TCP does not notice.
func crdRemoved(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port = 7025
	s := c.space(t, "crd-removed")
	udp := route("UDPRoute", "udp", "gw", "pods")
	s.apply(t, backend("pods", 1), gateway("gw", port), route("TCPRoute", "tcp", "gw", "pods"), udp)
	s.ready(t, "pods", 1)
	addr := addresses(t, s.programmed(t, "gw"))[0]
	c.reach(t, "tcp", join(addr, port), "pods")
	c.reach(t, "udp", join(addr, port), "pods")
	stream := c.stream(t, "tcp", join(addr, port))
	if _, err := c.Kubectl(t.Context(), "delete", "crd", "udproutes.gateway.networking.k8s.io"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		if pod, err := c.ask(t.Context(), "udp", join(addr, port)); err == nil {
			return fmt.Errorf("%s still answers UDP", pod)
		}
		return nil
	})
	dir, err := lab.CRDDir(t.Context(), lab.CRDsStandard)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "apply", "--server-side", "-f", filepath.Join(dir, "gateway.networking.k8s.io_udproutes.yaml")); err != nil {
		t.Fatal(err)
	}
	eventually(t, settle, func() error {
		_, err := c.Kubectl(t.Context(), "wait", "--for=condition=Established", "--timeout=5s", "crd/udproutes.gateway.networking.k8s.io")
		return err
	})
	s.apply(t, udp)
	started := time.Now()
	eventually(t, 90*time.Second, func() error {
		_, err := c.ask(t.Context(), "udp", join(addr, port))
		return err
	})
	t.Logf("UDP is served %s after the CRD is back", time.Since(started).Round(time.Millisecond))
	stream.whole(t)
	restarts(t, c)
}
