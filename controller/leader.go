package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
)

// LeaderElection says whether and how replicas agree on the one that writes.
type LeaderElection struct {
	Enabled bool
	// Namespace and Name of the Lease.
	Namespace, Name string
	// Identity of this replica, unique among all.
	Identity string
	// A leader that could not renew for RenewDeadline stops; others take over
	// LeaseDuration after the last renewal they saw. Everyone tries every RetryPeriod.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// DefaultLeaderElection returns the defaults; an identity is missing.
func DefaultLeaderElection() LeaderElection {
	return LeaderElection{
		Enabled: true, Name: "portway-controller",
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
	}
}

// lock returns the leader's Lease as a lock.
func (e LeaderElection) lock(leases coordinationclient.LeasesGetter) resourcelock.Interface {
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name},
		Client:     leases,
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
	}
}

// lead lets the writer write whenever this replica leads, until ctx ends. Two never
// write: a term ends, and with it the writes under way, when the last renewal is
// RenewDeadline old, which is before others may take over; and a Lease is given up
// only after the last write has ended.
func lead(ctx context.Context, e LeaderElection, lock resourcelock.Interface, w *writer) error {
	if !e.Enabled {
		w.run(ctx)
		return nil
	}
	renewals := &renewals{Interface: lock, deadline: e.RenewDeadline}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: e.Name, Lock: renewals,
		LeaseDuration: e.LeaseDuration, RenewDeadline: e.RenewDeadline, RetryPeriod: e.RetryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(term context.Context) {
				term, end := context.WithCancel(term)
				defer end()
				defer context.AfterFunc(ctx, end)()
				klog.FromContext(ctx).Info("Leading", "identity", e.Identity)
				w.run(term)
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				klog.FromContext(ctx).Info("Leader", "identity", identity)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("set up leader election: %w", err)
	}
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	// The Lease is renewed until the last write has ended.
	context.AfterFunc(ctx, func() {
		w.ended()
		stop()
	})
	for ctx.Err() == nil {
		running, end := context.WithCancel(electing)
		renewals.watch(end)
		elector.Run(running) // returns when the Lease is lost
		end()
		w.ended()
	}
	release(context.WithoutCancel(ctx), e, lock)
	return nil
}

// renewals is a lock that ends a term when it was not renewed in time. The elector
// would let the calls that it is waiting for end first.
type renewals struct {
	resourcelock.Interface
	deadline time.Duration

	mu       sync.Mutex // guards everything below
	end      context.CancelFunc
	watchdog *time.Timer // nil before the first renewal of a term
}

// watch begins a term, or the wait for one.
func (r *renewals) watch(end context.CancelFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watchdog != nil {
		r.watchdog.Stop()
		r.watchdog = nil
	}
	r.end = end
}

// renewed notes a renewal as of when it was asked for: others may have seen it since.
func (r *renewals) renewed(asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.deadline - time.Since(asked)
	if r.watchdog == nil {
		r.watchdog = time.AfterFunc(left, r.end)
	} else {
		r.watchdog.Reset(left)
	}
}

func (r *renewals) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	asked := time.Now()
	err := r.Interface.Create(ctx, record)
	if err == nil {
		r.renewed(asked)
	}
	return err
}

func (r *renewals) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	asked := time.Now()
	err := r.Interface.Update(ctx, record)
	if err == nil {
		r.renewed(asked)
	}
	return err
}

// release gives the Lease up if it is ours, so that another one leads at once. A
// renewal that was on its way may get in between. Without an answer the others have
// to wait.
func release(ctx context.Context, e LeaderElection, lock resourcelock.Interface) {
	ctx, cancel := context.WithTimeout(ctx, e.RenewDeadline)
	defer cancel()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		record, _, err := lock.Get(ctx)
		if err != nil || record.HolderIdentity != e.Identity {
			return err
		}
		now := metav1.Now()
		return lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions: record.LeaderTransitions, LeaseDurationSeconds: 1, RenewTime: now, AcquireTime: now,
		})
	})
	if err != nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Info("Could not give up the leader's Lease, others have to wait for its end", "err", err)
	}
}
