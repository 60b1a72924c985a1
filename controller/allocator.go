package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// allocator gives addresses of pools to Gateways in mode Pool. What they have is in their
// statuses and nowhere else; what was given and is not seen there yet is remembered
// until it is. The lowest free address of the first pool is given, so that the same
// Gateways get the same addresses whoever counts. Not safe for concurrent use.
type allocator struct {
	// given is what Gateways got in this term that their statuses, as known here, do not
	// show.
	given map[types.NamespacedName]holding
	term  *term // that it was given in
	// nodes are those that have an address themselves: to everybody else it is the node.
	nodes map[netip.Addr]string
}

// holding is what a Gateway has. One of the same name that is made anew has another UID.
type holding struct {
	uid       types.UID
	addresses []netip.Addr
}

func newAllocator() *allocator { return &allocator{given: map[types.NamespacedName]holding{}} }

// allocation is one pass over all Gateways.
type allocation struct {
	term  *term
	nodes map[netip.Addr]string
	// gives: new addresses are given.
	gives bool
	// holders of each address, the oldest first; several only if they share it.
	holders map[netip.Addr][]*topology.Parameters
	has     map[*topology.Parameters][]netip.Addr
	refused map[*topology.Parameters]string
	shared  map[sharing][]*topology.Parameters // those that have an address, the oldest first
	next    map[draw]netip.Addr                // nothing of the pool below it is free
}

// sharing is what Gateways that share an address have in common.
type sharing struct{ namespace, label string }

// draw is a pool's part of one family.
type draw struct {
	pool   *topology.Pool
	family corev1.IPFamily
}

// assign gives every Gateway in mode Pool its addresses. Nobody gets a new one without a
// term, as it is with those who do not lead, and while not all Gateways are known.
func (a *allocator) assign(r *topology.Resolution, t *term, complete bool) map[types.NamespacedName]topology.Assignment {
	now := &allocation{
		term: t, nodes: a.nodes, gives: t != nil && complete, holders: map[netip.Addr][]*topology.Parameters{}, has: map[*topology.Parameters][]netip.Addr{},
		refused: map[*topology.Parameters]string{}, shared: map[sharing][]*topology.Parameters{}, next: map[draw]netip.Addr{},
	}
	var ours []*topology.Parameters
	for _, p := range r.OldestFirst() {
		if p.Mode == v1alpha1.AddressModePool {
			ours = append(ours, p)
		}
	}
	if t == nil || t != a.term { // somebody else may have led, and given it to others
		clear(a.given)
	}
	a.term = t
	// What somebody has comes before what somebody else would like to have, and an
	// address that is asked for before one that is only the next.
	if t != nil {
		t.reserve(r)
		for _, p := range ours { // newer than what is watched, by which somebody else may not be gone yet
			now.keep(p, unseen(p, t.held(p)))
			now.keep(p, unseen(p, a.held(p)))
		}
	}
	given := make(map[types.NamespacedName]holding)
	if !complete {
		given = maps.Clone(a.given)
	}
	maps.Copy(given, now.reserve(r, a.given))
	for _, p := range ours {
		if p.Recorded == v1alpha1.AddressModePool {
			now.keep(p, p.Published)
		}
	}
	for _, p := range ours {
		now.request(p)
	}
	for _, p := range ours {
		now.draw(p)
	}
	assigned := make(map[types.NamespacedName]topology.Assignment, len(ours))
	for _, p := range ours {
		addresses := slices.SortedFunc(slices.Values(now.has[p]), netip.Addr.Compare) // IPv4 first
		assigned[p.Key] = topology.Assignment{Addresses: addresses, Message: now.refused[p]}
		if seen := sameAddresses(addresses, p.Published) && (len(addresses) == 0 || p.Recorded == v1alpha1.AddressModePool); t != nil && !seen {
			given[p.Key] = holding{p.Gateway.UID, addresses}
		}
	}
	a.given = given
	return assigned
}

// unseen are those addresses of a Gateway of which its status, as known here, does not show
// that it has them of a pool.
func unseen(p *topology.Parameters, held []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(held), func(addr netip.Addr) bool { return slices.Contains(p.Published, addr) && p.Keeps(addr) })
}

