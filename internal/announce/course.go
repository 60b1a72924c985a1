package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
)

// course is what this node does about its addresses. It has no clock and no
// network: both come with a view. To be used by one goroutine at a time.
type course struct {
	node string
	// settleFor is how long a node waits for others before it claims what nobody
	// owns.
	settleFor time.Duration

	addresses  map[netip.Addr]Address
	order      []netip.Addr // of addresses
	missing    map[netip.Addr]string
	ready      owner.Set // those that this node may own
	readySince map[netip.Addr]time.Time
	macs       []layer2.MAC // it answers with
	prepared   time.Time    // when addresses were first given
	settled    bool
	draining   bool // takes only what nobody else can
	leaving    bool // takes nothing
	claims     map[netip.Addr]*claim
	// greeted are the members that are alive and whose records have been looked at.
	greeted map[string]bool
}

// claim is one of this node's own.
type claim struct {
	stamp uint64
	phase owner.Phase
	told  owner.Phase // the phase last reported
	// answer: it is to be answered, so far as layer 2 lets us.
	answer bool
	probe  bool
	from   string // who had it before
}

// view is what a node knows of the world at one time.
type view struct {
	now time.Time
	// alive are the other members, and those that are silent and answer nevertheless.
	alive []string
	// complete: all expected members are there.
	complete bool
	records  map[string]*owner.Record
	statuses map[netip.Addr]layer2.Status
	// lastResort are the addresses for which only nodes are ready that are drained: these
	// may then own them.
	lastResort map[netip.Addr]bool
}

// outcome is what is to be done.
type outcome struct {
	record  owner.Record
	answer  map[netip.Addr]layer2.Address
	again   []netip.Addr // to be announced again
	changes []Change
	owners  []Owner
}

func newCourse(node string, settleFor time.Duration) *course {
	return &course{node: node, settleFor: settleFor, claims: map[netip.Addr]*claim{}, greeted: map[string]bool{}}
}

// set takes over what is desired, why some of it cannot be answered here, and the
// MACs it is answered with.
func (c *course) set(addresses map[netip.Addr]Address, missing map[netip.Addr]string, macs []layer2.MAC, now time.Time) {
	c.addresses, c.missing, c.macs = addresses, missing, macs
	c.order = slices.SortedFunc(maps.Keys(addresses), netip.Addr.Compare)
	before := c.readySince
	c.readySince = make(map[netip.Addr]time.Time, len(addresses))
	var ready []netip.Addr
	for _, address := range c.order {
		a := addresses[address]
		if a.Ready && missing[address] == "" {
			ready = append(ready, address)
			c.readySince[address] = now
			if since, was := before[address]; was {
				c.readySince[address] = since
			}
		}
	}
	c.ready = owner.NewSet(ready)
	if c.prepared.IsZero() {
		c.prepared = now
	}
}

// known is what the members say of one address.
type known struct {
	bids   []owner.Bid   // of members that are alive, and the own one
	phases []owner.Phase // of those bids
	// highest stamp anybody has put on it.
	highest uint64
	// last of those that are gone who claimed it.
	last      string
	lastPhase owner.Phase
	lastStamp uint64
}

// phase is that of a node's claim.
func (k *known) phase(node string) (p owner.Phase, claims bool) {
	for i, bid := range k.bids {
		if bid.Node == node {
			return k.phases[i], true
		}
	}
	return owner.Pending, false
}

func (k *known) add(node string, stamp uint64, phase owner.Phase) {
	k.bids = append(k.bids, owner.Bid{Node: node, Stamp: stamp})
	k.phases = append(k.phases, phase)
}

// decide does one step.
func (c *course) decide(v view) outcome {
	facts := c.survey(v)
	c.settle(v)
	v.lastResort = c.lastResort(v)
	bids := make(map[netip.Addr][]owner.Bid, len(facts))
	for address, k := range facts {
		bids[address] = k.bids
	}
	assigned := owner.Assign(owner.Input{
		Addresses: c.order,
		Nodes:     append(slices.Clone(v.alive), c.node),
		Eligible:  func(address netip.Addr, node string) bool { return c.eligible(v, address, node) },
		Bids:      bids,
	})
	out := outcome{answer: map[netip.Addr]layer2.Address{}}
	out.again = c.greet(v)
	for address := range c.claims {
		if _, desired := c.addresses[address]; !desired {
			delete(c.claims, address)
		}
	}
	for _, address := range c.order {
		k := facts[address]
		if k == nil {
			k = &known{}
		}
		c.act(v, &out, address, assigned[address], k)
		out.owners = append(out.owners, c.owner(v, address, assigned[address], k))
	}
	out.record = c.record()
	return out
}

