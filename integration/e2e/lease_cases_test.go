package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/portway-dev/portway/integration/lab"
)

// leaseStolen: another one writes itself into the leader's Lease, again and again. The
// leader gives way, nobody writes statuses meanwhile, and when it stops there is a
// leader again and all is made up for.
func leaseStolen(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port    = 7024
		thefts  = 5
		thief   = "thief"
		gaining = time.Minute
	)
	s := c.space(t, "lease-stolen")
	s.apply(t, backend("pods", 1), gateway("gw", port))
	s.ready(t, "pods", 1)
	s.programmed(t, "gw")
	leases := c.Kube.CoordinationV1().Leases(System)
	for range thefts {
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
	s.apply(t, route("TCPRoute", "r", "gw", "pods"))
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

// clocksOff: the clocks of all agents are five minutes slow. What counts is that their
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
			if _, err := c.Kubectl(t.Context(), "delete", kind, "slow-clocks"); err != nil && t.Context().Err() == nil {
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
