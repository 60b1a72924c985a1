package announce

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/members"
	"github.com/portway-dev/portway/internal/owner"
	"github.com/portway-dev/portway/internal/syncloop"
)

// Config says who this node is and how it announces. The zero value is not useful,
// start from DefaultConfig.
type Config struct {
	Node string
	// Bind is where members talk to each other: an address of this node, and a port that
	// is the same on all nodes. KeyFile is that of members.Config.
	Bind    netip.AddrPort
	KeyFile string
	// NodeAddresses are all of this node's.
	NodeAddresses []netip.Addr
	// SettleFor bounds how long a node that starts waits for the others before it
	// claims addresses that nobody owns.
	SettleFor time.Duration
	// LeaveFor bounds how long a node that stops goes on until others have taken over.
	LeaveFor time.Duration
	Layer2   layer2.Config

	forgetAfter time.Duration // of members.Config
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{SettleFor: 5 * time.Second, LeaveFor: 3 * time.Second, Layer2: layer2.DefaultConfig()}
}

// Counters count since the start.
type Counters struct {
	layer2.Counters
	// Changes by kind.
	Changes map[ChangeKind]uint64
	// Unread are Changes that nobody fetched in time.
	Unread uint64
	// Silent is how often a member that was silent was found to answer nevertheless.
	Silent uint64
	// Refused are messages that no key opens.
	Refused uint64
	// Members alive, this node included.
	Members int
}

// Announcer announces addresses together with the other nodes. Safe for concurrent use.
type Announcer struct {
	config    Config
	responder *layer2.Responder
	members   *members.Members
	wake      chan struct{}
	changed   chan struct{}
	changes   chan []Change

	mu       sync.Mutex
	desired  Desired
	fresh    bool // desired is new
	draining bool
	leaving  bool
	left     bool // nothing is answered any more
	joined   bool
	owners   []Owner
	doubts   map[string]*doubt
	counters Counters
	absent   absent

	// Of the loop only.
	course    *course
	looked    uint64
	published *owner.Record
	peers     [][6]byte
}

// New makes an Announcer and starts to listen for members. Whoever calls it calls Run.
// Without the right to open packet sockets the error is a *layer2.CapabilityError.
func New(config Config, logger klog.Logger) (*Announcer, error) {
	if err := layer2.Check(); err != nil {
		return nil, err
	}
	config.Layer2.NodeAddresses = config.NodeAddresses
	responder, err := layer2.New(config.Layer2)
	if err != nil {
		return nil, fmt.Errorf("layer 2: %w", err)
	}
	m, err := members.New(members.Config{
		Node: config.Node, Bind: config.Bind, KeyFile: config.KeyFile, Logger: logger, ForgetAfter: config.forgetAfter,
	})
	if err != nil {
		return nil, err
	}
	return &Announcer{
		config:    config,
		responder: responder,
		members:   m,
		wake:      make(chan struct{}, 1),
		changed:   make(chan struct{}, 1),
		changes:   make(chan []Change, 64),
		doubts:    map[string]*doubt{},
		counters:  Counters{Changes: map[ChangeKind]uint64{}},
		course:    newCourse(config.Node, config.SettleFor),
	}, nil
}

// Set says what is to be announced. It is first called when Ready means something, which
// is after the first commit: others wait for it, for a while, before they share out
// what nobody owns. The maps must not be changed afterwards.
func (a *Announcer) Set(d Desired) {
	a.mu.Lock()
	a.desired, a.fresh = d, true
	a.mu.Unlock()
	var expected []netip.AddrPort
	for _, address := range d.Members {
		expected = append(expected, netip.AddrPortFrom(address, a.config.Bind.Port()))
	}
	a.members.SetExpected(expected)
	signal(a.wake)
}

// SetNodeAddresses replaces Config.NodeAddresses.
func (a *Announcer) SetNodeAddresses(addresses []netip.Addr) { a.responder.SetNodeAddresses(addresses) }

// Drain has other nodes take over all addresses of this node, which stays a member and
// takes none until it is called with false, but for what no other node is ready for that
// is not drained itself.
func (a *Announcer) Drain(drain bool) {
	a.mu.Lock()
	a.draining = drain
	a.mu.Unlock()
	signal(a.wake)
}

// Owners returns who owns what, by address, as this node knows it.
func (a *Announcer) Owners() []Owner {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owners
}

// Owned returns what this node owns.
func (a *Announcer) Owned() []Owner {
	return slices.DeleteFunc(slices.Clone(a.Owners()), func(o Owner) bool { return o.Node != a.config.Node })
}

// Changed is signalled when Owners or Problems may return something else.
func (a *Announcer) Changed() <-chan struct{} { return a.changed }

// Changes returns what has happened to addresses of this node, in order, and as much at
// once as was decided at once. Who does not read loses what comes after 64 decisions.
func (a *Announcer) Changes() <-chan []Change { return a.changes }

// Joined reports whether this node takes part: others have been told what it is ready for, and
// it would take what is left to it.
func (a *Announcer) Joined() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.joined
}

// Counters returns what has been counted.
func (a *Announcer) Counters() Counters {
	alive := len(a.members.Alive()) + 1
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.counters
	c.Counters, c.Changes = a.responder.Counters(), maps.Clone(c.Changes)
	c.Members, c.Refused = alive, a.members.Refused()
	return c
}