// held returns what was given to a Gateway in this term and is not seen yet.
func (a *allocator) held(p *topology.Parameters) []netip.Addr {
	if given, ok := a.given[p.Key]; ok && given.uid == p.Gateway.UID {
		return given.addresses
	}
	return nil
}

// reserve keeps from others what was given to Gateways whose parameters went before that was
// seen, and returns it: they may have it all the same.
func (now *allocation) reserve(r *topology.Resolution, given map[types.NamespacedName]holding) map[types.NamespacedName]holding {
	underWay := map[types.NamespacedName]holding{}
	for key, one := range given {
		p := r.Gateways[key]
		if p == nil || !p.Frozen || p.Mode == v1alpha1.AddressModePool || p.Gateway.UID != one.uid {
			continue
		}
		underWay[key] = one
		for _, addr := range one.addresses {
			now.holders[addr] = append(now.holders[addr], p)
		}
	}
	return underWay
}

// keep lets a Gateway keep what a pool gave it. What its spec wants no more goes once it
// has what the spec wants.
func (now *allocation) keep(p *topology.Parameters, held []netip.Addr) {
	for _, addr := range held {
		if p.Vouched(addr) {
			now.take(addr, p)
		}
	}
}

// wants reports whether an address that a Gateway did not name is one that it would get,
// given those that it has.
func wants(p *topology.Parameters, has []netip.Addr, addr netip.Addr) bool {
	family := topology.FamilyOf(addr)
	switch {
	case !p.AnyWillDo, slices.ContainsFunc(has, func(other netip.Addr) bool { return topology.FamilyOf(other) == family }):
		return false
	case len(p.Families) == 0:
		return len(has) == 0
	default:
		return slices.Contains(p.Families, family)
	}
}

// request gives a Gateway the addresses that it names, and takes what it has besides once
// it has all of them: by a typing mistake nobody loses anything.
func (now *allocation) request(p *topology.Parameters) {
	if p.Frozen {
		return
	}
	for _, addr := range p.Requested {
		if slices.Contains(now.has[p], addr) {
			continue
		}
		switch pool, why := p.Admits(addr); {
		case why != "":
			now.refuse(p, why)
		case !now.gives:
			now.refuse(p, waitingForLeader)
		case !ready(pool):
			now.refuse(p, waitingForPool(pool))
		case now.nodes[addr] != "":
			now.refuse(p, addressOfNode(addr, now.nodes[addr]))
		case !now.free(addr, p):
			now.refuse(p, addressInUse(addr))
		default:
			now.makeRoom(p)
			now.take(addr, p)
		}
	}
	if p.Answered(now.has[p]) {
		now.release(p, wants)
	}
}

// makeRoom gives up an address that a Gateway does not name if it has all that it can have.
func (now *allocation) makeRoom(p *topology.Parameters) {
	if len(now.has[p]) < maxAddresses {
		return
	}
	spared := 0
	now.release(p, func(*topology.Parameters, []netip.Addr, netip.Addr) bool {
		spared++
		return spared > 1
	})
}

// release takes from a Gateway what it does not name and is not to keep besides.
func (now *allocation) release(p *topology.Parameters, keeps func(p *topology.Parameters, has []netip.Addr, addr netip.Addr) bool) {
	var has []netip.Addr
	named := func(addr netip.Addr) bool { return slices.Contains(p.Requested, addr) }
	for _, addr := range now.has[p] {
		if named(addr) {
			has = append(has, addr)
		}
	}
	for _, addr := range slices.DeleteFunc(slices.Clone(now.has[p]), named) {
		if keeps(p, has, addr) {
			has = append(has, addr)
		} else {
			now.holders[addr] = slices.DeleteFunc(now.holders[addr], func(other *topology.Parameters) bool { return other == p })
		}
	}
	now.has[p] = has
}

// draw gives a Gateway an address of each family that it wants and has none of.
func (now *allocation) draw(p *topology.Parameters) {
	for _, family := range p.Wants(now.has[p]) {
		if !now.gives {
			now.refuse(p, waitingForLeader)
			continue
		}
		if !now.join(p, family) {
			if why := now.drawOne(p, family); why != "" {
				now.refuse(p, why)
			}
		}
	}
}

