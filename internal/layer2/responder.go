package layer2

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Address says how one address is answered for.
type Address struct {
	// Interfaces are names, or patterns as path.Match has them ("eth*"). None: those on
	// the network of the address, or if none is, those of the node's own addresses
	// and default routes.
	Interfaces []string
	// Probe first whether a stranger has the address. Without it, which is for what
	// a member of the cluster has answered for so far, it is announced at once and
	// probed after that.
	Probe bool
}

// Responder answers ARP requests and neighbour solicitations for a set of addresses
// in one network namespace. Safe for concurrent use.
type Responder struct {
	config  Config
	wake    chan struct{}
	moved   chan struct{} // the node has other addresses
	changed chan struct{}

	mu       sync.Mutex
	entries  map[netip.Addr]*entry
	agenda   agenda
	links    *links
	ports    map[int]*port // by index of the interface
	peers    map[MAC]bool
	queries  map[*query]bool
	dirty    bool // entries or queries have changed since ports were last fitted to them
	looked   uint64
	unread   error // why the interfaces could not be read
	unopened error // why sockets could not be opened
	pace     *pace
	counters Counters
}

// New makes a Responder that answers nobody until Run and Set are called.
func New(config Config) (*Responder, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Responder{
		config:  config,
		wake:    make(chan struct{}, 1),
		moved:   make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		entries: map[netip.Addr]*entry{},
		links:   &links{matched: map[string][]*link{}},
		ports:   map[int]*port{},
		queries: map[*query]bool{},
		pace:    newPace(config.Rate, config.Burst, time.Now()),
	}, nil
}

// Set says which addresses to answer for; the map is not kept. What is not in it is
// answered for no more when Set returns.
func (r *Responder) Set(addresses map[netip.Addr]Address) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for address, e := range r.entries {
		if _, ok := addresses[address]; !ok {
			r.agenda.drop(e)
			delete(r.entries, address)
			r.dirty = true
		}
	}
	now := time.Now()
	for address, want := range addresses {
		e, ok := r.entries[address]
		if ok && slices.Equal(e.want.Interfaces, want.Interfaces) {
			continue
		}
		if !ok {
			e = &entry{address: address, index: -1, status: Status{Since: now}}
			r.entries[address] = e
		}
		e.want = want
		r.place(e, now)
		r.dirty = true
	}
	if r.dirty {
		signal(r.wake)
	}
}

// SetNodeAddresses replaces Config.NodeAddresses.
func (r *Responder) SetNodeAddresses(addresses []netip.Addr) {
	r.mu.Lock()
	r.config.NodeAddresses = slices.Clone(addresses)
	r.mu.Unlock()
	signal(r.moved)
}

// place finds the interfaces of an entry, and starts it where it has some only now.
func (r *Responder) place(e *entry, now time.Time) {
	before := e.links
	e.links = r.links.of(e.address, e.want.Interfaces)
	e.status.Interfaces, e.status.Missing = nil, ""
	for _, l := range e.links {
		e.status.Interfaces = append(e.status.Interfaces, l.name)
	}
	switch {
	case len(e.links) == 0:
		e.status.Missing = r.links.missing(e.address, e.want.Interfaces)
		e.become(Waiting, now)
		r.agenda.drop(e)
	case len(before) == 0 && e.status.State == Waiting:
		e.stage, e.sent, e.checked = probing, 0, false
		if !e.want.Probe {
			e.stage = announcing
		}
		e.want.Probe = true // when it comes to this again, time has passed
		e.become(Probing, now)
		r.agenda.plan(e, now)
	case e.status.State == Answering && gained(before, e.links):
		e.stage, e.sent, e.checked = announcing, 0, false
		r.agenda.plan(e, now)
	}
}

// gained reports whether there is an interface that nobody has heard of us on as
// it is now: a new one, one with another MAC, a bond with another active port.
func gained(before, after []*link) bool {
	return slices.ContainsFunc(after, func(a *link) bool {
		return !slices.ContainsFunc(before, func(b *link) bool {
			return a.index == b.index && a.mac == b.mac && a.active == b.active && a.linkLocal == b.linkLocal
		})
	})
}