// survey collects what the records, and the own claims, say of each address.
func (c *course) survey(v view) map[netip.Addr]*known {
	facts := make(map[netip.Addr]*known, len(c.order))
	of := func(address netip.Addr) *known {
		k := facts[address]
		if k == nil {
			k = &known{}
			facts[address] = k
		}
		return k
	}
	for _, node := range slices.Sorted(maps.Keys(v.records)) {
		alive := slices.Contains(v.alive, node)
		for _, claim := range v.records[node].Claims {
			k := of(claim.Address)
			k.highest = max(k.highest, claim.Stamp)
			switch {
			case alive:
				k.add(node, claim.Stamp, claim.Phase)
			case claim.Stamp > k.lastStamp:
				k.last, k.lastPhase, k.lastStamp = node, claim.Phase, claim.Stamp
			}
		}
	}
	for address, mine := range c.claims {
		k := of(address)
		mine.observe(v.statuses[address])
		k.add(c.node, mine.stamp, mine.phase)
	}
	return facts
}

// observe takes over what layer 2 says. What it says of a claim that it is not asked
// for any more is old.
func (cl *claim) observe(s layer2.Status) {
	switch {
	case !cl.answer:
		cl.phase = owner.Pending
	case s.State == layer2.Answering:
		cl.phase = owner.Answering
	case s.State == layer2.Conflict:
		cl.phase = owner.Conflict
	default:
		cl.phase = owner.Pending
	}
}

// settle ends the time in which this node claims nothing: when another member has, so
// that what it knows is what all know; when all expected members are there; or when it
// has waited long enough.
func (c *course) settle(v view) {
	if c.settled || c.prepared.IsZero() {
		return
	}
	together := v.complete
	for _, node := range v.alive {
		r := v.records[node]
		if r != nil && r.Settled {
			c.settled = true
		}
		together = together && r != nil && r.Prepared
	}
	c.settled = c.settled || together || v.now.Sub(c.prepared) >= c.settleFor
}

// greet returns what is to be announced again: everything, when a member comes that has
// claimed addresses without knowing of us. Some neighbours take it for the owner of
// ours, and it may have given them up by now.
func (c *course) greet(v view) []netip.Addr {
	var all bool
	for node := range c.greeted {
		if !slices.Contains(v.alive, node) {
			delete(c.greeted, node)
		}
	}
	for _, node := range v.alive {
		if r := v.records[node]; r != nil && !c.greeted[node] {
			c.greeted[node] = true
			all = all || r.Settled
		}
	}
	var again []netip.Addr
	for _, address := range c.order {
		if mine := c.claims[address]; all && mine != nil && mine.phase == owner.Answering {
			again = append(again, address)
		}
	}
	return again
}

// eligible reports whether a node may own an address. Each speaks for itself: if
// nodes judged each other by the configuration, those that have read different versions of
// it would take addresses from each other.
func (c *course) eligible(v view, address netip.Addr, node string) bool {
	ready, draining := &c.ready, c.draining
	if node == c.node {
		if c.leaving {
			return false
		}
	} else {
		r := v.records[node]
		if r == nil || r.Leaving {
			return false
		}
		ready, draining = &r.Ready, r.Draining
	}
	return (!draining || v.lastResort[address]) && ready.Contains(address)
}

// lastResort finds the addresses that only nodes are ready for that are drained. All nodes
// may be, when none of them is ready by the API or all are to be replaced, and somebody
// has to answer then, too.
func (c *course) lastResort(v view) map[netip.Addr]bool {
	some := c.draining && !c.leaving
	for _, node := range v.alive {
		r := v.records[node]
		some = some || r != nil && r.Draining && !r.Leaving
	}
	if !some {
		return nil
	}
	nodes := append(slices.Clone(v.alive), c.node)
	found := map[netip.Addr]bool{}
	for _, address := range c.order {
		found[address] = !slices.ContainsFunc(nodes, func(node string) bool { return c.eligible(v, address, node) })
	}
	return found
}

// record is what this node says of itself.
func (c *course) record() owner.Record {
	r := owner.Record{Settled: c.settled, Prepared: !c.prepared.IsZero(), Draining: c.draining, Leaving: c.leaving}
	for _, mac := range c.macs {
		r.MACs = append(r.MACs, mac)
	}
	if !c.leaving {
		r.Ready = c.ready
	}
	for _, address := range c.order {
		if mine := c.claims[address]; mine != nil {
			r.Claims = append(r.Claims, owner.Claim{Address: address, Stamp: mine.stamp, Phase: mine.phase})
		}
	}
	return r
}

// owner is what is shown of an address.
func (c *course) owner(v view, address netip.Addr, a owner.Assignment, k *known) Owner {
	o := Owner{Address: address, Node: a.Owner, Missing: c.missing[address]}
	for i, bid := range k.bids {
		if bid.Node == a.Owner {
			o.Since, o.Phase = time.UnixMilli(int64(bid.Stamp)), k.phases[i]
		}
	}
	if a.Owner == c.node {
		o.Stranger = v.statuses[address].Stranger
	}
	if a.Elected && a.Owner == c.node && c.claims[address] == nil {
		o.Node = "" // not before it has settled
	}
	return o
}
