package agent

import (
	"time"

	componentmetrics "k8s.io/component-base/metrics"

	"github.com/portway-dev/portway/rules"
)

// instruments are this agent's own numbers.
type instruments struct {
	registry componentmetrics.KubeRegistry

	frontends   *componentmetrics.Gauge
	duration    *componentmetrics.Histogram
	messages    *componentmetrics.CounterVec
	failures    *componentmetrics.Counter
	restored    *componentmetrics.Counter
	lastSuccess *componentmetrics.Gauge
	apiFailures *componentmetrics.CounterVec
	flowsEnded  *componentmetrics.CounterVec
}

// The objects an agent writes, as a label.
const (
	objectLease  = "lease"
	objectReport = "report"
)

func newInstruments() *instruments {
	const namespace, subsystem = "portway", "agent"
	m := &instruments{
		registry: componentmetrics.NewKubeRegistry(),
		// Zero on a node that should serve Gateways: no Gateway is accepted, or the
		// node has no address of theirs.
		frontends: componentmetrics.NewGauge(&componentmetrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "programmed_frontends", StabilityLevel: componentmetrics.ALPHA,
			Help: "Pairs of address and port, per protocol, that the kernel was last programmed to serve.",
		}),
		// Seconds where milliseconds are usual: the kernel is busy with another large
		// ruleset, or the socket buffer is small and changes go in many batches.
		duration: componentmetrics.NewHistogram(&componentmetrics.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "program_duration_seconds", StabilityLevel: componentmetrics.ALPHA,
			Help:    "Time it took to bring the kernel up to date.",
			Buckets: componentmetrics.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}),
		// Many more than changes: others change their rules all the time, and each time ours are
		// read. Zero with backend iptables, whose programs do that.
		messages: componentmetrics.NewCounterVec(&componentmetrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "netlink_messages_total", StabilityLevel: componentmetrics.ALPHA,
			Help: "Messages exchanged with nf_tables to program it, those that begin and end batches and acknowledgements included.",
		}, []string{"direction"}),
		// Rising: traffic follows an old state. The log and the NodeReport say why.
		failures: componentmetrics.NewCounter(&componentmetrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "program_failures_total", StabilityLevel: componentmetrics.ALPHA,
			Help: "Times that something could not be programmed; the rules before stayed.",
		}),
		// Rising: somebody flushes or reloads rules on this node, and our flows are refused
		// until the next look, within a second. The log says when.
		restored: componentmetrics.NewCounter(&componentmetrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "rules_restored_total", StabilityLevel: componentmetrics.ALPHA,
			Help: "Times that others had deleted or changed rules of this agent, and they were put in place again.",
		}),
		// Older than a minute: the loop is stuck or fails, see the other two.
		lastSuccess: componentmetrics.NewGauge(&componentmetrics.GaugeOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "last_program_success_timestamp_seconds", StabilityLevel: componentmetrics.ALPHA,
			Help: "When the kernel was last found or brought up to date, in seconds since 1970.",
		}),
		// Rising for "lease": the controller will take this node for silent. Rising for
		// "report": statuses do not show what this node serves.
		apiFailures: componentmetrics.NewCounterVec(&componentmetrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "api_write_failures_total", StabilityLevel: componentmetrics.ALPHA,
			Help: "Times that the heartbeat (lease) or the NodeReport (report) could not be written.",
		}, []string{"object"}),
		// As many as clients that held on to an endpoint or listener that is gone; many
		// at every rollout of a UDP service are normal.
		flowsEnded: componentmetrics.NewCounterVec(&componentmetrics.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "flows_ended_total", StabilityLevel: componentmetrics.ALPHA,
			Help: "Tracked flows that were ended because their endpoint or listener is gone, or that predate the rules.",
		}, []string{"protocol"}),
	}
	m.registry.MustRegister(m.frontends, m.duration, m.messages, m.failures, m.restored, m.lastSuccess, m.apiFailures, m.flowsEnded)
	m.apiFailures.WithLabelValues(objectLease)
	m.apiFailures.WithLabelValues(objectReport)
	return m
}

// exchanged counts messages.
func (m *instruments) exchanged(r rules.Results) {
	m.messages.WithLabelValues("sent").Add(float64(r.Sent))
	m.messages.WithLabelValues("received").Add(float64(r.Received))
}

// programmed counts one attempt to bring the kernel up to date.
func (m *instruments) programmed(frontends int, took time.Duration, now time.Time, err error) {
	m.duration.Observe(took.Seconds())
	if err != nil {
		m.failures.Inc()
		return
	}
	m.frontends.Set(float64(frontends))
	m.lastSuccess.Set(float64(now.UnixMilli()) / 1000)
}

// apiFailed counts what could not be written.
func (m *instruments) apiFailed(object string, err error) error {
	if err != nil {
		m.apiFailures.WithLabelValues(object).Inc()
	}
	return err
}
