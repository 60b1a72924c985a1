package controller

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// pass finds out what has to be written.
func (c *controller) pass(ctx context.Context, full bool) error {
	now := c.clock.Now()
	update := c.source.Next()
	decide := c.take(update)
	roll, moved := c.census.count(now, c.fleet)
	c.roll = roll
	due := !c.lagsNext.IsZero() && !now.Before(c.lagsNext)
	// Most passes are of renewed Leases and say nothing new.
	if decide || moved || full || due {
		c.evaluate(ctx, now, decide)
		passSeconds.Observe(c.clock.Since(now).Seconds())
	}
	c.setAlarm(now, earliest(c.lagsNext, roll.next))
	c.health.passed()
	return nil
}

// take takes over what is new; decide: the decision may be another one now.
func (c *controller) take(update cluster.Update) (decide bool) {
	if update.Fleet != nil {
		c.fleet = *update.Fleet
	}
	if update.Snapshot != nil {
		c.snapshot = *update.Snapshot
		c.writer.settle(&c.snapshot)
	}
	decide = update.Snapshot != nil || c.partial != update.Partial
	c.partial = update.Partial
	return decide
}

// evaluate goes from what is known to what is to be written.
func (c *controller) evaluate(ctx context.Context, now time.Time, decide bool) {
	ours := c.config.Topology.ControllerName
	addresses := newNodePool(c.roll.members, c.config.NodeAddressType).assign(&c.snapshot, ours)
	if decide || !maps.EqualFunc(addresses, c.snapshot.Addresses, sameAssignment) {
		c.snapshot.Addresses = addresses
		c.graph = topology.Build(c.snapshot, c.config.Topology)
	}
	reports := c.prover.reports(c.graph, c.roll.members)
	statuses := c.graph.Statuses(reports)
	c.lagsNext = c.lags.hold(now, c.graph, &statuses)

	var changes []*change
	if !c.partial { // what was not read is not missing
		changes = plan(&c.kinds, &c.snapshot, statuses, ours, metav1.NewTime(now))
	}
	c.writer.offer(changes)
	c.tellSilent(ctx, reports.Silent)
	c.measure(&statuses)
	klog.FromContext(ctx).V(2).Info("Pass", "gateways", len(statuses.Gateways), "routes", len(statuses.Routes),
		"nodes", len(c.roll.members), "changes", len(changes), "partial", c.partial)
}

// tellSilent tells once of each node whose agent went silent or came back.
func (c *controller) tellSilent(ctx context.Context, silent []string) {
	logger := klog.FromContext(ctx)
	for _, name := range silent {
		if c.silent[name] {
			continue
		}
		c.silent[name] = true
		logger.Info("Agent is silent; its rules stand, its addresses are no longer published", "node", name)
		if c.writer.leads() {
			note := "portway-agent does not renew its Lease (timeout " + c.config.AgentTimeout.String() + "); its rules stand, but nobody looks after them"
			c.writer.emit(c.nodeReference(name), []event{{reasonAgentSilent, actionProgram, note}})
		}
	}
	for name := range c.silent {
		if !slices.Contains(silent, name) {
			delete(c.silent, name)
			logger.Info("Agent is no longer silent, or its node does not count any more", "node", name)
		}
	}
}

func (c *controller) nodeReference(name string) *corev1.ObjectReference {
	reference := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name}
	if node := c.fleet.Nodes[name]; node != nil {
		reference.UID = node.UID
	}
	return reference
}

// measure sets the gauges.
func (c *controller) measure(s *topology.Statuses) {
	c.roll.observe()
	incomplete.Set(0)
	if c.partial {
		incomplete.Set(1)
	}
	reasons := map[string]int{}
	for _, status := range s.Gateways {
		if condition := condition(status.Conditions, programmed); condition != nil {
			reasons[condition.Reason]++
		}
	}
	gatewaysByReason.Reset()
	for reason, n := range reasons {
		gatewaysByReason.WithLabelValues(reason).Set(float64(n))
	}
}

func sameAssignment(a, b topology.Assignment) bool {
	return a.NodeMode == b.NodeMode && a.Message == b.Message && slices.Equal(a.Addresses, b.Addresses)
}
