package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// maxReportedAddresses is MaxItems of a NodeReport's report.addresses.
const maxReportedAddresses = 64

// nodeTerms are what Gateways in mode Node may differ in: all of those that agree share
// one nodePool.
type nodeTerms struct {
	kind corev1.NodeAddressType
	// selector of nodes; empty: all.
	selector string
	// only is the one family that is published; empty: both.
	only corev1.IPFamily
}

// nodePool returns the pool of a Gateway's nodes and addresses.
func (a *assigner) nodePool(p *topology.Parameters) *nodePool {
	terms := nodeTerms{kind: a.kind}
	switch p.NodeAddressType {
	case v1alpha1.NodeAddressInternal:
		terms.kind = corev1.NodeInternalIP
	case v1alpha1.NodeAddressExternal:
		terms.kind = corev1.NodeExternalIP
	default: // the controller's
	}
	if p.Nodes != nil {
		terms.selector = p.Nodes.String()
	}
	if len(p.Families) == 1 {
		terms.only = p.Families[0]
	}
	return a.poolOf(terms, p.Nodes)
}

func (a *assigner) poolOf(terms nodeTerms, selector labels.Selector) *nodePool {
	pool := a.nodes[terms]
	if pool == nil {
		pool = newNodePool(a.members, terms, selector)
		a.nodes[terms] = pool
	}
	return pool
}

// nodePool is the node addresses there are to assign.
type nodePool struct {
	terms nodeTerms
	// offered, node by node in the order of their names: those of nodes with a live
	// agent, and of all nodes while all agents are silent. Rules stand without their
	// agent, so an address that may not work is better than none.
	offered []netip.Addr
	// unsure are those of nodes of whose agent nobody knows yet whether it lives. A
	// Gateway keeps those it has and gets no others, but if it has none yet: it is new,
	// and waits for these nodes anyway.
	unsure []netip.Addr
	// keeps are offered and unsure: what stays with a Gateway that has it.
	keeps map[netip.Addr]bool
	// bound are the addresses a Gateway may ask for. A silent agent does not take
	// them away: nobody else could serve them, and what it serves is still served.
	bound map[netip.Addr]bool
	// names lists bound, shortened.
	names func() string
}

func newNodePool(members []member, terms nodeTerms, selector labels.Selector) *nodePool {
	pool := &nodePool{terms: terms, keeps: map[netip.Addr]bool{}, bound: map[netip.Addr]bool{}}
	pool.names = sync.OnceValue(pool.listBound)
	chosen := func(m *member) bool { return m.counts && (selector == nil || m.has(selector)) }
	allSilent := !slices.ContainsFunc(members, func(m member) bool { return chosen(&m) && !m.silent })
	for i := range members {
		m := &members[i]
		if !chosen(m) {
			continue
		}
		served := terms.those(m.served(terms.kind))
		switch {
		case m.unsure():
			pool.unsure = append(pool.unsure, served...)
		case !m.silent || allSilent:
			pool.offered = append(pool.offered, served...)
		}
		for _, addr := range terms.those(m.requestable()) {
			pool.bound[addr] = true
		}
	}
	for _, addr := range slices.Concat(pool.offered, pool.unsure) {
		pool.keeps[addr] = true
	}
	return pool
}

// those are the addresses of the family that is published.
func (t nodeTerms) those(addresses []netip.Addr) []netip.Addr {
	if t.only == "" {
		return addresses
	}
	return slices.DeleteFunc(slices.Clone(addresses), func(addr netip.Addr) bool { return topology.FamilyOf(addr) != t.only })
}

// served are the addresses of the Node that its agent serves as well. Before the
// first report all of them have to do, and where the report is full, since some may
// not have fitted into it. External addresses need not be on the host: clouds
// translate them to an internal one.
func (m *member) served(kind corev1.NodeAddressType) []netip.Addr {
	reported, known := m.reported()
	listed := m.listed(kind)
	switch {
	case !known:
		return listed
	case len(reported) == 0:
		return nil
	case kind == corev1.NodeExternalIP, len(reported) >= maxReportedAddresses:
		return listed
	}
	return slices.DeleteFunc(slices.Clone(listed), func(addr netip.Addr) bool { return !slices.Contains(reported, addr) })
}

