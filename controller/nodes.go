package controller

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// hearing tells whether the API server is heard of, and since when that is so again
// after the last gap: a renewal that was not seen before then proves nothing.
type hearing interface {
	since() (heardSince time.Time, hearing bool)
}

// always is an API server that is never out of reach.
type always struct{}

func (always) since() (time.Time, bool) { return time.Time{}, true }

// census knows which nodes count. It goes by what it saw happen: a renewal is a
// Lease that is no longer the one seen before, whatever time is written in it,
// since the clocks of nodes may be wrong. Not safe for concurrent use.
type census struct {
	hearing     hearing
	addressType corev1.NodeAddressType
	timeout     time.Duration
	joinGrace   time.Duration

	agents    map[string]*agentRecord // of every Lease
	renewedAt time.Time               // when any agent was last seen to renew; zero before the first count
	last      roll
}

// agentRecord is what was seen of one node's agent. Times are of our clock.
type agentRecord struct {
	renewal   metav1.MicroTime // as the agent wrote it; compared, never read
	heardAt   time.Time        // from when on its silence is measured
	witnessed bool             // a renewal was seen
	silentAt  time.Time        // since when it is silent; zero while it is not

	ready    bool
	bootID   string    // of the node when it was last ready, or first seen
	joinedAt time.Time // when the node was first seen ready since that boot
	counts   bool      // may be true while the node is not ready
}

// roll is the nodes that are ready and run an agent, by name.
type roll struct {
	members []member
	// next is when the roll changes by the mere passing of time; zero: never.
	next time.Time
	// notReady is how many nodes run an agent but are not ready.
	notReady int
}

// member is one node of a roll.
type member struct {
	name string
	// counts: Gateways are programmed only once this node has proven them.
	counts bool
	// silent: the agent does not renew its Lease. Its rules still stand.
	silent bool
	// unwitnessed: this process has not seen its agent renew. Until that or until it is
	// silent, nobody knows which of the two it is.
	unwitnessed bool
	addresses   []netip.Addr // of the configured type, IPv4 first
	report      *v1alpha1.NodeReport
	node        *corev1.Node
	kind        corev1.NodeAddressType // of addresses
}

// listed are the Node's addresses of a type.
func (m *member) listed(kind corev1.NodeAddressType) []netip.Addr {
	if kind == m.kind {
		return m.addresses
	}
	return nodeAddresses(m.node, kind)
}

// has reports whether the Node's labels are those of a selector.
func (m *member) has(selector labels.Selector) bool {
	return selector.Matches(labels.Set(m.node.Labels))
}

// unsure: the agent may be alive or not.
func (m *member) unsure() bool { return m.unwitnessed && !m.silent }

// newCensus: h may be nil.
func newCensus(c Config, h hearing) *census {
	if h == nil {
		h = always{}
	}
	return &census{hearing: h, addressType: c.NodeAddressType, timeout: c.AgentTimeout, joinGrace: c.JoinGrace, agents: map[string]*agentRecord{}}
}

