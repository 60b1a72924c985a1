package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/announce"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/topology"
)

// How often an agent turns to the API server when nothing happens.
const (
	// reportCheckInterval is how long a NodeReport that somebody removed is missed.
	reportCheckInterval = 30 * time.Second
	// reportInterval is the least time between two reports.
	reportInterval = 100 * time.Millisecond
	// nodeInterval is the least time from one watch of the Node to the next.
	nodeInterval = 10 * time.Second
	// speakerRetry bounds how long announcing that has failed rests.
	speakerRetry = 10 * time.Second
	// watchTimeout is how long a watch of the Node lasts.
	watchTimeout = 5 * time.Minute
	// apiBackoff is the longest pause while the API server does not answer: when it
	// comes back, the controller should not take this agent for silent.
	apiBackoff = 5 * time.Second
)

// Requests per second and at once: an agent makes few, but all of them at its start.
const (
	apiQPS   = 20
	apiBurst = 50
)

// connection is how an agent talks to the API server.
type connection struct {
	cluster.Clients
	// reset closes what is open; requests that follow connect anew. All requests
	// share one connection, and one that swallows them would otherwise be found
	// out only after most of the controller's patience.
	reset func()
}

// connect returns clients for the cluster of a kubeconfig file or of this pod.
func connect(kubeconfig, version string) (connection, error) {
	config, err := cluster.ClientConfig(kubeconfig)
	if err != nil {
		return connection{}, err
	}
	config.UserAgent = "portway-agent/" + version
	config.QPS, config.Burst = apiQPS, apiBurst
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: apiTimeout, KeepAlive: 30 * time.Second}).DialContext)
	config.Dial = dialer.DialContext
	clients, err := cluster.NewClients(config)
	return connection{clients, dialer.CloseAll}, err
}

// member is what an agent in a cluster has beyond its loop.
type member struct {
	*agent
	live      *cluster.Live
	self      *self
	heartbeat *heartbeat
	health    net.Listener // nil: off
}

func runCluster(ctx context.Context, o Options, env environment) error {
	api, err := env.connect(o.Kubeconfig, o.Version)
	if errors.Is(err, cluster.ErrNoCluster) {
		return fmt.Errorf("nothing to serve: %w; name files or directories with API objects with --manifests, or a cluster with --kubeconfig", err)
	}
	if err != nil {
		return err
	}
	host, err := o.addresses(env)
	if err != nil {
		return err
	}
	kernel, err := env.open(ctx, o.Backend, uint32(o.CTMark))
	switch {
	case isUnable(err):
		klog.FromContext(ctx).Error(err, "This node cannot serve Gateways; its NodeReport says so")
		kernel = unable{err}
	case err != nil:
		return err
	}
	defer func() { _ = kernel.Close() }() // only sockets; the rules stay
	health, err := o.listenHealth()
	if err != nil {
		return err
	}
	m := newMember(ctx, o, env, api, kernel, host)
	if err := m.guard(o, env); err != nil {
		return err
	}
	defer func() { _ = m.gate.opener.Close() }() // only sockets; what is open stays so
	m.health = health
	m.serve(ctx, env)
	return nil
}

