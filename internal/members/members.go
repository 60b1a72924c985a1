package members

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/portway-dev/portway/internal/owner"
)

// Members is this node as one of the members. Safe for concurrent use.
type Members struct {
	config  Config
	list    *memberlist.Memberlist
	queue   memberlist.TransmitLimitedQueue
	changed chan struct{}
	deliver chan struct{} // the own record is too long for gossip
	ask     chan struct{} // somebody is there whose word we do not have
	asked   chan struct{} // somebody does not have ours
	size    atomic.Int32  // members, this one included; the queue asks under its own lock

	mu       sync.Mutex
	keys     *keyring
	keyError error
	start    uint64
	own      *stored
	records  map[string]*stored
	alive    map[string]netip.AddrPort // other members
	lost     map[string]time.Time      // members that were alive, and did not leave
	expected []netip.AddrPort
	joining  map[netip.AddrPort]bool
	refused  uint64 // messages that no key opened
}

// stored is a record as it came.
type stored struct {
	*owner.Record
	raw  []byte
	seen time.Time // when its writer was last alive; zero: it is
	// stale: its writer has been away since it wrote it. It may have begun a new life,
	// in which it claims nothing.
	stale bool
}

// New starts to listen. Whoever calls it calls Run, or Stop.
func New(config Config) (*Members, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	keys, err := readKeys(config.KeyFile)
	if err != nil {
		return nil, err
	}
	m := &Members{
		config:  config,
		changed: make(chan struct{}, 1),
		deliver: make(chan struct{}, 1),
		ask:     make(chan struct{}, 1),
		asked:   make(chan struct{}, 1),
		start:   uint64(time.Now().UnixMilli()),
		records: map[string]*stored{},
		alive:   map[string]netip.AddrPort{},
		lost:    map[string]time.Time{},
		joining: map[netip.AddrPort]bool{},
	}
	m.queue.RetransmitMult = retransmitMult
	m.size.Store(1)
	m.queue.NumNodes = func() int { return int(m.size.Load()) }
	if m.keys, err = newKeyring(keys); err != nil {
		return nil, err
	}
	if err := free(config.Bind); err != nil {
		return nil, fmt.Errorf("listen for other members at %s: %w", config.Bind, err)
	}
	c := config.memberlist(m.keys.ring)
	c.Logger = m.logger()
	c.Delegate, c.Events = (*delegate)(m), (*events)(m)
	if m.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("listen for other members at %s: %w", config.Bind, err)
	}
	return m, nil
}

// free tries the port, as memberlist's own errors do not tell what is wrong.
func free(at netip.AddrPort) error {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err == nil {
		err = tcp.Close()
	}
	var udp *net.UDPConn
	if err == nil {
		udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	}
	if err == nil {
		err = udp.Close()
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; somebody else uses the port (MetalLB does): choose another one, on all nodes", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; it has to be an address of this node", err)
	}
	return err
}

// SetExpected says where the nodes are that should be members. Who of them is not is
// asked to, until it is: so what was split finds together again.
func (m *Members) SetExpected(addresses []netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected = slices.Clone(addresses)
}

// Missing returns those of the expected members that are not.
func (m *Members) Missing() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.missing()
}

func (m *Members) missing() []netip.AddrPort {
	there := map[netip.AddrPort]bool{m.config.Bind: true}
	for _, at := range m.alive {
		there[at] = true
	}
	return slices.DeleteFunc(slices.Clone(m.expected), func(a netip.AddrPort) bool { return there[a] })
}

// Alive returns the other members that are, by name.
func (m *Members) Alive() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.alive))
}

// Lost returns since when members are silent that had not said that they would leave.
func (m *Members) Lost() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.lost)
}

// Noticed tells that a member that is lost is there nevertheless: neither it nor what it said
// is forgotten for as long as somebody says so.
func (m *Members) Noticed(node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.records[node]; s != nil && !s.seen.IsZero() {
		s.seen = time.Now()
	}
}

// Records returns what other nodes say, or said when they were last alive. Of those
// that have come back, it is what they have said since.
func (m *Members) Records() map[string]*owner.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]*owner.Record, len(m.records))
	for node, s := range m.records {
		if _, alive := m.alive[node]; !alive || !s.stale {
			out[node] = s.Record
		}
	}
	return out
}

// MACs returns those that other nodes answer with, or have lately: whoever has one is no
// stranger, even if he has been away.
func (m *Members) MACs() [][6]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out [][6]byte
	for _, s := range m.records {
		out = append(out, s.MACs...)
	}
	slices.SortFunc(out, func(a, b [6]byte) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

// Changed is signalled when Alive, Records or MACs return something else.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// Refused is how many messages arrived that no key opened, from other clusters or from
// members with another key.
func (m *Members) Refused() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused
}

// Err returns why the key file cannot be followed; the last good keys stay in use.
func (m *Members) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keyError
}

// Publish tells everybody what this node says of itself; Node, Start and Version are
// filled in.
func (m *Members) Publish(r owner.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publish(r)
}

func (m *Members) publish(r owner.Record) {
	r.Node, r.Start = m.config.Node, m.start
	if m.own != nil {
		r.Version = m.own.Version + 1
	}
	m.own = &stored{Record: &r, raw: r.Append(nil)}
	m.spread(m.own)
}

// spread gossips a record, or has it delivered if it is too long and our own.
func (m *Members) spread(s *stored) {
	switch {
	case len(s.raw) <= maxBroadcast:
		m.queue.QueueBroadcast(&broadcast{node: s.Node, message: s.raw})
	case s == m.own:
		signal(m.deliver)
	}
}

