package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/cluster"
)

// leases reads and writes Leases.
type leases interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*coordinationv1.Lease, error)
	Create(ctx context.Context, lease *coordinationv1.Lease, options metav1.CreateOptions) (*coordinationv1.Lease, error)
	Update(ctx context.Context, lease *coordinationv1.Lease, options metav1.UpdateOptions) (*coordinationv1.Lease, error)
}

// heartbeat renews the Lease that shows that this agent is alive. The time in it
// is this node's; the controller only looks at whether it moves. A stopped agent
// leaves the Lease as it is: its rules stand, and after an upgrade the next one
// renews it before anybody misses it. Not safe for concurrent use.
type heartbeat struct {
	client   leases
	node     string
	owner    func(context.Context) (metav1.OwnerReference, error)
	interval time.Duration
	clock    clock.PassiveClock
	// lost is called when somebody removed the Lease.
	lost func()
	// reset drops the connections to the API server.
	reset func()

	lease  *coordinationv1.Lease // as it is in the API; nil: not known
	had    bool
	misses int // renewals in a row without any answer
}

// leaseDuration is how many intervals without a renewal make an agent silent; the
// controller's flag decides, this is for people.
const leaseDuration = 4

// maxMisses is how many renewals in a row go without an answer before the connection
// counts as dead. With one, an API server that is merely slow would get all watches of
// all agents anew; with three the controller's patience would be over.
const maxMisses = 2

// pass renews the Lease once.
func (h *heartbeat) pass(ctx context.Context, _ bool) error {
	ctx, cancel := context.WithTimeout(ctx, h.interval)
	defer cancel()
	err := h.renew(ctx)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		// Somebody else wrote or removed it: look and try again.
		h.lease = nil
		err = h.renew(ctx)
	}
	if err != nil {
		h.lease = nil
		if h.misses++; !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			h.misses = 0
		}
		if h.misses == maxMisses {
			h.misses = 0
			h.reset() // the next renewal connects anew
		}
		return fmt.Errorf("renew Lease %s: %w", h.name(), err)
	}
	h.misses = 0
	return nil
}

func (h *heartbeat) name() string { return cluster.AgentLeasePrefix + h.node }

func (h *heartbeat) renew(ctx context.Context) (err error) {
	if h.lease == nil {
		h.lease, err = h.client.Get(ctx, h.name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return h.create(ctx)
		}
		if err != nil {
			return err
		}
	}
	lease := h.lease.DeepCopy()
	h.beat(lease)
	if lease, err = h.client.Update(ctx, lease, metav1.UpdateOptions{}); err == nil {
		h.lease, h.had = lease, true
	}
	return err
}

func (h *heartbeat) create(ctx context.Context) error {
	h.lease = nil
	owner, err := h.owner(ctx)
	if err != nil {
		return err
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: h.name(), OwnerReferences: []metav1.OwnerReference{owner}}}
	h.beat(lease)
	if lease, err = h.client.Create(ctx, lease, metav1.CreateOptions{}); err != nil {
		return err
	}
	if h.had {
		h.lost()
	}
	h.lease, h.had = lease, true
	return nil
}

// beat makes the Lease say that this agent is alive now.
func (h *heartbeat) beat(lease *coordinationv1.Lease) {
	if lease.Labels[cluster.AgentLabel] != "true" {
		labels := map[string]string{cluster.AgentLabel: "true"}
		for k, v := range lease.Labels {
			if k != cluster.AgentLabel {
				labels[k] = v
			}
		}
		lease.Labels = labels
	}
	lease.Spec.HolderIdentity = ptr.To(h.node)
	lease.Spec.LeaseDurationSeconds = ptr.To(int32(max(1, leaseDuration*h.interval/time.Second)))
	lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(h.clock.Now()))
}
