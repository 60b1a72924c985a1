package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/announce"
	"github.com/portway-dev/portway/internal/conntrack"
	"github.com/portway-dev/portway/internal/firewall"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
	"github.com/portway-dev/portway/topology"
)

// environment is what Run needs of the world; tests bring their own.
type environment struct {
	out       io.Writer
	sysctls   sysctls
	addresses func() ([]netip.Addr, error)
	open      func(ctx context.Context, backend string, mark uint32) (backend, error)
	// watchAddresses calls changed when the addresses may have changed, until ctx
	// ends.
	watchAddresses func(ctx context.Context, changed func())
	openFirewall   func(mark uint32) (opener, error)
	examineHost    func(firewall.Traffic) []firewall.Finding
	openFlowtable  func(mark uint32, interfaces []string) offloader
	// sweep is conntrack.Sweep.
	sweep   func(context.Context, conntrack.Filter, func(rules.Flow) bool) (int, error)
	connect func(kubeconfig, version string) (connection, error)
	// announce is announce.New.
	announce func(announce.Config, klog.Logger) (announcer, error)
	loop     syncloop.Config
	clock    clock.WithTickerAndDelayedExecution
	// printStatus delivers requests to print the statuses.
	printStatus <-chan os.Signal
}

// Run does what the options say until ctx ends. When it returns, everything it
// started has ended, and the rules are still in the kernel. Statuses go to out;
// a signal on printStatus prints them.
func Run(ctx context.Context, o Options, out io.Writer, printStatus <-chan os.Signal) error {
	held, err := o.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }() // it goes with the process at the latest
	return run(ctx, o, newEnvironment(out, printStatus))
}

// newEnvironment is this host's.
func newEnvironment(out io.Writer, printStatus <-chan os.Signal) environment {
	return environment{
		out:            out,
		sysctls:        procSysctls{},
		addresses:      hostAddresses,
		open:           openBackend,
		watchAddresses: watchAddresses,
		sweep:          conntrack.Sweep,
		openFirewall:   openFirewall,
		openFlowtable:  openFlowtable,
		examineHost:    firewall.NewHost(nftables.DefaultConfig().Table).Findings,
		connect:        connect,
		announce:       openAnnouncer,
		loop:           syncloop.DefaultConfig(),
		clock:          clock.RealClock{},
		printStatus:    printStatus,
	}
}

func run(ctx context.Context, o Options, env environment) error {
	if err := o.Validate(); err != nil {
		return err
	}
	switch {
	case o.Cleanup:
		return cleanUp(ctx, o, env)
	case len(o.Manifests) == 0:
		return runCluster(ctx, o, env)
	default:
		return runStandalone(ctx, o, env)
	}
}

func runStandalone(ctx context.Context, o Options, env environment) error {
	addresses, err := o.addresses(env)
	if err != nil {
		return err
	}
	// Everything that can be wrong is found before anything is changed: the files,
	// then rights and kernel, then settings.
	store := cluster.NewStore()
	config := cluster.DefaultManifestsConfig()
	config.Paths, config.Clock = o.Manifests, env.clock
	manifests, err := cluster.NewManifests(ctx, config, store)
	if err != nil {
		return err
	}
	kernel, err := env.open(ctx, o.Backend, uint32(o.CTMark))
	if err != nil {
		return err
	}
	defer func() { _ = kernel.Close() }() // only sockets; the rules stay
	if err := checkHost(o, env, addresses); err != nil {
		return err
	}
	health, err := o.listenHealth()
	if err != nil {
		return err
	}
	a := o.newAgent(env, store, kernel, addresses)
	if err := a.guard(o, env); err != nil {
		return err
	}
	defer func() { _ = a.gate.opener.Close() }() // only sockets; what is open stays so
	a.statuses = newStatusWriter(o.StatusOut, env.out, o.PrintStatus, env.clock)
	a.serve(ctx, env, manifests, health)
	return nil
}