// SetPeers says which MACs the other members of the cluster answer with: what they
// claim is no conflict.
func (r *Responder) SetPeers(macs []MAC) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers = make(map[MAC]bool, len(macs))
	for _, mac := range macs {
		r.peers[mac] = true
	}
	now := time.Now()
	for _, e := range r.entries {
		// Taken for a stranger until we were introduced.
		if e.stage == conflicted && r.peers[e.status.Stranger.MAC] {
			r.agenda.plan(e, now)
			signal(r.wake)
		}
	}
}

// Announce announces addresses again that are answered for: somebody else has, too.
func (r *Responder) Announce(addresses []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, address := range addresses {
		if e := r.entries[address]; e != nil && e.status.State == Answering {
			e.stage, e.sent = announcing, 0
			r.agenda.plan(e, now)
		}
	}
	signal(r.wake)
}

// Statuses returns what becomes of every address.
func (r *Responder) Statuses() map[netip.Addr]Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[netip.Addr]Status, len(r.entries))
	for address, e := range r.entries {
		out[address] = e.status
	}
	return out
}

// Changed is signalled when a Status has changed, and with every new value of Looked.
func (r *Responder) Changed() <-chan struct{} { return r.changed }

// Counters returns what has been counted.
func (r *Responder) Counters() Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counters
}

// Err returns why interfaces could not be read or opened when that was last tried;
// it is tried again. A *CapabilityError when this process may not.
func (r *Responder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.unread, r.unopened)
}

// Interface is one that addresses may be answered on.
type Interface struct {
	Name string
	MAC  MAC
}

// Reach is a question: where would an address be answered?
type Reach struct {
	Address netip.Addr
	// Interfaces as in Address.
	Interfaces []string
}

// Interfaces returns for each question why the address can be answered nowhere, empty
// where it can be, and all interfaces that addresses would be answered on.
func (r *Responder) Interfaces(questions []Reach) (missing []string, all []Interface) {
	r.mu.Lock()
	links := r.links
	r.mu.Unlock()
	used := map[int]Interface{}
	missing = make([]string, len(questions))
	for i, q := range questions {
		found := links.of(q.Address, q.Interfaces)
		if len(found) == 0 {
			missing[i] = links.missing(q.Address, q.Interfaces)
		}
		for _, l := range found {
			used[l.index] = Interface{l.name, l.mac}
		}
	}
	for _, index := range slices.Sorted(maps.Keys(used)) {
		all = append(all, used[index])
	}
	return missing, all
}

// Looked counts how often the interfaces have been read. What Interfaces returns
// changes only with it.
func (r *Responder) Looked() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.looked
}

// retryAfter is how long after a failure interfaces are looked at again, and lookAfter
// is how long without any news.
const (
	retryAfter = time.Second
	lookAfter  = 30 * time.Second
)

// Run answers until ctx ends, in the network namespace of the calling thread. Nobody is
// answered when it has returned. It may be called once.
func (r *Responder) Run(ctx context.Context) error {
	w, err := watchLinks()
	if err != nil {
		return err
	}
	defer r.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	r.look()
	looked := time.Now()
	for {
		r.fit()
		wait := min(r.step(time.Now()), lookAfter)
		if r.Err() != nil {
			wait = min(wait, retryAfter)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return w.close()
		case <-w.changed:
			if !pause(ctx, r.config.Settle) {
				return w.close()
			}
			r.look()
			looked = time.Now()
		case <-r.moved:
			r.look()
			looked = time.Now()
		case <-r.wake:
		case <-timer.C:
			if since := time.Since(looked); since >= lookAfter || r.Err() != nil && since >= retryAfter {
				r.look()
				looked = time.Now()
			}
		}
	}
}

// pause waits; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// look reads the interfaces.
func (r *Responder) look() {
	r.mu.Lock()
	addresses := r.config.NodeAddresses
	r.mu.Unlock()
	found, err := listLinks(addresses)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unread = err
	if err != nil {
		return
	}
	r.links = found
	r.looked++
	now := time.Now()
	for _, e := range r.entries {
		r.place(e, now)
	}
	r.dirty = true
	signal(r.changed)
}

