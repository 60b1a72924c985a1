package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/announce"
)

// announcer is an announce.Announcer; tests bring their own.
type announcer interface {
	Run(ctx context.Context) error
	Set(d announce.Desired)
	SetNodeAddresses(addresses []netip.Addr)
	Joined() bool
	Drain(drain bool)
	Owners() []announce.Owner
	Changed() <-chan struct{}
	Changes() <-chan []announce.Change
	Problems() []announce.Problem
	Counters() announce.Counters
}

var _ announcer = (*announce.Announcer)(nil)

func openAnnouncer(config announce.Config, logger klog.Logger) (announcer, error) {
	a, err := announce.New(config, logger)
	if err != nil {
		return nil, err // and not a nil *Announcer
	}
	return a, nil
}

// speaker has this node answer for addresses of pools, together with other nodes. It
// works beside the loop: whatever becomes of it, rules are programmed. It outlives the
// loop for as long as it takes others to take over.
type speaker struct {
	config  announce.Config // but for Bind and NodeAddresses
	port    uint16
	network netip.Prefix
	self    *self
	peers   *peers
	open    func(announce.Config, klog.Logger) (announcer, error)
	clock   clock.WithTicker
	began   time.Time
	moved   func()        // what is told of it is different
	fresh   chan struct{} // something it goes by is

	plan plan // of the loop

	// mu guards everything below. The loop waits for it: nothing else is waited for, and no
	// announcer asked, by who holds it.
	mu         sync.Mutex
	wanted     map[netip.Addr]wanted
	addresses  []netip.Addr // the node's
	running    announcer
	failure    error // why none is running
	findings   []v1alpha1.Finding
	announcing []v1alpha1.Announced
	past       announce.Counters // of those that ran before

	// Of the goroutine that runs.
	splits  []split
	told    announce.Desired // to running
	at      []netip.Addr     // likewise, the node's addresses
	drained string
	unready time.Time // since when this node is seen not to be Ready; zero while it is
}

const (
	// lookPause is the least time between two looks at what has become of addresses:
	// in a take-over there is something new all the time, and reports are written.
	lookPause = time.Second
	// lookAnyway is how often what depends on time is looked at.
	lookAnyway = 10 * time.Second
	// joinLimit is how long this node is not ready for not taking part yet. In a rolling
	// restart the next agent should not leave before the one before can take over
	// from it: all would be announced by who is restarted first, or last.
	joinLimit = 15 * time.Second
	// unreadyFor is how long a Node is not Ready until its addresses move. One that was cut
	// off the API server finds itself not Ready when it is back, until its kubelet has
	// told otherwise.
	unreadyFor = 40 * time.Second
)

// ready returns why this node cannot be relied on for its part yet.
func (s *speaker) ready() error {
	s.mu.Lock()
	running, failure := s.running, s.failure
	s.mu.Unlock()
	if failure != nil || running != nil && running.Joined() || s.clock.Since(s.began) >= joinLimit {
		return nil
	}
	return errors.New("takes no part in announcing addresses yet")
}

// pass announces until ctx ends and others have taken over, or it cannot go on.
func (s *speaker) pass(ctx context.Context, _ bool) error {
	for {
		err := s.announce(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.mu.Lock()
			s.failure = err
			s.mu.Unlock()
			s.look(ctx, nil)
			return err
		}
	}
}

// announce does so at one of the node's addresses.
func (s *speaker) announce(ctx context.Context) error {
	config := s.config
	bind, err := s.self.memberAddress(s.network)
	if err != nil {
		return err
	}
	config.Bind = netip.AddrPortFrom(bind, s.port)
	a, err := s.open(config, klog.FromContext(ctx))
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Announcing addresses together with other nodes", "at", config.Bind)
	s.mu.Lock()
	s.running, s.failure = a, nil
	s.mu.Unlock()
	s.told, s.at, s.drained = announce.Desired{}, nil, ""
	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(serving) }()
	err = s.follow(ctx, a, config, stop, ended)
	counted := a.Counters()
	s.mu.Lock()
	s.running, s.past = nil, sum(s.past, counted)
	s.mu.Unlock()
	return err
}

// follow tells an announcer what to announce, and takes note of what becomes of it, until
// it has ended.
func (s *speaker) follow(ctx context.Context, a announcer, config announce.Config, stop func(), ended <-chan error) error {
	ticker := s.clock.NewTicker(lookAnyway)
	defer ticker.Stop()
	var due <-chan time.Time
	var looked time.Time
	s.tell(ctx, a, config.Bind.Addr())
	s.look(ctx, a)
	for {
		select {
		case err := <-ended:
			return err
		case <-s.fresh:
			if s.self.hasMoved(config.Bind.Addr(), s.network) {
				klog.FromContext(ctx).Info("This node has another address to talk about announcing at", "before", config.Bind.Addr())
				stop() // and begin again
			}
			s.tell(ctx, a, config.Bind.Addr())
		case changes := <-a.Changes():
			s.note(ctx, changes)
		case <-a.Changed():
			if due == nil {
				due = s.clock.After(max(0, lookPause-s.clock.Since(looked)))
			}
		case <-ticker.C():
			s.tell(ctx, a, config.Bind.Addr())
			if due == nil {
				due = s.clock.After(0)
			}
		case <-due:
			due, looked = nil, s.clock.Now()
			s.look(ctx, a)
		}
	}
}