// merge takes over what is new. Who hears of a short one for the first time tells others.
func (m *Members) merge(raw []byte) {
	for len(raw) > 0 {
		r, rest, err := owner.Decode(raw)
		if err != nil {
			m.config.Logger.V(2).Info("Ignoring what a member says", "err", err)
			return
		}
		m.take(&stored{Record: r, raw: slices.Clone(raw[:len(raw)-len(rest)])})
		raw = rest
	}
}

func (m *Members) take(s *stored) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Node == m.config.Node {
		// Of an earlier life, when the clock was ahead.
		if m.own != nil && s.Newer(m.own.Record) {
			m.start = s.Start + 1
			m.publish(*m.own.Record)
		}
		return
	}
	old := m.records[s.Node]
	if old != nil && !s.Newer(old.Record) {
		return
	}
	if _, ok := m.alive[s.Node]; !ok {
		s.seen = time.Now()
	}
	m.records[s.Node] = s
	m.spread(s)
	signal(m.changed)
}

const (
	joinEvery = time.Second
	joinAtMax = 8 // at once
	// answerEvery is how often the own record is repeated for those who ask for it.
	answerEvery = 50 * time.Millisecond
)

// Run keeps the members together until ctx ends, and stops.
func (m *Members) Run(ctx context.Context) error {
	poll := m.config.keyPoll
	if poll == 0 {
		poll = 10 * time.Second
	}
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { m.deliverOwn(ctx) })
	join, keys := time.NewTicker(joinEvery), time.NewTicker(poll)
	defer join.Stop()
	defer keys.Stop()
	m.join(&working)
	asked, rest := (<-chan struct{})(m.asked), (<-chan time.Time)(nil)
	for {
		select {
		case <-ctx.Done():
			return m.list.Shutdown()
		case <-join.C:
			m.join(&working)
			m.forget()
			m.askAll()
		case <-m.ask:
			m.askAll()
		case <-asked:
			m.repeat()
			asked, rest = nil, time.After(answerEvery)
		case <-rest:
			asked, rest = m.asked, nil
		case now := <-keys.C:
			m.followKeys(now)
		}
	}
}

// Leave says goodbye, so that nobody has to find out. It is called before the context of
// Run ends.
func (m *Members) Leave(timeout time.Duration) error { return m.list.Leave(timeout) }

// question asks a member for its record; no record is that short.
const question = 0

// askAll asks those who are there and have not said anything since they are. One may
// have been away without knowing it.
func (m *Members) askAll() {
	unheard := map[string]bool{}
	m.mu.Lock()
	for node := range m.alive {
		s := m.records[node]
		unheard[node] = s == nil || s.stale
	}
	m.mu.Unlock()
	for _, to := range m.list.Members() {
		if !unheard[to.Name] {
			continue
		}
		if err := m.list.SendBestEffort(to, []byte{question}); err != nil {
			m.config.Logger.V(4).Info("Cannot ask a member", "node", to.Name, "err", err)
		}
	}
}

// repeat publishes the own record again, as a newer one.
func (m *Members) repeat() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.own != nil {
		m.publish(*m.own.Record)
	}
}

// join asks some of the missing.
func (m *Members) join(working *sync.WaitGroup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	missing := m.missing()
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	for _, to := range missing {
		if len(m.joining) == joinAtMax {
			return
		}
		if m.joining[to] {
			continue
		}
		m.joining[to] = true
		working.Go(func() {
			if _, err := m.list.Join([]string{to.String()}); err != nil {
				m.config.Logger.V(4).Info("Cannot reach an expected member", "address", to, "err", err)
			}
			m.mu.Lock()
			delete(m.joining, to)
			m.mu.Unlock()
		})
	}
}

// forget drops what is long over. Who is lost is for as long as what he said is known: it
// is still taken for his.
func (m *Members) forget() {
	after := cmp.Or(m.config.ForgetAfter, time.Hour)
	m.mu.Lock()
	defer m.mu.Unlock()
	for node, s := range m.records {
		if !s.seen.IsZero() && time.Since(s.seen) > after {
			delete(m.records, node)
			delete(m.lost, node)
		}
	}
	for node, since := range m.lost {
		if m.records[node] == nil && time.Since(since) > after {
			delete(m.lost, node)
		}
	}
}

func (m *Members) followKeys(now time.Time) {
	keys, err := readKeys(m.config.KeyFile)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		err = m.keys.update(keys, now)
	}
	m.keyError = err
}

// deliverOwn sends the own record, when it is too long for gossip, to everybody. Who
// cannot be reached gets it when two members exchange all they know.
func (m *Members) deliverOwn(ctx context.Context) {
	const atOnce = 16
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.deliver:
		}
		m.mu.Lock()
		raw := m.own.raw
		m.mu.Unlock()
		slots := make(chan struct{}, atOnce)
		var sending sync.WaitGroup
		for _, to := range m.list.Members() {
			if to.Name == m.config.Node {
				continue
			}
			slots <- struct{}{}
			sending.Go(func() {
				defer func() { <-slots }()
				if err := m.list.SendReliable(to, raw); err != nil {
					m.config.Logger.V(4).Info("Cannot tell a member", "node", to.Name, "err", err)
				}
			})
		}
		sending.Wait()
	}
}

// signal wakes who waits for a channel of one element, now or later.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