// join gives a Gateway the address of one that it shares with.
func (now *allocation) join(p *topology.Parameters, family corev1.IPFamily) bool {
	for _, other := range now.shared[sharingOf(p)] {
		for _, addr := range now.has[other] {
			if topology.FamilyOf(addr) != family {
				continue
			}
			if pool, why := p.Admits(addr); why == "" && ready(pool) && now.take(addr, p) {
				return true
			}
		}
	}
	return false
}

// drawOne returns why there was nothing to give, empty if there was.
func (now *allocation) drawOne(p *topology.Parameters, family corev1.IPFamily) (why string) {
	for _, pool := range p.PoolsFor(family) {
		if !ready(pool) {
			why = waitingForPool(pool)
			continue
		}
		from, known := now.next[draw{pool, family}]
		if !known {
			from = netip.IPv4Unspecified()
			if family == corev1.IPv6Protocol {
				from = netip.IPv6Unspecified()
			}
		}
		for addr := range pool.Set.From(from) {
			if len(now.holders[addr]) > 0 || now.nodes[addr] != "" || now.term.blocks(addr) {
				continue
			}
			now.next[draw{pool, family}] = addr
			if now.take(addr, p) {
				return ""
			}
			break
		}
	}
	return cmp.Or(why, p.Lacks(family))
}

// ready: what is given of the pool can be told from then on, whatever becomes of its spec,
// and the pool itself cannot go: it has said what it has, and the finalizer holds it.
func ready(pool *topology.Pool) bool {
	return pool.Recorded && slices.Contains(pool.Source.Finalizers, v1alpha1.AddressPoolFinalizer)
}

// take reports whether a Gateway has an address from now on.
func (now *allocation) take(addr netip.Addr, p *topology.Parameters) bool {
	holders := now.holders[addr]
	if slices.Contains(holders, p) {
		return true
	}
	if len(now.has[p]) >= maxAddresses || !now.free(addr, p) {
		return false
	}
	now.holders[addr] = append(holders, p)
	now.has[p] = append(now.has[p], addr)
	if key := sharingOf(p); key.label != "" && !slices.Contains(now.shared[key], p) {
		now.shared[key] = append(now.shared[key], p)
	}
	return true
}

// free reports whether nobody has an address who does not share it with the Gateway.
func (now *allocation) free(addr netip.Addr, p *topology.Parameters) bool {
	holders := now.holders[addr]
	if slices.ContainsFunc(holders, func(other *topology.Parameters) bool { return !p.Shares(other) }) {
		return false
	}
	return len(holders) > 0 || !now.term.blocks(addr) || p.Keeps(addr)
}

func (now *allocation) refuse(p *topology.Parameters, why string) {
	if now.refused[p] == "" {
		now.refused[p] = why
	}
}

func sharingOf(p *topology.Parameters) sharing {
	return sharing{p.Key.Namespace, p.Gateway.Labels[v1alpha1.ShareAddressLabel]}
}

func sameAddresses(a, b []netip.Addr) bool {
	b = slices.SortedFunc(slices.Values(b), netip.Addr.Compare)
	return slices.Equal(a, b)
}

// Whatever a Gateway has no address for is told in an Event, but for what passes by itself.
const (
	waiting          = "waiting for "
	waitingForLeader = waiting + "the controller that leads to read all Gateways"
)

func waitingForPool(pool *topology.Pool) string {
	return waiting + "the status of AddressPool " + pool.Name + " to be written"
}

func addressInUse(addr netip.Addr) string {
	return fmt.Sprintf("another Gateway has %s; to share it, label both, which must be in one namespace, with %s of the same value", addr, v1alpha1.ShareAddressLabel)
}

func addressOfNode(addr netip.Addr, node string) string {
	return fmt.Sprintf("%s is an address of Node %s itself; choose another, and take it out of the AddressPool", addr, node)
}

// addressesOfNodes are all addresses that Nodes say they have.
func addressesOfNodes(nodes map[string]*corev1.Node) map[netip.Addr]string {
	found := make(map[netip.Addr]string, len(nodes))
	for name, node := range nodes {
		for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
			for _, addr := range nodeAddresses(node, kind) {
				found[addr] = max(found[addr], name)
			}
		}
	}
	return found
}
