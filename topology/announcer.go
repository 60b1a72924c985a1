package topology

import (
	"net/netip"
	"slices"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// announcers are the nodes that answer for addresses of pools, as far as nodes say so.
type announcers struct {
	asked bool                    // else nobody knows
	nodes map[netip.Addr][]string // by address, in order
	// last are those that said so last and are not heard of any more. They count where
	// nobody else answers.
	last map[netip.Addr][]string
	// conflicts by Gateway, in the order of the nodes.
	conflicts map[string][]found
}

func newAnnouncers(r Reports) announcers {
	nodes := r.Nodes
	a := announcers{asked: !r.NotEvaluated, nodes: map[netip.Addr][]string{}, last: map[netip.Addr][]string{}, conflicts: map[string][]found{}}
	for i := range nodes {
		by := a.nodes
		if nodes[i].Unheard != "" {
			by = a.last
		}
		for _, addr := range nodes[i].Announces {
			by[addr] = append(by[addr], nodes[i].Node)
		}
		for _, f := range nodes[i].Findings {
			if f.Reason == v1alpha1.FindingAddressConflict {
				a.conflicts[f.Owner.Gateway] = append(a.conflicts[f.Owner.Gateway], found{nodes[i].Node, f})
			}
		}
	}
	for _, away := range r.Away {
		for _, addr := range away.Announces {
			a.last[addr] = append(a.last[addr], away.Node)
		}
	}
	for _, by := range []map[netip.Addr][]string{a.nodes, a.last} {
		for _, names := range by {
			slices.Sort(names)
		}
	}
	for _, list := range a.conflicts {
		slices.SortFunc(list, compareFound)
	}
	return a
}

// ofGateway returns what is to be added to the conditions of a Gateway: whether, and by
// which nodes, those of its addresses are answered for that are to be.
func (a *announcers) ofGateway(g *Gateway) []Condition {
	if !a.asked || !g.Accepted || g.Parameters.Mode != v1alpha1.AddressModePool {
		return nil
	}
	var list []announcedBy
	for _, addr := range g.Assignment.Addresses {
		addr = addr.Unmap()
		if pool := g.Parameters.holder(addr); pool != nil && pool.Announced.Layer2 {
			list = append(list, announcedBy{addr, a.nodes[addr], a.last[addr]})
		}
	}
	if len(list) == 0 {
		return nil
	}
	return []Condition{announcedCondition(list, a.conflicts[g.Key.String()])}
}

// announcedBy is an address and the nodes that answer for it: one, but for moments.
type announcedBy struct {
	addr  netip.Addr
	nodes []string
	last  []string // that said so, and are not heard of any more
}
