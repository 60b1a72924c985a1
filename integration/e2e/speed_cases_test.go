package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// endpointLatency: from the API server's answer to a write of an EndpointSlice to the
// first connection that obeys it, on each node in turn.
func endpointLatency(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const (
		port    = 7030
		median  = 50 * time.Millisecond
		slowest = 200 * time.Millisecond
	)
	flips := 60
	if os.Getenv(figure.File) != "" {
		flips = 400 // of 60 the slowest is the p99
	}
	s := c.space(t, "endpoint-latency")
	s.apply(t, backend("one", 1), backend("two", 1), gateway("gw", port), route("TCPRoute", "r", "gw", "by-hand"), fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: by-hand}
spec: {ports: [{name: tcp, port: %d}]}
`, echoPort))
	s.ready(t, "one", 1)
	s.ready(t, "two", 1)
	s.programmed(t, "gw")
	ips := map[string]string{"one": s.podIP(t, "one"), "two": s.podIP(t, "two")}
	slice := s.slice(t, ips["one"])
	c.reach(t, "tcp", join(c.Node(1).Addresses[0], port), "one")

	var took []time.Duration
	for i := range flips {
		to := []string{"two", "one"}[i%2]
		slice.Endpoints[0].Addresses = []string{ips[to]}
		var err error
		if slice, err = c.Kube.DiscoveryV1().EndpointSlices(s.name).Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		took = append(took, c.obeyed(t, c.Node(i%Nodes + 1).Addresses[0], port, to))
		time.Sleep(50 * time.Millisecond) // the other nodes', and a pause as there is in life
	}
	within(t, "EndpointSlice accepted → first packet", took, limits{p50: median, p99: slowest})
}

// obeyed measures until a pod of the Deployment answers.
func (c *Cluster) obeyed(t *testing.T, node netip.Addr, port int, deployment string) (took time.Duration) {
	t.Helper()
	started := time.Now()
	err := c.Outside().Do(func() error {
		for time.Since(started) < settle {
			pod, err := askHere(t.Context(), "tcp", join(node, port))
			if err == nil && only(map[string]int{pod: 1}, deployment) == nil {
				took = time.Since(started)
				return nil
			}
		}
		return fmt.Errorf("%s does not obey", node)
	})
	if err != nil {
		t.Fatal(err)
	}
	return took
}

func (s *space) podIP(t *testing.T, app string) string {
	t.Helper()
	pods, err := s.Kube.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d pods of %s: %v", len(pods.Items), app, err)
	}
	return pods.Items[0].Status.PodIP
}

// slice makes the EndpointSlice of Service by-hand.
func (s *space) slice(t *testing.T, address string) *discoveryv1.EndpointSlice {
	t.Helper()
	name, port := "tcp", int32(echoPort)
	made, err := s.Kube.DiscoveryV1().EndpointSlices(s.name).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "by-hand-1", Labels: map[string]string{discoveryv1.LabelServiceName: "by-hand"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}