// requestable are the addresses that this node can serve for a Gateway that asks
// for them: those its agent found on it. Before the first report those of the
// Node have to do.
func (m *member) requestable() []netip.Addr {
	reported, known := m.reported()
	switch {
	case !known:
		return m.addresses
	case len(reported) >= maxReportedAddresses:
		return append(reported, m.addresses...)
	}
	return reported
}

// requestable are the addresses that any node can serve for a Gateway that asks for them.
func requestable(members []member) map[netip.Addr]bool {
	found := make(map[netip.Addr]bool, len(members))
	for i := range members {
		if members[i].counts {
			for _, addr := range members[i].requestable() {
				found[addr] = true
			}
		}
	}
	return found
}

// reported are the addresses at which the agent says that it serves Gateways.
func (m *member) reported() (addresses []netip.Addr, known bool) {
	if !readable(m.report) {
		return nil, false
	}
	addresses = make([]netip.Addr, 0, len(m.report.Report.Addresses))
	for _, text := range m.report.Report.Addresses {
		if addr, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses, true
}

func (p *nodePool) assign(g *topology.Parameters) topology.Assignment {
	a := topology.Assignment{NodeMode: true}
	if !g.AnyWillDo {
		for _, addr := range g.Requested {
			if p.bound[addr] && len(a.Addresses) < maxAddresses {
				a.Addresses = append(a.Addresses, addr)
			}
		}
		if len(a.Addresses) < len(g.Requested) {
			a.Message = "the nodes with an agent have " + p.names()
		}
	} else {
		a.Addresses = p.choose(g.Requested, g.Published)
		if len(a.Addresses) == 0 {
			a.Message = p.terms.noAddress()
		}
	}
	slices.SortFunc(a.Addresses, netip.Addr.Compare) // IPv4 first, clients often take the first one
	a.Addresses = slices.Compact(a.Addresses)
	return a
}

// noAddress says that there is none of these terms.
func (t nodeTerms) noAddress() string {
	node, address := "node", "address"
	if t.selector != "" {
		node += " with labels " + t.selector
	}
	if t.only != "" {
		address = string(t.only) + " address"
	}
	return fmt.Sprintf("no ready %s has an %s of type %s that its agent serves", node, address, t.kind)
}

// choose picks at most 16 addresses: those that were asked for, those the Gateway
// has, then the first others. What it has stays, whichever nodes come.
func (p *nodePool) choose(requested, published []netip.Addr) []netip.Addr {
	chosen := make([]netip.Addr, 0, min(len(p.keeps), maxAddresses))
	add := func(addr netip.Addr) {
		if len(chosen) < maxAddresses && !slices.Contains(chosen, addr) {
			chosen = append(chosen, addr)
		}
	}
	for _, addr := range requested {
		if p.bound[addr] {
			add(addr)
		}
	}
	others := [][]netip.Addr{p.offered, p.unsure}
	for _, addr := range published {
		if p.keeps[addr] {
			add(addr)
			others = others[:1]
		}
	}
	for _, addresses := range others {
		for i := 0; i < len(addresses) && len(chosen) < maxAddresses; i++ {
			add(addresses[i])
		}
	}
	return chosen
}

// listBound lists the addresses that can be asked for, shortened.
func (p *nodePool) listBound() string {
	const shown = 8
	all := make([]netip.Addr, 0, len(p.bound))
	for addr := range p.bound {
		all = append(all, addr)
	}
	if len(all) == 0 {
		return "no addresses"
	}
	slices.SortFunc(all, netip.Addr.Compare)
	texts := make([]string, 0, shown+1)
	for _, addr := range all[:min(len(all), shown)] {
		texts = append(texts, addr.String())
	}
	text := strings.Join(texts, ", ")
	if more := len(all) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