// newAgent makes the agent of both modes.
func (o *Options) newAgent(env environment, from source, to backend, addresses func() ([]netip.Addr, error)) *agent {
	config := topology.DefaultConfig()
	config.NodePorts, config.Namespace = o.NodePorts, o.Namespace
	a := newAgent(o.NodeName, config, from, to, addresses)
	a.clock, a.lookout.clock, a.progress = env.clock, env.clock, newProgress(env.clock)
	a.shortcut = &shortcut{
		table:  env.openFlowtable(uint32(o.CTMark), o.Flowtable),
		wanted: len(o.Flowtable) > 0, moved: func() { signal(a.nudge) },
	}
	a.backend = to.Name()
	a.limitations = func() []string { return append(to.Limitations(), a.shortcut.limits()...) }
	a.zone = func() string { return o.NodeZone }
	a.flows = newFlowSweeper(uint32(o.CTMark), o.EndTCPFlows, a.metrics)
	a.flows.sweep = env.sweep
	set := o.SetSysctls
	a.preflight = func(addresses []netip.Addr) []string {
		warnings, _ := preflight(env.sysctls, addresses, set) // the error is among them
		return warnings
	}
	return a
}

// serve runs everything until ctx ends and everything has ended.
func (a *agent) serve(ctx context.Context, env environment, manifests *cluster.Manifests, health net.Listener) {
	var running sync.WaitGroup
	running.Go(func() { manifests.Run(ctx) })
	// The writer outlives the loop, so that the last statuses are those of the
	// last pass.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	var writer sync.WaitGroup
	writer.Go(func() { a.statuses.run(writing) })
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-env.printStatus:
				a.statuses.request()
			}
		}
	})
	if health != nil {
		running.Go(func() { serveHealth(ctx, health, healthHandler(a.progress, a.metrics)) })
	}
	running.Go(func() { env.repeat(ctx, "firewall", gateInterval, gatePause, a.gate.fresh, a.gate.pass) })
	running.Go(func() { env.repeat(ctx, "flowtable", flowtableInterval, flowtablePause, nil, a.shortcut.pass) })
	running.Go(func() { env.repeat(ctx, "flows", flowInterval, flowPause, a.flows.fresh, a.flows.pass) })
	a.loop(ctx, env)
	running.Wait()
	stopWriting()
	writer.Wait()
	klog.FromContext(ctx).Info("Stopped; the rules stay in the kernel, --cleanup removes them")
}

// guard gives the agent its gate.
func (a *agent) guard(o Options, env environment) error {
	opener, err := env.openFirewall(uint32(o.CTMark))
	if err != nil {
		return fmt.Errorf("look at the firewalls of this host: %w", err)
	}
	a.gate = &gate{
		opener: opener, host: env.examineHost, clock: env.clock, fresh: make(chan struct{}, 1),
		moved: func() { signal(a.nudge) },
	}
	return nil
}

// repeat runs a pass beside the loop until ctx ends.
func (e *environment) repeat(ctx context.Context, name string, interval, least time.Duration, changed <-chan struct{}, pass syncloop.Pass) {
	config := e.loop
	config.MaxInterval, config.MinInterval = interval, least
	config.MaxBackoff = min(config.MaxBackoff, interval/2, apiBackoff)
	syncloop.Run(klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), name)), config, changed, pass)
}

// loop makes passes until ctx ends.
func (a *agent) loop(ctx context.Context, env environment) {
	changed := make(chan struct{}, 1)
	var relay sync.WaitGroup
	relay.Go(func() { a.progress.relay(ctx, a.source.Changed(), changed) })
	relay.Go(func() { a.progress.relay(ctx, a.nudge, changed) })
	relay.Go(func() { env.watchAddresses(ctx, a.readdress) })
	relay.Go(func() { env.repeat(ctx, "rules", lookInterval, 0, nil, a.lookout.pass) })
	syncloop.Run(ctx, env.loop, changed, a.tracked)
	a.disarm()
	relay.Wait()
}

// addresses returns where the node's addresses come from.
func (o *Options) addresses(env environment) (func() ([]netip.Addr, error), error) {
	if len(o.NodeAddresses) == 0 {
		return env.addresses, nil
	}
	given, err := ParseAddresses(o.NodeAddresses)
	if err != nil {
		return nil, err
	}
	return func() ([]netip.Addr, error) { return given, nil }, nil
}

// checkHost finds at the start what would otherwise be found with the first pass.
func checkHost(o Options, env environment, addresses func() ([]netip.Addr, error)) error {
	known, err := addresses()
	if err != nil {
		return fmt.Errorf("find the node's addresses: %w", err)
	}
	_, err = preflight(env.sysctls, known, o.SetSysctls)
	return err
}
