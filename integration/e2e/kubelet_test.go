package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// netAdmin is all that the agent may do, as the kernel shows it.
const netAdmin = "0000000000001000"

// TestRealKubelets deploys the product as an image on nodes with a real kubelet,
// containerd and CNI plugins, and the guide's example answers there. A machine without
// containerd runs the first of the clusters with the lab's fake kubelets and says so; CI
// may not.
func TestRealKubelets(t *testing.T) {
	if os.Getenv("E2E") == "" {
		t.Skip("E2E=1 starts a Kubernetes on this machine; it needs root")
	}
	full := lab.CheckFull()
	if full != nil && os.Getenv("CI") == "true" {
		t.Fatal(full)
	}
	for i, test := range []struct {
		name string
		o    Options
	}{
		{"dual-ptp-nftables", Options{CNI: lab.CNIPtp, KubeProxy: lab.ProxyNFTables}},
		{"IPv4-bridge-iptables", Options{OnlyIPv4: true, CNI: lab.CNIBridge, KubeProxy: lab.ProxyIPTables}},
		{"IPv6-ptp-none", Options{OnlyIPv6: true, CNI: lab.CNIPtp}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.CRDs, test.o.Full = lab.CRDsExperimental, full == nil
			if full != nil {
				if i > 0 {
					t.Skip("this cluster differs on the full level only")
				}
				t.Logf("on the small level instead, whose kubelets are fakes: %v", full)
				test.o.CNI = ""
			}
			c := startWith(t, test.o)
			if err := c.Deploy(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			guide(t, c)
			if i > 0 || full != nil {
				return
			}
			onlyNetAdmin(t, c)
			kubeletRestart(t, c)
			fullNodeCrash(t, c)
		})
	}
}

// onlyNetAdmin: NET_ADMIN is enough, and there is no more.
func onlyNetAdmin(t *testing.T, c *Cluster) {
	t.Helper()
	for i := range Nodes {
		out, err := c.Node(i+1).Output(t.Context(), "sh", "-ec", "grep -h ^CapBnd: /proc/$(pgrep -x portway-agent)/status")
		if err != nil || strings.TrimSpace(out) != "CapBnd:\t"+netAdmin {
			t.Errorf("the agent of node %d may do %q, %v", i+1, out, err)
		}
	}
}

// kubeletRestart: a kubelet that goes and comes back disturbs neither traffic nor pods.
func kubeletRestart(t *testing.T, c *Cluster) {
	t.Helper()
	before := containers(t, c)
	clients := c.stream(t, "tcp", join(c.Node(1).Addresses[0], 8080))
	for i := range Nodes {
		if err := c.StopKubelet(i + 1); err != nil {
			t.Fatal(err)
		}
		if err := c.StartKubelet(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	clients.whole(t)
	if after := containers(t, c); !slices.Equal(before, after) {
		t.Errorf("containers before: %v, after: %v", before, after)
	}
}

// containers are the product's, with how often each has died.
func containers(t *testing.T, c *Cluster) (all []string) {
	t.Helper()
	list, err := c.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range list.Items {
		for _, status := range pod.Status.ContainerStatuses {
			all = append(all, fmt.Sprintf("%s %s %d", pod.Name, status.ContainerID, status.RestartCount))
		}
	}
	slices.Sort(all)
	return all
}

// fullNodeCrash: the addresses of a dead node leave the Gateway and come back with it; it
// serves again.
func fullNodeCrash(t *testing.T, c *Cluster) {
	t.Helper()
	dead := c.Node(Nodes).Addresses
	has := func(want bool) func() error {
		return func() error {
			gw, err := c.Gateway.GatewayV1().Gateways("guide").Get(t.Context(), "my-tcp-gateway", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, a := range gw.Status.Addresses {
				if a.Value == dead[0].String() {
					if want {
						return nil
					}
					return fmt.Errorf("the Gateway has the address %s", a.Value)
				}
			}
			if want {
				return fmt.Errorf("the Gateway has not the address %s", dead[0])
			}
			return nil
		}
	}
	if err := c.Crash(Nodes); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, time.Minute, has(false))
	t.Logf("a dead node's addresses have left after %s", took.Round(time.Millisecond))
	if err := c.Boot(Nodes); err != nil {
		t.Fatal(err)
	}
	took = eventually(t, time.Minute, has(true))
	t.Logf("they are back %s after the node", took.Round(time.Millisecond))
	for _, addr := range dead {
		c.reach(t, "tcp", join(addr, 8080), "foo")
		c.reach(t, "tcp", join(addr, 8090), "bar")
	}
}