// stop closes everything.
func (r *Responder) stop() {
	r.mu.Lock()
	ports := r.ports
	r.ports, r.entries, r.agenda = map[int]*port{}, map[netip.Addr]*entry{}, nil
	r.mu.Unlock()
	for _, p := range ports {
		p.close()
	}
}

// step does what is due, as fast as the pace allows, and returns when to come again.
func (r *Responder) step(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.askAll(now)
	for len(r.agenda) > 0 {
		e := r.agenda[0]
		if wait := e.due.Sub(now); wait > 0 {
			return min(next, wait)
		}
		if wait := r.pace.refill(now); wait > 0 {
			return min(next, wait)
		}
		if !r.audible(e) { // see Err
			r.agenda.plan(e, now.Add(retryAfter))
			continue
		}
		state := e.status.State
		todo, due := e.advance(&r.config, vary, now)
		r.agenda.plan(e, due)
		if e.status.State != state {
			signal(r.changed)
		}
		r.send(e, todo)
	}
	return next
}

// audible reports whether there is a socket that can speak for an entry.
func (r *Responder) audible(e *entry) bool {
	return slices.ContainsFunc(e.links, func(l *link) bool {
		p := r.ports[l.index]
		return p != nil && p.ear(e.address) != nil
	})
}

// send sends what an entry has to say, on all its interfaces.
func (r *Responder) send(e *entry, todo round) {
	for _, l := range e.links {
		p := r.ports[l.index]
		if p == nil {
			continue // it could not be opened, see Err
		}
		if todo.request {
			r.transmit(p, e.address, announcementFrame(l.mac, l.linkLocal, e.address, false))
			r.counters.Announcements++
		}
		if todo.reply {
			r.transmit(p, e.address, announcementFrame(l.mac, l.linkLocal, e.address, true))
			r.counters.Announcements++
		}
		if todo.probe {
			r.transmit(p, e.address, probeFrame(l.mac, e.address))
			r.counters.Probes++
		}
		r.pace.tokens -= float64(todo.frames())
	}
}

// transmit counts what could not be sent. A frame that is lost is followed by another,
// or asked for again.
func (r *Responder) transmit(p *port, address netip.Addr, f frame) {
	if ear := p.ear(address); ear != nil {
		if err := ear.send(f); err != nil {
			r.counters.SendErrors++
		}
	}
}

// vary spreads what would otherwise happen at the same time for all.
func vary(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1)
}

// heard does what a message calls for. Its sockets' goroutines call it.
func (r *Responder) heard(p *port, m message) {
	r.mu.Lock()
	if p.failed.Load() {
		r.dirty = true
		signal(r.wake)
	}
	if m.sender == (MAC{}) || r.links.macs[m.sender] {
		r.mu.Unlock()
		return // ourselves, or nobody
	}
	now := time.Now()
	for q := range r.queries {
		q.heard(m)
	}
	if m.claims.IsValid() {
		r.claimed(p, m.claims, m.sender, now)
	}
	e := r.entries[m.asks]
	if e == nil || !e.on(p.index) {
		r.mu.Unlock()
		return
	}
	if m.probe && e.stage == probing {
		r.claimed(p, m.asks, m.sender, now) // it is about to take what we are about to take
	}
	answers := e.status.State == Answering
	if answers && m.asks.Is4() {
		r.counters.AnswersIPv4++
	} else if answers {
		r.counters.AnswersIPv6++
	}
	mac, linkLocal, ear := p.mac, p.linkLocal, p.ear(m.asks)
	r.mu.Unlock()
	if answers && ear != nil && ear.send(answerFrame(mac, linkLocal, m)) != nil {
		r.mu.Lock()
		r.counters.SendErrors++
		r.mu.Unlock()
	}
}

// claimed deals with somebody who says that an address is his.
func (r *Responder) claimed(p *port, address netip.Addr, sender MAC, now time.Time) {
	e, s := r.entries[address], Stranger{MAC: sender, Interface: p.name, Seen: now}
	if e == nil || !e.on(p.index) || r.peers[sender] || e.repeats(s) {
		return
	}
	r.counters.Claims++
	due, lost := e.strike(&r.config, vary, s)
	if lost {
		r.counters.Conflicts++
	}
	r.agenda.plan(e, due)
	signal(r.changed)
	signal(r.wake)
}
