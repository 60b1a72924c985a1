package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/portway-dev/portway/cluster"
)

// Cluster is what the controller works with.
type Cluster struct {
	// Source of objects; nothing is decided before Synced is closed.
	Source interface {
		Changed() <-chan struct{}
		Next() cluster.Update
	}
	Synced <-chan struct{}
	// Served returns the version that each kind is read in.
	Served func() map[string]string
	// Gateway and AddressPools write statuses, within the configured rate.
	Gateway      gatewayclient.Interface
	AddressPools cluster.AddressPools
	// Core writes Services, within the same rate.
	Core kubernetes.Interface
	// Events has a limit of its own: statuses do not wait for Events.
	Events kubernetes.Interface
	// Election is for the leader's Lease only: its renewals wait for nobody.
	Election kubernetes.Interface
}

// Run does what the options say until ctx ends. When it returns, everything it
// started has ended and, if it was the leader, others may lead at once.
func Run(ctx context.Context, o Options, c Cluster) error {
	registerMetrics()
	recorder, stopEvents, err := newRecorder(ctx, c.Events)
	if err != nil {
		return err
	}
	defer stopEvents()
	w := newWriter(newClients(c.Gateway, c.AddressPools, c.Core.CoreV1(), c.Served), clock.RealClock{}, recorder, o.Config.Workers)
	api := newReach(clock.RealClock{}, o.LeaderElection)
	lock := api.listen(o.LeaderElection.lock(c.Election.CoordinationV1()))
	loop := newController(o.Config, c.Source, w, clock.RealClock{}, api)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	if o.Bind != "" {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Bind)
		if err != nil {
			cancel(nil)
			return fmt.Errorf("serve health and metrics: %w", err)
		}
		running.Go(func() { serve(ctx, listener, loop.health) })
	}
	select {
	case <-ctx.Done():
		return nil
	case <-c.Synced:
	}
	api.heard()
	if !o.LeaderElection.Enabled {
		running.Go(func() { api.probe(ctx, lock) })
	}
	running.Go(func() {
		if err := lead(ctx, o.LeaderElection, lock, w); err != nil {
			cancel(err)
		}
	})
	loop.run(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// newRecorder returns where Events go; only a leader emits any.
func newRecorder(ctx context.Context, core kubernetes.Interface) (recorder, func(), error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(gatewayv1.Install(scheme), corev1.AddToScheme(scheme)); err != nil {
		return nil, nil, fmt.Errorf("set up events: %w", err)
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: core.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("set up events: %w", err)
	}
	return broadcaster.NewRecorder(scheme, "portway-controller"), broadcaster.Shutdown, nil
}

// serve answers probes and scrapes until ctx ends.
func serve(ctx context.Context, listener net.Listener, h *health) {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", check(h.live))
	mux.Handle("GET /readyz", check(h.ready))
	mux.Handle("GET /metrics", legacyregistry.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // probes need no farewell
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "Could not serve health and metrics")
	}
}
