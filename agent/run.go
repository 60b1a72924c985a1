package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/topology"
)

// environment is what Run needs of the world; tests bring their own.
type environment struct {
	out       io.Writer
	sysctls   sysctls
	addresses func() ([]netip.Addr, error)
	open      func(backend string, mark uint32) (backend, error)
	loop      syncloop.Config
	clock     clock.WithTicker
	// printStatus delivers requests to print the statuses.
	printStatus <-chan os.Signal
}

// Run does what the options say until ctx ends. When it returns, everything it
// started has ended, and the rules are still in the kernel. Statuses go to out;
// a signal on printStatus prints them.
func Run(ctx context.Context, o Options, out io.Writer, printStatus <-chan os.Signal) error {
	return run(ctx, o, environment{
		out:         out,
		sysctls:     procSysctls{},
		addresses:   hostAddresses,
		open:        openBackend,
		loop:        syncloop.DefaultConfig(),
		clock:       clock.RealClock{},
		printStatus: printStatus,
	})
}

func run(ctx context.Context, o Options, env environment) error {
	if err := o.Validate(); err != nil {
		return err
	}
	if o.Cleanup {
		return cleanUp(ctx, o, env)
	}
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
	kernel, err := env.open(o.Backend, uint32(o.CTMark))
	if err != nil {
		return err
	}
	defer func() { _ = kernel.Close() }() // only sockets; the rules stay
	if err := checkHost(ctx, o, env, addresses); err != nil {
		return err
	}
	topologyConfig := topology.DefaultConfig()
	topologyConfig.NodePorts = o.NodePorts
	a := newAgent(o.NodeName, topologyConfig, store, kernel, addresses)
	a.statuses = newStatusWriter(o.StatusOut, env.out, o.PrintStatus, env.clock)
	a.serve(ctx, env, manifests)
	return nil
}

// serve runs everything until ctx ends and everything has ended.
func (a *agent) serve(ctx context.Context, env environment, manifests *cluster.Manifests) {
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
	syncloop.Run(ctx, env.loop, a.source.Changed(), a.pass)
	running.Wait()
	stopWriting()
	writer.Wait()
	klog.FromContext(ctx).Info("Stopped; the rules stay in the kernel, --cleanup removes them")
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

// checkHost logs what preflight finds.
func checkHost(ctx context.Context, o Options, env environment, addresses func() ([]netip.Addr, error)) error {
	known, err := addresses()
	if err != nil {
		return fmt.Errorf("find the node's addresses: %w", err)
	}
	logger := klog.FromContext(ctx)
	if len(known) == 0 {
		logger.Info("This host has no global address: Gateways are served once it gets one, or name one with --node-address")
	}
	warnings, err := preflight(env.sysctls, known, o.SetSysctls)
	for _, w := range warnings {
		logger.Info("Preflight warning", "warning", w)
	}
	return err
}

// cleanUp removes what is ours from the kernel.
func cleanUp(ctx context.Context, o Options, env environment) error {
	kernel, err := env.open(o.Backend, uint32(o.CTMark))
	if err != nil {
		return err
	}
	if err := errors.Join(kernel.Cleanup(ctx), kernel.Close()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	klog.FromContext(ctx).Info("Removed everything of this program from the kernel")
	return nil
}
