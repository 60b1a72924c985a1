package owner

import (
	"cmp"
	"net/netip"
	"slices"
)

// Bid is a claim on an address and who makes it.
type Bid struct {
	Node  string
	Stamp uint64
}

// Input is what owners are decided from. The order of nothing in it matters.
type Input struct {
	Addresses []netip.Addr
	// Nodes are the members that are alive.
	Nodes []string
	// Eligible reports whether a node may own an address: it says so itself, and those
	// who configured it agree.
	Eligible func(address netip.Addr, node string) bool
	// Bids are those of Nodes.
	Bids map[netip.Addr][]Bid
}

// Assignment says who owns an address.
type Assignment struct {
	// Owner is empty when no node is eligible.
	Owner string
	// Elected: it has made no claim yet.
	Elected bool
	// Rivals are the other eligible nodes that claim it and have to yield, by name.
	Rivals []string
}

// Bound returns how many of a number of addresses one of the nodes may get by
// election: 1.25 × mean, and one more.
func Bound(addresses, nodes int) int {
	if nodes == 0 {
		return 0
	}
	return addresses*5/(nodes*4) + 1
}

// Assign decides for every address. It is deterministic, so that every node that
// knows the same decides the same.
func Assign(in Input) map[netip.Addr]Assignment {
	out := make(map[netip.Addr]Assignment, len(in.Addresses))
	load := make(map[string]int, len(in.Nodes))
	var open []netip.Addr
	for _, address := range in.Addresses {
		if _, done := out[address]; done {
			continue
		}
		a := in.keep(address)
		out[address] = a
		if a.Owner == "" {
			open = append(open, address)
		} else {
			load[a.Owner]++
		}
	}
	if len(open) > 0 {
		e := newElection(in, open, load)
		for _, s := range e.seats {
			out[s.address] = Assignment{Owner: e.elect(s), Elected: true}
		}
	}
	return out
}

// keep finds the owner among those who claim an address.
func (in Input) keep(address netip.Addr) Assignment {
	var valid []Bid
	for _, bid := range in.Bids[address] {
		if in.Eligible(address, bid.Node) {
			valid = append(valid, bid)
		}
	}
	if len(valid) == 0 {
		return Assignment{}
	}
	slices.SortFunc(valid, func(a, b Bid) int { return compareBids(address, a, b) })
	a := Assignment{Owner: valid[0].Node}
	for _, bid := range valid[1:] {
		a.Rivals = append(a.Rivals, bid.Node)
	}
	slices.Sort(a.Rivals)
	return a
}

// compareBids orders claims on one address: the first one wins.
func compareBids(address netip.Addr, a, b Bid) int {
	if c := cmp.Compare(a.Stamp, b.Stamp); c != 0 {
		return c
	}
	h := hashAddr(address)
	if c := cmp.Compare(weight(hashName(b.Node), h), weight(hashName(a.Node), h)); c != 0 {
		return c
	}
	return cmp.Compare(a.Node, b.Node)
}

// election fills seats one after the other.
type election struct {
	nodes []candidate // by name
	seats []seat
	bound int
}

type candidate struct {
	name string
	hash uint64
	load int
}

// seat is an address without owner.
type seat struct {
	address    netip.Addr
	hash       uint64
	candidates []int // of the election's nodes
}

// newElection finds the seats that anybody may have: first those that few may, so
// that what is flexible fills what they leave. Nodes that own something or may have a
// seat take part; others do not lower the bound.
func newElection(in Input, open []netip.Addr, load map[string]int) *election {
	e := &election{}
	owned := 0
	for _, node := range slices.Compact(slices.Sorted(slices.Values(in.Nodes))) {
		e.nodes = append(e.nodes, candidate{name: node, hash: hashName(node), load: load[node]})
		owned += load[node]
	}
	taking := make([]bool, len(e.nodes))
	var candidates []int
	for _, address := range open {
		var found []int
		for i, c := range e.nodes {
			if in.Eligible(address, c.name) {
				found = append(found, i)
				taking[i] = true
			}
		}
		if !slices.Equal(candidates, found) { // most seats have the same
			candidates = found
		}
		if len(found) > 0 {
			e.seats = append(e.seats, seat{address: address, hash: hashAddr(address), candidates: candidates})
		}
	}
	slices.SortFunc(e.seats, func(a, b seat) int {
		return cmp.Or(
			cmp.Compare(len(a.candidates), len(b.candidates)),
			cmp.Compare(a.hash, b.hash),
			a.address.Compare(b.address),
		)
	})
	nodes := 0
	for i, c := range e.nodes {
		if taking[i] || c.load > 0 {
			nodes++
		}
	}
	e.bound = Bound(owned+len(e.seats), nodes)
	return e
}

// elect takes the candidate of the highest weight that is not full; if all are, the
// one that owns least.
func (e *election) elect(s seat) string {
	var best, least *candidate
	var highest, highestOfLeast uint64
	for _, i := range s.candidates {
		c := &e.nodes[i]
		w := weight(c.hash, s.hash)
		if c.load < e.bound && (best == nil || w > highest) {
			best, highest = c, w
		}
		if least == nil || c.load < least.load || c.load == least.load && w > highestOfLeast {
			least, highestOfLeast = c, w
		}
	}
	if best == nil {
		best = least
	}
	best.load++
	return best.name
}
