package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2/ktesting"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/portway-dev/portway/cluster"
)

func TestHeartbeat(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	client := fake.NewClientset()
	var failure error
	client.PrependReactor("*", "leases", func(clienttesting.Action) (bool, runtime.Object, error) { return failure != nil, nil, failure })
	clock := clocktesting.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	lost := 0
	h := &heartbeat{
		client: client.CoordinationV1().Leases("portway-system"), node: "n1", interval: 10 * time.Second, clock: clock,
		owner: func(context.Context) (metav1.OwnerReference, error) {
			return metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u"}, nil
		},
		lost:  func() { lost++ },
		reset: func() { t.Error("the connections were dropped, although the API server answers") },
	}
	leases := client.CoordinationV1().Leases("portway-system")
	renewed := func(seconds int) *coordinationv1.Lease {
		t.Helper()
		clock.SetTime(time.Date(2026, 1, 1, 0, 0, seconds, 0, time.UTC))
		if err := h.pass(ctx, true); err != nil {
			t.Fatal(err)
		}
		lease, err := leases.Get(ctx, "agent-n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !lease.Spec.RenewTime.Time.Equal(clock.Now()) {
			t.Errorf("renewed at %v, want %v", lease.Spec.RenewTime, clock.Now())
		}
		return lease
	}
	lease := renewed(0)
	if lease.Labels[cluster.AgentLabel] != "true" || *lease.Spec.HolderIdentity != "n1" || *lease.Spec.LeaseDurationSeconds != 40 || lease.OwnerReferences[0].UID != "u" {
		t.Errorf("lease %+v", lease)
	}
	renewed(10)
	client.ClearActions()
	renewed(20)
	if n := len(client.Actions()) - 1; n != 1 { // one is this test's
		t.Errorf("a renewal took %d requests: %v", n, client.Actions())
	}

	failure = errors.New("connection refused")
	if err := h.pass(ctx, true); err == nil || !strings.HasPrefix(err.Error(), "renew Lease agent-n1: ") {
		t.Errorf("error %v", err)
	}
	failure = nil
	renewed(40)

	// Somebody else's label and holder; the label that the controller selects by is gone.
	lease = renewed(50)
	lease.Labels = map[string]string{"mine": "yes"}
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.lease = nil // the fake knows no conflicts
	if lease = renewed(60); lease.Labels["mine"] != "yes" || lease.Labels[cluster.AgentLabel] != "true" {
		t.Errorf("labels %v", lease.Labels)
	}
	if lost != 0 {
		t.Error("the Lease counts as lost")
	}
	if err := leases.Delete(ctx, "agent-n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	renewed(70)
	if lost != 1 {
		t.Errorf("lost %d times, want once", lost)
	}
}

func TestHeartbeatAfterConflict(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	client := fake.NewClientset()
	h := &heartbeat{
		client: client.CoordinationV1().Leases("x"), node: "n1", interval: time.Second, clock: clocktesting.NewFakeClock(time.Unix(1, 0)),
		owner: func(context.Context) (metav1.OwnerReference, error) { return metav1.OwnerReference{}, nil },
	}
	if err := h.pass(ctx, true); err != nil {
		t.Fatal(err)
	}
	conflicts := 1
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if conflicts--; conflicts < 0 {
			return false, nil, nil
		}
		return true, nil, apierrors.NewConflict(coordinationv1.Resource("leases"), "agent-n1", errors.New("changed"))
	})
	if err := h.pass(ctx, true); err != nil || conflicts != -1 {
		t.Errorf("conflict: %v", err)
	}
}

func TestHeartbeatNeedsANode(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	client := fake.NewClientset()
	s := newSelf("n1", client.CoreV1().Nodes(), nil)
	h := &heartbeat{client: client.CoordinationV1().Leases("x"), node: "n1", interval: time.Second, clock: clocktesting.NewFakeClock(time.Unix(1, 0)), owner: s.owner}
	const want = `renew Lease agent-n1: there is no Node "n1": give this node's name with --node-name or the environment variable NODE_NAME`
	if err := h.pass(ctx, true); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
