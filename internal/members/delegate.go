package members

import (
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist asks for and tells of user data.
type delegate Members

var (
	_ memberlist.Delegate      = (*delegate)(nil)
	_ memberlist.EventDelegate = (*events)(nil)
	_ memberlist.Broadcast     = (*broadcast)(nil)
)

// NodeMeta is empty: 512 bytes would not do.
func (*delegate) NodeMeta(int) []byte { return nil }

// NotifyMsg gets a record by gossip or by TCP, or is asked for the own one.
func (d *delegate) NotifyMsg(raw []byte) {
	if len(raw) == 1 && raw[0] == question {
		signal(d.asked)
		return
	}
	(*Members)(d).merge(raw)
}

// GetBroadcasts gives records to be gossiped.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.queue.GetBroadcasts(overhead, limit)
}

// LocalState gives all records, of those that are gone, too: one of them may be asking.
func (d *delegate) LocalState(bool) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []byte
	if d.own != nil {
		out = append(out, d.own.raw...)
	}
	for _, s := range d.records {
		out = append(out, s.raw...)
	}
	return out
}

// MergeRemoteState gets what another member's LocalState gave.
func (d *delegate) MergeRemoteState(raw []byte, _ bool) { (*Members)(d).merge(raw) }

// events is what memberlist tells of members. It holds a lock of its own meanwhile.
type events Members

// NotifyJoin tells that a member is alive.
func (e *events) NotifyJoin(n *memberlist.Node) {
	if n.Name == e.config.Node {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	address, _ := netip.AddrFromSlice(n.Addr)
	e.alive[n.Name] = netip.AddrPortFrom(address.Unmap(), n.Port)
	delete(e.lost, n.Name)
	e.size.Store(int32(len(e.alive) + 1))
	if s := e.records[n.Name]; s != nil {
		s.seen = time.Time{}
	}
	signal(e.ask)
	signal(e.changed)
}

// NotifyLeave tells that a member is alive no more, or has said goodbye, but not which
// of both; its record does.
func (e *events) NotifyLeave(n *memberlist.Node) {
	if n.Name == e.config.Node {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.alive, n.Name)
	e.size.Store(int32(len(e.alive) + 1))
	s := e.records[n.Name]
	if s != nil {
		s.seen, s.stale = time.Now(), true
	}
	if s == nil || !s.Leaving {
		e.lost[n.Name] = time.Now()
	}
	signal(e.changed)
}

// NotifyUpdate tells of another address.
func (e *events) NotifyUpdate(n *memberlist.Node) { e.NotifyJoin(n) }

// broadcast is a record on its way; a newer one of the same node takes its place.
type broadcast struct {
	node    string
	message []byte
}

// Name makes newer ones replace older ones.
func (b *broadcast) Name() string { return b.node }

// Invalidates is not asked, as there is a Name.
func (b *broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// Message is what is sent.
func (b *broadcast) Message() []byte { return b.message }

// Finished is when it has been sent often enough.
func (b *broadcast) Finished() {}