func newMember(ctx context.Context, o Options, env environment, api connection, kernel backend, host func() ([]netip.Addr, error)) *member {
	store := cluster.NewStore()
	config := cluster.DefaultLiveConfig()
	config.Clients, config.Role, config.Clock = api.Clients, cluster.ForAgent, env.clock
	m := &member{
		live: cluster.NewLive(config, store),
		self: newSelf(o.NodeName, api.Nodes, host),
	}
	addresses := host
	if len(o.NodeAddresses) == 0 {
		addresses = func() ([]netip.Addr, error) { return m.self.addresses(ctx) }
	}
	m.agent = o.newAgent(env, store, kernel, addresses)
	m.self.moved = m.readdress
	if o.NodeZone == "" {
		m.zone = m.self.zone
	}
	m.assign = func(r *topology.Resolution, _ []netip.Addr) map[types.NamespacedName]topology.Assignment {
		return cluster.Assigned(r)
	}
	m.labels, m.rests = m.self.labels, true
	if o.Layer2KeyFile != "" {
		m.speaker = o.newSpeaker(m, env, api)
		m.metrics.registry.CustomMustRegister(newSpeakerMetrics(m.speaker))
	}
	m.reports = &reportWriter{
		node:      o.NodeName,
		client:    api.NodeReports,
		revisions: api.Metadata.Resource(v1alpha1.GroupVersion.WithResource("nodereports")),
		owner:     m.self.owner,
		describe:  description{version: o.Version, backend: kernel.Name(), bootID: bootID(env.sysctls)},
		fresh:     make(chan struct{}, 1),
	}
	m.heartbeat = &heartbeat{
		node:     o.NodeName,
		client:   api.Leases(o.Namespace),
		owner:    m.self.owner,
		interval: o.LeaseRenewInterval,
		clock:    env.clock,
		lost:     m.reports.check,
		reset:    api.reset,
	}
	return m
}

// newSpeaker makes what announces addresses.
func (o *Options) newSpeaker(m *member, env environment, api connection) *speaker {
	config := announce.DefaultConfig()
	config.Node, config.KeyFile = o.NodeName, o.Layer2KeyFile
	network, _ := o.layer2Network() // Validate has reported what is wrong
	fresh := make(chan struct{}, 1)
	moved := m.self.moved
	m.self.moved = func() {
		moved()
		signal(fresh)
	}
	return &speaker{
		config: config, port: o.Layer2Port, network: network,
		self: m.self, open: env.announce, clock: env.clock, began: env.clock.Now(),
		peers: &peers{client: api.Nodes, changed: func() { signal(fresh) }},
		moved: func() { signal(m.nudge) },
		fresh: fresh,
	}
}

// serve runs everything until ctx ends and everything has ended. Nothing is
// programmed before all objects and the Node were read: until then, the rules of
// the agent before stand.
func (m *member) serve(ctx context.Context, env environment) {
	var running sync.WaitGroup
	defer func() {
		running.Wait()
		klog.FromContext(ctx).Info("Stopped; the rules stay in the kernel, --cleanup removes them")
	}()
	every := func(name string, interval, least time.Duration, changed <-chan struct{}, pass syncloop.Pass) {
		running.Go(func() { env.repeat(ctx, name, interval, least, changed, pass) })
	}
	if m.health != nil {
		var ready []func() error
		if m.speaker != nil {
			ready = append(ready, m.speaker.ready)
		}
		running.Go(func() { serveHealth(ctx, m.health, healthHandler(m.progress, m.metrics, ready...)) })
	}
	running.Go(func() { m.live.Run(ctx) })
	every("node", nodeInterval, time.Second, nil, m.self.pass)
	every("heartbeat", m.heartbeat.interval, 0, nil, counted(m.metrics, objectLease, m.heartbeat.pass))
	for _, known := range []<-chan struct{}{m.self.known, m.live.Synced()} {
		select {
		case <-ctx.Done():
			return
		case <-known:
		}
	}
	if m.speaker != nil {
		every("nodes", nodeInterval, time.Second, nil, m.speaker.peers.pass)
		every("layer2", speakerRetry, time.Second, nil, m.speaker.pass)
	}
	every("firewall", gateInterval, gatePause, m.gate.fresh, m.gate.pass)
	every("flowtable", flowtableInterval, flowtablePause, nil, m.shortcut.pass)
	every("flows", flowInterval, flowPause, m.flows.fresh, m.flows.pass)
	every("report", reportCheckInterval, reportInterval, m.reports.fresh, counted(m.metrics, objectReport, m.reports.pass))
	m.loop(ctx, env)
}

// counted counts the failures of a pass.
func counted(m *instruments, object string, pass syncloop.Pass) syncloop.Pass {
	return func(ctx context.Context, full bool) error {
		return m.apiFailed(object, pass(ctx, full))
	}
}
