package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/topology"
)

// source is where API objects come from.
type source interface {
	Changed() <-chan struct{}
	Next() cluster.Update
}

// controller is the loop. Not safe for concurrent use.
type controller struct {
	config Config
	source source
	clock  clock.WithDelayedExecution
	kinds  kinds
	writer *writer
	health *health

	snapshot topology.Snapshot
	fleet    cluster.Fleet
	partial  bool
	graph    *topology.Graph
	roll     roll
	silent   map[string]time.Time // silent nodes, and until when an Event is due; zero: none
	silence  silence
	waits    map[types.NamespacedName]*wait
	lagsNext time.Time // when lags, silence or orphans have to be looked at again
	owed     bool      // statuses have changed since the last evaluation
	rested   time.Time // when they lead to another

	term  *term // of the last evaluation, nil: this replica does not lead
	pools *allocator
	// services are what makes the Services of the Graph's Gateways as they have to be.
	services []*change
	orphans  orphans
	census   *census
	prover   *prover
	lags     *lags

	changed chan struct{} // the loop's signal: the source's, or time has come
	alarm   clock.Timer   // nil while none is set
}

// newController: h may be nil, the API server is then taken to answer always.
func newController(config Config, from source, w *writer, c clock.WithDelayedExecution, h hearing) *controller {
	made := &controller{
		config: config, source: from, clock: c, writer: w,
		kinds:   newKinds(w.clients, config.Topology.ControllerName),
		health:  newHealth(c, config.Loop.MaxInterval),
		graph:   &topology.Graph{},
		census:  newCensus(config, h),
		prover:  newProver(config.AgentTimeout),
		lags:    newLags(config.LagTolerance, c),
		pools:   newAllocator(),
		orphans: orphans{},
		changed: make(chan struct{}, 1),
	}
	w.news = made.signal
	return made
}

// run runs passes until ctx ends.
func (c *controller) run(ctx context.Context) {
	forwarding := make(chan struct{})
	go func() {
		defer close(forwarding)
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.source.Changed():
				c.signal()
			}
		}
	}()
	loop := c.config.Loop
	loop.Clock = c.clock
	syncloop.Run(ctx, loop, c.changed, c.pass)
	<-forwarding
	c.setAlarm(time.Time{}, time.Time{})
	klog.FromContext(ctx).Info("Stopped; what nodes forward goes on")
}

func (c *controller) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// setAlarm makes the next pass run at a time, if nothing happens before; zero: no
// alarm.
func (c *controller) setAlarm(now, at time.Time) {
	if c.alarm != nil {
		c.alarm.Stop()
		c.alarm = nil
	}
	if !at.IsZero() {
		c.alarm = c.clock.AfterFunc(at.Sub(now), c.signal)
	}
}
