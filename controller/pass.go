package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/internal/syncloop"
	"github.com/portway-dev/portway/topology"
)

// maxRest bounds the rest (syncloop.Rest) between an evaluation and another that only statuses lead to:
// those are the controller's own writes, in the order of 100 a second, each of which would be evaluated
// together with the whole cluster; but somebody else may have changed one.
const maxRest = 2 * time.Second

// pass finds out what has to be written.
func (c *controller) pass(ctx context.Context, full bool) error {
	now := c.clock.Now()
	update := c.source.Next()
	decide := c.take(update)
	c.owed = c.owed || update.Snapshot != nil // by us, or over what we wrote
	roll, moved := c.census.count(now, c.fleet)
	c.roll = roll
	due := !c.lagsNext.IsZero() && !now.Before(c.lagsNext)
	// Most passes are of renewed Leases and say nothing new.
	term := c.writer.presentTerm()
	news := c.writer.unheard.Swap(false)
	if decide || moved || full || due || news || term != c.term || c.owed && !now.Before(c.rested) {
		if c.owed {
			c.writer.settle(&c.snapshot)
		}
		c.term = term
		c.evaluate(ctx, now, decide)
		took := c.clock.Since(now)
		passSeconds.Observe(took.Seconds())
		c.owed, c.rested = false, now.Add(took+syncloop.Rest(took, maxRest))
	}
	c.tellSilent(ctx, now)
	next := earliest(c.lagsNext, roll.next)
	if c.owed {
		next = earliest(next, c.rested)
	}
	c.setAlarm(now, next)
	c.health.passed()
	return nil
}

// take takes over what is new; decide: the decision may be another one now.
func (c *controller) take(update cluster.Update) (decide bool) {
	if update.Fleet != nil {
		c.fleet = *update.Fleet
	}
	if update.Snapshot != nil {
		assigned := c.snapshot.Addresses
		c.snapshot = *update.Snapshot
		c.snapshot.Addresses = assigned
	}
	decide = update.Snapshot != nil && !update.StatusOnly || c.partial != update.Partial
	c.partial = update.Partial
	return decide
}

// evaluate goes from what is known to what is to be written.
func (c *controller) evaluate(ctx context.Context, now time.Time, decide bool) {
	c.snapshot.NodeAddresses = nil
	if len(c.snapshot.AddressPools) > 0 {
		c.snapshot.NodeAddresses = requestable(c.roll.members)
	}
	resolution := topology.Resolve(c.snapshot, c.config.Topology)
	if c.term != nil {
		c.term.catchUp(c.snapshot.Gateways)
	}
	if len(c.snapshot.AddressPools) > 0 {
		c.pools.nodes = addressesOfNodes(c.fleet.Nodes)
	}
	pooled := c.pools.assign(resolution, c.term, !c.partial)
	assigner := newAssigner(c.roll.members, c.config.NodeAddressType, pooled)
	assigner.failure = c.writer.failure
	addresses := assigner.assign(resolution)
	if decide || !maps.EqualFunc(addresses, c.snapshot.Addresses, sameAssignment) {
		c.snapshot.Addresses = addresses
		c.graph = resolution.Build(addresses)
		c.services = wantedServices(c.graph)
	}
	reports := c.prover.reports(c.graph, c.roll.members)
	reports.Away = c.away()
	silenceNext := c.silence.tell(now, reports.Silent)
	reports.Silent = c.silence.told
	statuses := c.graph.Statuses(reports)
	if slices.ContainsFunc(c.roll.members, func(m member) bool { return m.counts && m.unsure() }) {
		published{&c.snapshot}.keepTold(c.graph, &statuses)
	}
	orphans, orphansNext := c.ripeOrphans(now)
	c.lagsNext = earliest(earliest(silenceNext, orphansNext), c.lags.hold(now, c.graph, published{&c.snapshot}, &statuses))

	uses := c.graph.Uses
	if !c.writer.clients.seesGateways() {
		// Nobody seems to have an address: nothing for a pool to forget them over.
		statuses.AddressPools, uses = nil, nil
	}
	var changes []*change
	if !c.partial { // what was not read is not missing
		changes = plan(&c.kinds, &c.snapshot, statuses, uses, c.config.Topology.ControllerName, metav1.NewTime(now))
		changes = slices.Concat(changes, c.services, unwantedServices(&c.snapshot, orphans))
	}
	c.writer.offer(c.term, changes)
	c.tellBehind(now, &statuses)
	c.measure(&statuses)
	klog.FromContext(ctx).V(2).Info("Pass", "gateways", len(statuses.Gateways), "routes", len(statuses.Routes),
		"nodes", len(c.roll.members), "changes", len(changes), "partial", c.partial)
}

// handOver is within what time somebody leads again.
const handOver = time.Minute

// tellSilent tells once of each node whose agent went silent or came back. The Event
// is for whoever leads at the time, or takes over soon after: then two may tell, but
// not none. A controller that never saw the agent alive leaves it to the one before.
func (c *controller) tellSilent(ctx context.Context, now time.Time) {
	logger := klog.FromContext(ctx)
	silent := map[string]time.Time{}
	for i := range c.roll.members {
		m := &c.roll.members[i]
		if !m.counts || !m.silent {
			continue
		}
		due, known := c.silent[m.name]
		if !known {
			logger.Info("Agent is silent; its rules stand, its addresses are no longer published", "node", m.name)
			if !m.unwitnessed {
				due = now.Add(handOver)
			}
		}
		if c.writer.leads() {
			if now.Before(due) {
				c.writer.emit(c.nodeReference(m.name), []event{agentSilent(m.name, c.config.AgentTimeout)})
			}
			due = time.Time{}
		}
		silent[m.name] = due
	}
	for name := range c.silent {
		if _, still := silent[name]; !still {
			logger.Info("Agent is no longer silent, or its node does not count any more", "node", name)
		}
	}
	c.silent = silent
}

func agentSilent(node string, timeout time.Duration) event {
	return event{reasonAgentSilent, actionProgram, fmt.Sprintf("portway-agent has not renewed Lease %s for %s; its rules stand, but nobody looks after them; "+
		"if this node runs none any more, delete the Lease", cluster.AgentLeasePrefix+node, timeout)}
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
	return a.NodeMode == b.NodeMode && a.LoadBalancer == b.LoadBalancer && a.Message == b.Message &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Hostnames, b.Hostnames)
}
