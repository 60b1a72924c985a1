package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/controller"
)

// connect runs the controller on a live cluster until ctx ends. Reading, writing
// and the leader's Lease have connections of their own limits: a thousand statuses
// that wait for their turn must not hold up a watch or a renewal.
func connect(ctx context.Context, o controller.Options) error {
	config, err := cluster.ClientConfig(o.Kubeconfig)
	switch {
	case errors.Is(err, cluster.ErrNoCluster):
		return fmt.Errorf("%w: give one with --kubeconfig", err)
	case err != nil:
		return err
	}
	config.UserAgent = "portway-controller/" + version

	reading := rest.CopyConfig(config)
	reading.QPS, reading.Burst = 20, 50 // lists and discovery; watches do not count
	readers, err := cluster.NewClients(reading)
	if err != nil {
		return err
	}
	writing := rest.CopyConfig(config)
	writing.QPS, writing.Burst = o.KubeQPS, o.KubeBurst
	writers, err := cluster.NewClients(writing)
	if err != nil {
		return err
	}
	election := rest.CopyConfig(config)
	election.Timeout = o.LeaderElection.RenewDeadline / 2
	leases, err := kubernetes.NewForConfig(election)
	if err != nil {
		return fmt.Errorf("set up the client for the leader's Lease: %w", err)
	}

	store := cluster.NewStore()
	liveConfig := cluster.DefaultLiveConfig()
	liveConfig.Clients, liveConfig.Role, liveConfig.Namespace = readers, cluster.ForController, o.Namespace
	live := cluster.NewLive(liveConfig, store)
	// Watching ends after everything that needs it has.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() { live.Run(watching) })
	defer watcher.Wait()
	defer stop()
	return controller.Run(ctx, o, controller.Cluster{
		Source: store, Synced: live.Synced(), Served: live.Served,
		Gateway: writers.Gateway, Core: writers.Core, Election: leases,
	})
}
