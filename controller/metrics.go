package controller

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const subsystem = "portway_controller"

var (
	// passSeconds: seconds rather than milliseconds mean too few CPUs for this many
	// objects, or that something changes all the time.
	passSeconds = metrics.NewHistogram(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "pass_duration_seconds",
		Help:    "How long one pass over all objects took, from what changed to what is to be written.",
		Buckets: metrics.ExponentialBuckets(0.001, 4, 8), StabilityLevel: metrics.ALPHA,
	})
	// pendingWrites: above zero for long on a leader means that --kube-api-qps is
	// too low or that writes fail. A follower's is what it would write.
	pendingWrites = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem: subsystem, Name: "pending_writes",
		Help:           "Objects whose status differs from the decision.",
		StabilityLevel: metrics.ALPHA,
	})
	// statusWrites: outcome failed should not grow; overtaken grows with edits.
	statusWrites = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "status_writes_total",
		Help:           "Changes of objects by their kind and by how they ended: written, unchanged, gone, overtaken or failed.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "outcome"})
	// writeConflicts: a steady growth means that somebody else writes the same
	// statuses, such as a second installation.
	writeConflicts = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "write_conflicts_total",
		Help:           "Writes that started over because the object had changed, by kind.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind"})
	// droppedEvents: more at a time than anybody reads; the conditions say the same.
	droppedEvents = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "dropped_events_total",
		Help:           "Events that were not sent because too many waited already.",
		StabilityLevel: metrics.ALPHA,
	})
	// nodesByState: silent nodes go on serving what they have; look at their agents.
	nodesByState = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Subsystem: subsystem, Name: "nodes",
		Help:           "Nodes that run an agent by state: live, silent, joining or not_ready.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"state"})
	// gatewaysByReason: anything but Programmed for long needs a look at the status.
	gatewaysByReason = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Subsystem: subsystem, Name: "gateways",
		Help:           "Gateways of our classes by the reason of their Programmed condition.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"reason"})
	leading = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem: subsystem, Name: "leading",
		Help:           "1 while this replica writes statuses. The sum over all replicas should be 1.",
		StabilityLevel: metrics.ALPHA,
	})
	// incomplete: 1 means that no status is written, because a missing object could
	// be one that was not read; the log names what could not be read.
	incomplete = metrics.NewGauge(&metrics.GaugeOpts{
		Subsystem: subsystem, Name: "incomplete",
		Help:           "1 while objects could not be read and therefore no status is written.",
		StabilityLevel: metrics.ALPHA,
	})
)

// registerMetrics may be called more than once.
var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(passSeconds, pendingWrites, statusWrites, writeConflicts, droppedEvents, nodesByState, gatewaysByReason, leading, incomplete)
})

func (r *roll) observe() {
	states := map[string]int{"live": 0, "silent": 0, "joining": 0, "not_ready": r.notReady}
	for _, m := range r.members {
		switch {
		case m.silent:
			states["silent"]++
		case !m.counts:
			states["joining"]++
		default:
			states["live"]++
		}
	}
	for state, n := range states {
		nodesByState.WithLabelValues(state).Set(float64(n))
	}
}