// count returns the roll at a time, and whether it says something new.
func (c *census) count(now time.Time, fleet cluster.Fleet) (r roll, moved bool) {
	c.observe(now, fleet)
	heardSince, hearing := c.hearing.since()
	for name, record := range c.agents {
		if hearing && record.silentAt.IsZero() && !now.Before(later(record.heardAt, heardSince).Add(c.timeout)) {
			record.silentAt = now
		}
		node := fleet.Nodes[name]
		if node == nil || !isReady(node) {
			record.ready = false
			r.notReady++
			continue
		}
		m := member{
			name: name, report: sinceBoot(node, fleet.Reports[name]), addresses: nodeAddresses(node, c.addressType),
			silent: !record.silentAt.IsZero(), unwitnessed: !record.witnessed, node: node, kind: c.addressType,
		}
		record.join(now, node)
		record.counts = record.counts || hasCommitted(m.report) || !now.Before(record.joinedAt.Add(c.joinGrace))
		m.counts = record.counts
		if !m.counts {
			r.wakeAt(record.joinedAt.Add(c.joinGrace))
		}
		switch {
		case m.silent:
		case hearing:
			r.wakeAt(later(record.heardAt, heardSince).Add(c.timeout))
		default: // once it is heard of again, there is this much time at least
			r.wakeAt(now.Add(c.timeout))
		}
		r.members = append(r.members, m)
	}
	slices.SortFunc(r.members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	r.bootstrap()
	moved = !slices.EqualFunc(r.members, c.last.members, sameMember) || r.notReady != c.last.notReady
	c.last = r
	return r, moved
}

// observe notes what is new about the agents.
func (c *census) observe(now time.Time, fleet cluster.Fleet) {
	for name := range c.agents {
		if fleet.Leases[name] == nil {
			delete(c.agents, name)
		}
	}
	first, renewed := c.renewedAt.IsZero(), false
	for name, lease := range fleet.Leases {
		renewal := ptr.Deref(lease.Spec.RenewTime, metav1.MicroTime{})
		record := c.agents[name]
		switch {
		case record == nil && first:
			c.agents[name] = found(now, renewal, fleet.Nodes[name])
		case record == nil: // made just now
			c.agents[name] = &agentRecord{renewal: renewal, heardAt: now, witnessed: true}
			renewed = true
		case !record.renewal.Time.Equal(renewal.Time):
			record.renewal, record.heardAt, record.witnessed, record.silentAt = renewal, now, true, time.Time{}
			renewed = true
		}
	}
	if renewed && now.Sub(c.renewedAt) >= c.timeout && !first {
		c.resume(now)
	}
	if renewed || first {
		c.renewedAt = now
	}
}

// found is of a Lease that is there before us. Nobody knows how old it is, nor
// whether its node is joining: Gateways wait for it, since saying that it serves
// them might be wrong.
func found(now time.Time, renewal metav1.MicroTime, node *corev1.Node) *agentRecord {
	record := &agentRecord{renewal: renewal, heardAt: now}
	if node != nil {
		record.counts, record.bootID = true, node.Status.NodeInfo.BootID
	}
	return record
}

// resume: for the timeout no agent at all was seen to renew, and now one is. More
// likely than that all of them stopped is that nobody could see them, so that those
// heard of until then have to be given their time to show up too.
func (c *census) resume(now time.Time) {
	for _, record := range c.agents {
		if c.renewedAt.Sub(record.heardAt) < c.timeout/2 {
			record.heardAt, record.silentAt = now, time.Time{}
		}
	}
}

// join notes that the node is ready. One that was before, and is back without having
// booted, still has its rules: it does not join anew, nor does one that was on its
// way have its time over again.
func (r *agentRecord) join(now time.Time, node *corev1.Node) {
	boot := node.Status.NodeInfo.BootID
	if rebooted := boot != "" && r.bootID != "" && boot != r.bootID; rebooted && !r.ready {
		r.counts, r.joinedAt = false, now
	}
	if r.joinedAt.IsZero() {
		r.joinedAt = now
	}
	r.ready, r.bootID = true, cmp.Or(boot, r.bootID)
}

// bootstrap: while nobody counts, all who join do. It is they the Gateways wait
// for, and saying that no node runs an agent would be wrong.
func (r *roll) bootstrap() {
	if slices.ContainsFunc(r.members, func(m member) bool { return m.counts }) {
		return
	}
	for i := range r.members {
		r.members[i].counts = true
	}
}

func (r *roll) wakeAt(t time.Time) { r.next = earliest(r.next, t) }

func sameMember(a, b member) bool {
	return a.name == b.name && a.counts == b.counts && a.silent == b.silent && a.unwitnessed == b.unwitnessed && a.report == b.report && sameNode(a.node, b.node)
}

// sameNode compares what addresses are chosen by.
func sameNode(a, b *corev1.Node) bool {
	return a == b || maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Status.Addresses, b.Status.Addresses)
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// nodeAddresses returns a node's addresses of one type, IPv4 first.
func nodeAddresses(node *corev1.Node, kind corev1.NodeAddressType) []netip.Addr {
	var addresses []netip.Addr
	for _, a := range node.Status.Addresses {
		if a.Type != kind {
			continue
		}
		if addr, err := netip.ParseAddr(a.Address); err == nil && addr.Zone() == "" {
			addresses = append(addresses, addr.Unmap())
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

// sinceBoot returns a node's report, nil if it is from before the node's last boot:
// the kernel it speaks of is gone, and its rules with it.
func sinceBoot(node *corev1.Node, report *v1alpha1.NodeReport) *v1alpha1.NodeReport {
	if report == nil {
		return nil
	}
	if now, then := node.Status.NodeInfo.BootID, report.Report.BootID; now != "" && then != "" && now != then {
		return nil
	}
	return report
}

// hasCommitted: the node has programmed something, or everything where there is
// nothing to program.
func hasCommitted(report *v1alpha1.NodeReport) bool {
	return readable(report) && (len(report.Report.Committed) > 0 || report.Report.Failing == 0)
}

// readable: the report is there and means what we think it means.
func readable(report *v1alpha1.NodeReport) bool {
	return report != nil && report.Report.Version == v1alpha1.ReportVersion
}

func unreadable(report *v1alpha1.NodeReport) string {
	if report == nil {
		return topology.AgentNotReported()
	}
	return topology.AgentNotUnderstood(report.Report.Version, v1alpha1.ReportVersion)
}

// earliest returns the earlier of two times; zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
