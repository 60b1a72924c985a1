package controller

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// census knows which nodes count. It goes by what it saw happen: a renewal is a
// Lease that is no longer the one seen before, whatever time is written in it,
// since the clocks of nodes may be wrong. Not safe for concurrent use.
type census struct {
	addressType corev1.NodeAddressType
	timeout     time.Duration
	joinGrace   time.Duration

	agents map[string]*agentRecord // of every Lease
	last   roll
}

// agentRecord is what was seen of one node's agent. Times are of our clock.
type agentRecord struct {
	renewal   metav1.MicroTime // as the agent wrote it; compared, never read
	renewedAt time.Time
	readyAt   time.Time // since when the node is ready; zero while it is not
	counts    bool
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
	silent    bool
	addresses []netip.Addr // of the configured type, IPv4 first
	report    *v1alpha1.NodeReport
}

func newCensus(c Config) *census {
	return &census{addressType: c.NodeAddressType, timeout: c.AgentTimeout, joinGrace: c.JoinGrace, agents: map[string]*agentRecord{}}
}

// count returns the roll at a time, and whether it says something new.
func (c *census) count(now time.Time, fleet cluster.Fleet) (r roll, moved bool) {
	for name := range c.agents {
		if fleet.Leases[name] == nil {
			delete(c.agents, name)
		}
	}
	for name, lease := range fleet.Leases {
		record := c.observe(now, name, lease)
		node := fleet.Nodes[name]
		if node == nil || !isReady(node) {
			record.readyAt, record.counts = time.Time{}, false
			r.notReady++
			continue
		}
		m := record.member(now, c, lease)
		m.name, m.report = name, sinceBoot(node, fleet.Reports[name])
		m.addresses = nodeAddresses(node, c.addressType)
		if !record.counts {
			record.counts = hasCommitted(m.report) || !now.Before(record.readyAt.Add(c.joinGrace))
		}
		m.counts = record.counts
		if !m.counts {
			r.wakeAt(record.readyAt.Add(c.joinGrace))
		}
		if !m.silent {
			r.wakeAt(record.renewedAt.Add(c.timeout))
		}
		r.members = append(r.members, m)
	}
	slices.SortFunc(r.members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	r.bootstrap()
	moved = !slices.EqualFunc(r.members, c.last.members, sameMember) || r.notReady != c.last.notReady
	c.last = r
	return r, moved
}

// observe notes what is new about an agent. The first sight of a Lease counts as a
// renewal: nobody knows how old it is.
func (c *census) observe(now time.Time, name string, lease *coordinationv1.Lease) *agentRecord {
	renewal := ptr.Deref(lease.Spec.RenewTime, metav1.MicroTime{})
	record := c.agents[name]
	if record == nil {
		record = &agentRecord{renewal: renewal, renewedAt: now}
		c.agents[name] = record
	}
	if !record.renewal.Time.Equal(renewal.Time) {
		record.renewal, record.renewedAt = renewal, now
	}
	return record
}

// member judges a ready node. An agent that gave its Lease up on its way out is
// silent at once.
func (r *agentRecord) member(now time.Time, c *census, lease *coordinationv1.Lease) member {
	if r.readyAt.IsZero() {
		r.readyAt = now
	}
	released := ptr.Deref(lease.Spec.HolderIdentity, "") == ""
	return member{silent: released || !now.Before(r.renewedAt.Add(c.timeout))}
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
	return a.name == b.name && a.counts == b.counts && a.silent == b.silent && a.report == b.report && slices.Equal(a.addresses, b.addresses)
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
