package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// programmedLatency: from the report of the last node that has committed an edit to
// Programmed True of that edit, both as a watch brings them.
func programmedLatency(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestBench
	const (
		port  = 7050
		edits = 100
	)
	s := c.space(t, "programmed-latency")
	s.apply(t, gateway("gw", port, port+1))
	s.programmed(t, "gw")
	reports := c.followReports(t)
	eventually(t, settle, reports.agree)
	statuses := s.followGateway(t, "gw")
	gateways := s.Gateway.GatewayV1().Gateways(s.name)
	var took, whole []time.Duration
	for i := range edits {
		gw, err := gateways.Get(t.Context(), "gw", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before := reports.forget()
		gw.Spec.Listeners[2].Port = port + 2 + gatewayv1.PortNumber(i%2)
		edited, err := gateways.Update(t.Context(), gw, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		accepted := time.Now()
		programmed := until(t, statuses, settle, func(gw *gatewayv1.Gateway) error {
			return current(gw.Status.Conditions, edited.Generation, string(gatewayv1.GatewayConditionProgrammed), metav1.ConditionTrue, "")
		})
		var committed time.Time
		eventually(t, settle, func() (err error) {
			committed, err = reports.committed(before)
			return err
		})
		took = append(took, max(0, programmed.Sub(committed)))
		whole = append(whole, programmed.Sub(accepted))
	}
	within(t, "last node's report → Programmed True", took, limits{slowest: time.Second})
	within(t, "edit accepted → Programmed True", whole, limits{})
}

// freedPort: from the deletion of the Gateway that has a port to Accepted True of the
// one that waits for it.
func freedPort(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestBench
	const (
		port   = 7060
		rounds = 20
	)
	s := c.space(t, "freed-port")
	gateways := s.Gateway.GatewayV1().Gateways(s.name)
	var took []time.Duration
	for i := range rounds {
		// The one with the lower number is older, or comes first if made in the same second.
		holds, waits := fmt.Sprintf("gw-%03d", i), fmt.Sprintf("gw-%03d", i+1)
		s.apply(t, gateway(holds, port))
		s.programmed(t, holds)
		s.apply(t, gateway(waits, port))
		statuses := s.followGateway(t, waits)
		accepted := func(status metav1.ConditionStatus) func(*gatewayv1.Gateway) error {
			return func(gw *gatewayv1.Gateway) error {
				return current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionAccepted), status, "")
			}
		}
		until(t, statuses, settle, accepted(metav1.ConditionFalse))
		if err := gateways.Delete(t.Context(), holds, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		deleted := time.Now()
		took = append(took, until(t, statuses, settle, accepted(metav1.ConditionTrue)).Sub(deleted))
	}
	within(t, "Gateway deleted → the one that waits for its port Accepted", took, limits{slowest: time.Second})
}

// reports are what the nodes said they have committed, and when.
type reports struct {
	all    <-chan seen[*unstructured.Unstructured]
	latest map[string]string
	first  map[string]time.Time // by node and what it committed, since forget
}

func (c *Cluster) followReports(t *testing.T) *reports {
	t.Helper()
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	resource := schema.GroupVersionResource{Group: "portway.dev", Version: "v1alpha1", Resource: "nodereports"}
	w, err := client.Resource(resource).Watch(t.Context(), metav1.ListOptions{})
	return &reports{follow[*unstructured.Unstructured](t, w, err), map[string]string{}, map[string]time.Time{}}
}

// read takes over what has come.
func (r *reports) read() error {
	for {
		select {
		case one, ok := <-r.all:
			if !ok {
				return errors.New("the watch of NodeReports ended")
			}
			digests, _, err := unstructured.NestedStringSlice(one.object.Object, "report", "committed")
			if err != nil {
				return err
			}
			node, committed := one.object.GetName(), strings.Join(digests, " ")
			r.latest[node] = committed
			if key := node + " " + committed; r.first[key].IsZero() {
				r.first[key] = one.at
			}
		default:
			return nil
		}
	}
}

// agree returns an error unless all nodes have committed the same.
func (r *reports) agree() error {
	if err := r.read(); err != nil {
		return err
	}
	if len(r.latest) != Nodes {
		return fmt.Errorf("%d nodes reported", len(r.latest))
	}
	for _, committed := range r.latest {
		if committed != r.latest["node1"] {
			return fmt.Errorf("nodes have committed %v", r.latest)
		}
	}
	return nil
}

// forget begins anew and returns what the nodes have committed.
func (r *reports) forget() string {
	r.first = map[string]time.Time{}
	return r.latest["node1"]
}

// committed returns when the last node reported what all nodes have by now, which is
// not what they had before.
func (r *reports) committed(before string) (last time.Time, err error) {
	if err := r.agree(); err != nil {
		return last, err
	}
	if r.latest["node1"] == before {
		return last, errors.New("no node has committed anything else")
	}
	for node, committed := range r.latest {
		if at := r.first[node+" "+committed]; at.After(last) {
			last = at
		}
	}
	return last, nil
}