// minPause is between two decisions: with thousands of addresses there is something
// new in every ms of a take-over. lookAgain is how long it goes without any news:
// whatever depends on time wakes the loop itself.
const (
	minPause  = 50 * time.Millisecond
	lookAgain = 30 * time.Second
	leaveWait = time.Second // for the last message to be sent
)

// Run announces until ctx ends, in the network namespace of this process; then it waits,
// no longer than LeaveFor, until others have taken over, and leaves.
func (a *Announcer) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	var working sync.WaitGroup
	errs := make([]error, 2)
	failed := make(chan struct{}, 2)
	for i, run := range []func(context.Context) error{a.responder.Run, a.members.Run} {
		working.Go(func() {
			errs[i] = run(inner)
			failed <- struct{}{}
		})
	}
	working.Go(func() { a.forward(inner) })

	loop := syncloop.Config{
		MinInterval: minPause, MaxInterval: lookAgain,
		MinBackoff: minPause, MaxBackoff: lookAgain, Clock: clock.RealClock{},
	}
	serving, cancel := context.WithCancel(ctx)
	working.Go(func() {
		select {
		case <-failed: // neither ends by itself unless it cannot go on
		case <-inner.Done():
		}
		cancel()
	})
	syncloop.Run(serving, loop, a.wake, func(context.Context, bool) error {
		a.pass(inner, &working, time.Now())
		return nil
	})

	a.mu.Lock()
	a.leaving = true
	a.mu.Unlock()
	signal(a.wake)
	leaving, cancel := context.WithTimeout(inner, a.config.LeaveFor)
	syncloop.Run(leaving, loop, a.wake, func(context.Context, bool) error {
		a.pass(inner, &working, time.Now())
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.left {
			cancel()
		}
		return nil
	})
	cancel()
	a.responder.Set(nil)
	if err := a.members.Leave(leaveWait); err != nil {
		klog.FromContext(ctx).V(2).Info("Could not tell other members that this one leaves", "err", err)
	}
	stop()
	working.Wait()
	return errors.Join(errs...)
}

// forward wakes the loop.
func (a *Announcer) forward(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.responder.Changed():
		case <-a.members.Changed():
		}
		signal(a.wake)
	}
}

// pass decides, and does what was decided.
func (a *Announcer) pass(ctx context.Context, working *sync.WaitGroup, now time.Time) {
	a.refresh(now)
	missing := a.members.Missing()
	a.mu.Lock()
	a.absent = a.absent.next(missing, now)
	a.mu.Unlock()
	records := a.members.Records()
	v := view{
		now:      now,
		alive:    a.stillThere(ctx, working, a.members.Alive(), records),
		complete: len(missing) == 0,
		records:  records,
		statuses: a.responder.Statuses(),
	}
	a.introduce()
	out := a.course.decide(v)
	a.responder.Set(out.answer)
	if len(out.again) > 0 {
		a.responder.Announce(out.again)
	}
	if !out.record.Repeats(a.published) {
		a.published = &out.record
		a.members.Publish(out.record)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, change := range out.changes {
		a.counters.Changes[change.Kind]++
	}
	if len(out.changes) > 0 {
		select {
		case a.changes <- out.changes:
		default:
			a.counters.Unread += uint64(len(out.changes))
		}
	}
	a.owners, a.joined = out.owners, out.record.Settled && out.record.Prepared
	// Alone, nobody will ever take over.
	a.left = a.leaving && (len(out.record.Claims) == 0 || len(v.alive) == 0)
	signal(a.changed)
}

// refresh takes over what is desired, and the interfaces, when they have changed.
func (a *Announcer) refresh(now time.Time) {
	a.mu.Lock()
	desired, fresh := a.desired, a.fresh
	a.fresh = false
	a.course.draining, a.course.leaving = a.draining, a.leaving
	a.mu.Unlock()
	looked := a.responder.Looked()
	if looked == 0 || desired.Addresses == nil || !fresh && looked == a.looked {
		if looked == 0 && fresh { // the interfaces are not known yet
			a.mu.Lock()
			a.fresh = true
			a.mu.Unlock()
		}
		return
	}
	a.looked = looked
	order := slices.SortedFunc(maps.Keys(desired.Addresses), netip.Addr.Compare)
	questions := make([]layer2.Reach, len(order))
	for i, address := range order {
		questions[i] = layer2.Reach{Address: address, Interfaces: desired.Addresses[address].Interfaces}
	}
	reasons, interfaces := a.responder.Interfaces(questions)
	missing := map[netip.Addr]string{}
	for i, reason := range reasons {
		if reason != "" {
			missing[order[i]] = reason
		}
	}
	var macs []layer2.MAC
	for _, i := range interfaces {
		macs = append(macs, i.MAC)
	}
	a.course.set(desired.Addresses, missing, macs, now)
	for _, due := range [...]time.Duration{ripen, a.config.SettleFor} {
		time.AfterFunc(due, func() { signal(a.wake) })
	}
}

// introduce tells layer 2 which MACs are no strangers'.
func (a *Announcer) introduce() {
	peers := a.members.MACs()
	if slices.Equal(peers, a.peers) {
		return
	}
	a.peers = peers
	macs := make([]layer2.MAC, len(peers))
	for i, mac := range peers {
		macs[i] = mac
	}
	a.responder.SetPeers(macs)
}

// signal wakes who waits for a channel of one element, now or later.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
