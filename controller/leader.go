package controller

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
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

// lead lets the writer write whenever this replica leads, until ctx ends. The Lease
// is given up after the last write has ended, so that two never write.
func lead(ctx context.Context, e LeaderElection, leases coordinationclient.LeasesGetter, w *writer) error {
	if !e.Enabled {
		w.run(ctx)
		return nil
	}
	electing, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: e.Name,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name},
			Client:     leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
		},
		LeaseDuration: e.LeaseDuration, RenewDeadline: e.RenewDeadline, RetryPeriod: e.RetryPeriod,
		ReleaseOnCancel: true,
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
	context.AfterFunc(ctx, func() {
		w.ended()
		release()
	})
	for ctx.Err() == nil {
		elector.Run(electing) // returns when the Lease is lost or given up
	}
	w.ended()
	return nil
}
