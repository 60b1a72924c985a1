package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// maxAddresses is MaxItems of a Gateway's status.addresses.
const maxAddresses = 16

// maxReportedAddresses is MaxItems of a NodeReport's report.addresses.
const maxReportedAddresses = 64

// nodePool is the node addresses there are to assign.
type nodePool struct {
	kind corev1.NodeAddressType
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

func newNodePool(members []member, kind corev1.NodeAddressType) *nodePool {
	pool := &nodePool{kind: kind, keeps: map[netip.Addr]bool{}, bound: map[netip.Addr]bool{}}
	pool.names = sync.OnceValue(pool.listBound)
	allSilent := !slices.ContainsFunc(members, func(m member) bool { return m.counts && !m.silent })
	for _, m := range members {
		if !m.counts {
			continue
		}
		served := m.served(kind)
		switch {
		case m.unsure():
			pool.unsure = append(pool.unsure, served...)
		case !m.silent || allSilent:
			pool.offered = append(pool.offered, served...)
		}
		for _, addr := range m.requestable() {
			pool.bound[addr] = true
		}
	}
	for _, addr := range slices.Concat(pool.offered, pool.unsure) {
		pool.keeps[addr] = true
	}
	return pool
}

// served are the addresses of the Node that its agent serves as well. Before the
// first report all of them have to do, and where the report is full, since some may
// not have fitted into it. External addresses need not be on the host: clouds
// translate them to an internal one.
func (m *member) served(kind corev1.NodeAddressType) []netip.Addr {
	reported, known := m.reported()
	switch {
	case !known:
		return m.addresses
	case len(reported) == 0:
		return nil
	case kind == corev1.NodeExternalIP, len(reported) >= maxReportedAddresses:
		return m.addresses
	}
	return slices.DeleteFunc(slices.Clone(m.addresses), func(addr netip.Addr) bool { return !slices.Contains(reported, addr) })
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

// assign gives every Gateway of our classes its addresses.
func (p *nodePool) assign(s *topology.Snapshot, ours gatewayv1.GatewayController) map[types.NamespacedName]topology.Assignment {
	assigned := make(map[types.NamespacedName]topology.Assignment, len(s.Gateways))
	for key, gateway := range s.Gateways {
		class := s.GatewayClasses[string(gateway.Spec.GatewayClassName)]
		if class == nil || class.Spec.ControllerName != ours {
			continue
		}
		assigned[key] = p.assignOne(gateway)
	}
	return assigned
}

func (p *nodePool) assignOne(g *gatewayv1.Gateway) topology.Assignment {
	a := topology.Assignment{NodeMode: true}
	if requested, anyWillDo := requestedAddresses(g); !anyWillDo {
		for _, addr := range requested {
			if p.bound[addr] && len(a.Addresses) < maxAddresses {
				a.Addresses = append(a.Addresses, addr)
			}
		}
		if len(a.Addresses) < len(requested) {
			a.Message = "the nodes with an agent have " + p.names()
		}
	} else {
		a.Addresses = p.choose(requested, publishedAddresses(g))
		if len(a.Addresses) == 0 {
			a.Message = fmt.Sprintf("no ready node has an address of type %s that its agent serves", p.kind)
		}
	}
	slices.SortFunc(a.Addresses, netip.Addr.Compare) // IPv4 first, clients often take the first one
	a.Addresses = slices.Compact(a.Addresses)
	return a
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

// requestedAddresses returns what spec.addresses asks for by value, and whether
// any others will do as well: without a request, or with one for any address.
// Entries of another type reject the Gateway elsewhere.
func requestedAddresses(g *gatewayv1.Gateway) (addresses []netip.Addr, anyWillDo bool) {
	anyWillDo = len(g.Spec.Addresses) == 0
	for _, entry := range g.Spec.Addresses {
		if ptr.Deref(entry.Type, gatewayv1.IPAddressType) != gatewayv1.IPAddressType {
			continue
		}
		if entry.Value == "" {
			anyWillDo = true
		} else if addr, err := netip.ParseAddr(entry.Value); err == nil {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses, anyWillDo
}

func publishedAddresses(g *gatewayv1.Gateway) []netip.Addr {
	addresses := make([]netip.Addr, 0, len(g.Status.Addresses))
	for _, entry := range g.Status.Addresses {
		if addr, err := netip.ParseAddr(entry.Value); err == nil {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses
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
