package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubelets that go and come back disturb neither traffic nor pods; the addresses of a dead
// node leave the Gateway and come back with it, and it serves again.
func (in *installation) kubelets(t *testing.T) {
	s := in.space(t, "kubelets")
	s.apply(t, backend("pods", 2), gateway("gw", 7900), route("TCPRoute", "tcp", "gw", "pods"))
	s.ready(t, "pods", 2)
	s.programmed(t, "gw")
	address := join(in.Node(1).Addresses[0], 7900)
	in.reach(t, "tcp", address, "pods")

	before, traffic := containers(t, in.Cluster), in.stream(t, "tcp", address)
	for i := range Nodes {
		if err := in.StopKubelet(i + 1); err != nil {
			t.Fatal(err)
		}
		if err := in.StartKubelet(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	traffic.whole(t)
	if after := containers(t, in.Cluster); !slices.Equal(before, after) {
		t.Errorf("containers before: %v, after: %v", before, after)
	}

	dead := in.Node(Nodes).Addresses
	has := func(want bool) func() error {
		return func() error {
			for _, a := range s.gateway(t, "gw").Status.Addresses {
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
	eventually(t, time.Minute, has(true))
	if err := in.Crash(Nodes); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, time.Minute, has(false))
	t.Logf("a dead node's addresses have left after %s", took.Round(time.Millisecond))
	if err := in.Boot(Nodes); err != nil {
		t.Fatal(err)
	}
	took = eventually(t, time.Minute, has(true))
	t.Logf("they are back %s after the node", took.Round(time.Millisecond))
	for _, addr := range dead {
		in.reach(t, "tcp", join(addr, 7900), "pods")
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
