package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/cluster/clientset"
	"github.com/portway-dev/portway/controller"
)

// connect runs the controller on a live cluster until ctx ends.
func connect(ctx context.Context, o controller.Options) error {
	config, err := cluster.ClientConfig(o.Kubeconfig)
	switch {
	case errors.Is(err, cluster.ErrNoCluster):
		return fmt.Errorf("%w: give one with --kubeconfig", err)
	case err != nil:
		return err
	}
	config.UserAgent = "portway-controller/" + version

	readers, writers, err := clients(config, o)
	if err != nil {
		return err
	}
	store := cluster.NewStore()
	liveConfig := cluster.DefaultLiveConfig()
	liveConfig.Clients, liveConfig.Role, liveConfig.Namespace = readers.Clients, cluster.ForController, o.Namespace
	live := cluster.NewLive(liveConfig, store)
	// Watching ends after everything that needs it has.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() { live.Run(watching) })
	defer watcher.Wait()
	defer stop()
	writers.Source, writers.Synced, writers.Served = store, live.Synced(), live.Served
	return controller.Run(ctx, o, writers)
}

// clients returns what reads and what writes. Reading, statuses, Events and the
// leader's Lease have limits of their own: a thousand statuses that wait for their
// turn must not hold up a watch or a renewal, nor a thousand Events the statuses.
func clients(config *rest.Config, o controller.Options) (readers clientset.Clients, writers controller.Cluster, err error) {
	limited := func(qps float32, burst int) (clientset.Clients, error) {
		config := rest.CopyConfig(config)
		config.QPS, config.Burst = qps, burst
		return clientset.New(config)
	}
	readers, err = limited(20, 50) // lists and discovery; watches do not count
	if err != nil {
		return readers, writers, err
	}
	statuses, err := limited(o.KubeQPS, o.KubeBurst)
	if err != nil {
		return readers, writers, err
	}
	events, err := limited(controller.EventQPS, 5*controller.EventQPS)
	if err != nil {
		return readers, writers, err
	}
	election := rest.CopyConfig(config)
	election.Timeout = o.LeaderElection.RenewDeadline / 2
	leases, err := kubernetes.NewForConfig(election)
	if err != nil {
		return readers, writers, fmt.Errorf("set up the client for the leader's Lease: %w", err)
	}
	return readers, controller.Cluster{
		Gateway: statuses.Gateway, AddressPools: statuses.AddressPools, Core: statuses.Core, Events: events.Core, Election: leases,
	}, nil
}