// tell hands over what is to be announced once something was committed and it is known
// who else there is: an agent that knew nobody would take everything for itself.
func (s *speaker) tell(ctx context.Context, a announcer, bind netip.Addr) {
	if why := s.departure(); why != s.drained {
		if why != "" {
			klog.FromContext(ctx).Info("Other nodes are to announce the addresses of this one, as far as they can", "because", why)
		} else {
			klog.FromContext(ctx).Info("This node may announce addresses again")
		}
		s.drained = why
		a.Drain(why != "")
	}
	members, known, _ := s.peers.members(bind, s.network)
	s.mu.Lock()
	all, addresses := s.wanted, s.addresses
	s.mu.Unlock()
	if all == nil || !known {
		return
	}
	if !slices.Equal(addresses, s.at) {
		s.at = addresses
		a.SetNodeAddresses(addresses)
	}
	d := announce.Desired{Addresses: make(map[netip.Addr]announce.Address, len(all)), Members: members}
	for addr, w := range all {
		d.Addresses[addr] = announce.Address{Interfaces: w.interfaces, Ready: w.ready}
	}
	if s.told.Addresses == nil || !slices.Equal(d.Members, s.told.Members) || !maps.EqualFunc(d.Addresses, s.told.Addresses, sameAddress) {
		s.told = d
		a.Set(d)
	}
}

// departure is why other nodes are to take over, empty if they need not.
func (s *speaker) departure() string {
	why, unready := s.self.departure()
	switch {
	case unready == "":
		s.unready = time.Time{}
	case s.unready.IsZero():
		s.unready = s.clock.Now()
	}
	if why == "" && unready != "" && s.clock.Since(s.unready) >= unreadyFor {
		why = unready
	}
	return why
}

func sameAddress(a, b announce.Address) bool {
	return a.Ready == b.Ready && slices.Equal(a.Interfaces, b.Interfaces)
}

// look takes over what there is to be told; a is nil when none is running.
func (s *speaker) look(ctx context.Context, a announcer) {
	s.mu.Lock()
	all, failure := s.wanted, s.failure
	s.mu.Unlock()
	var owners []announce.Owner
	var findings []v1alpha1.Finding
	if a != nil {
		owners = a.Owners()
		findings = problemFindings(a.Problems())
	} else if failure != nil {
		findings = append(findings, failureFinding(failure))
	}
	if _, known, err := s.peers.members(netip.Addr{}, s.network); !known && err != nil {
		findings = append(findings, peersFinding(err))
	}
	now := s.clock.Now()
	s.splits = slices.DeleteFunc(s.splits, func(one split) bool { return now.Sub(one.at) >= splitToldFor })
	// Conflicts come last, as there may be more of them than a report has room for.
	findings = slices.Concat(findings, missingFindings(owners, all), splitFindings(s.splits, s.port), conflictFindings(s.config.Node, owners, all))
	announcing := announcing(s.config.Node, owners)
	s.mu.Lock()
	same := slices.Equal(findings, s.findings) && sameAnnounced(announcing, s.announcing)
	before := s.findings
	s.findings, s.announcing = findings, announcing
	s.mu.Unlock()
	logNew(ctx, "Announcing addresses works less well than it should", lines(before), lines(findings))
	if !same {
		s.moved()
	}
}

// note logs what happened to addresses of this node.
func (s *speaker) note(ctx context.Context, changes []announce.Change) {
	type event struct {
		kind announce.ChangeKind
		node string
	}
	events := map[event][]netip.Addr{}
	var order []event
	for _, c := range changes {
		e := event{c.Kind, c.Node}
		if events[e] == nil {
			order = append(order, e)
		}
		events[e] = append(events[e], c.Address)
		if c.Kind == announce.SplitBrain {
			s.splits = append(s.splits, split{address: c.Address, node: c.Node, at: c.At})
		}
	}
	messages := map[announce.ChangeKind]string{
		announce.Taken:         "This node answers for addresses",
		announce.Yielded:       "Another node answers for addresses of this one",
		announce.SplitBrain:    "Two nodes have answered for addresses, this one has stopped",
		announce.ConflictBegan: "A stranger has addresses, nobody of the cluster answers for them",
		announce.ConflictEnded: "This node answers for addresses again, the stranger is gone",
	}
	for _, e := range order {
		klog.FromContext(ctx).Info(messages[e.kind], "addresses", few(events[e]), "node", e.node)
	}
}

// list returns what is to be told of this node.
func (s *speaker) list() ([]v1alpha1.Finding, []v1alpha1.Announced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findings, s.announcing
}

// counters are those since the start of this process, and how many addresses and members
// there are.
func (s *speaker) counters() (c announce.Counters, owned, expected int) {
	s.mu.Lock()
	running, announcing := s.running, s.announcing
	c = s.past
	s.mu.Unlock()
	if running != nil {
		now := running.Counters()
		c = sum(c, now)
		c.Members = now.Members
	}
	for _, group := range announcing {
		owned += len(group.Addresses)
	}
	members, _, _ := s.peers.members(netip.Addr{}, s.network)
	return c, owned, len(members)
}

// sum adds what is counted, which is everything but members.
func sum(a, b announce.Counters) announce.Counters {
	a.AnswersIPv4 += b.AnswersIPv4
	a.AnswersIPv6 += b.AnswersIPv6
	a.Announcements += b.Announcements
	a.Probes += b.Probes
	a.Claims += b.Claims
	a.Conflicts += b.Conflicts
	a.SendErrors += b.SendErrors
	a.Unread += b.Unread
	a.Silent += b.Silent
	a.Refused += b.Refused
	a.Members = 0
	changes := maps.Clone(a.Changes)
	if changes == nil {
		changes = map[announce.ChangeKind]uint64{}
	}
	for kind, n := range b.Changes {
		changes[kind] += n
	}
	a.Changes = changes
	return a
}
