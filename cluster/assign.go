package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// Assign gives every Gateway its addresses where no cluster does it. In mode Node
// those of the node, or of those the ones that spec.addresses asks for, in the order of
// the node's addresses. In mode Pool those that spec.addresses asks for and a pool
// has: files say who has which, as there is nowhere to remember what was given out. At
// most 16 each, the limit of a Gateway's status.
func Assign(r *topology.Resolution, node []netip.Addr) map[types.NamespacedName]topology.Assignment {
	assigned := make(map[types.NamespacedName]topology.Assignment, len(r.Gateways))
	holders := map[netip.Addr]*topology.Parameters{}
	for _, p := range r.OldestFirst() {
		switch {
		case p.Frozen: // it has nothing to keep
			assigned[p.Key] = p.Kept()
		case p.Mode == v1alpha1.AddressModePool:
			assigned[p.Key] = assignRequested(p, holders)
		case p.Mode == v1alpha1.AddressModeNode:
			assigned[p.Key] = assignNode(p, node)
		default:
			assigned[p.Key] = topology.Assignment{Message: fmt.Sprintf("without a cluster nobody serves mode %s; use Node or Pool", p.Mode)}
		}
	}
	return assigned
}

func assignNode(p *topology.Parameters, node []netip.Addr) topology.Assignment {
	assignment := topology.Assignment{NodeMode: true}
	for _, addr := range node {
		wanted := len(p.Families) == 0 || slices.Contains(p.Families, topology.FamilyOf(addr))
		if len(assignment.Addresses) < maxAddresses && wanted && (p.AnyWillDo || slices.Contains(p.Requested, addr)) {
			assignment.Addresses = append(assignment.Addresses, addr)
		}
	}
	switch {
	case len(node) == 0:
		assignment.Message = "this node has no address; give it one, or name one with --node-address"
	case len(p.Gateway.Spec.Addresses) > 0, len(p.Families) > 0:
		assignment.Message = "this node has " + joinAddresses(node)
	}
	return assignment
}

// assignRequested gives what pools admit and no older Gateway has, unless the two share
// it.
func assignRequested(p *topology.Parameters, holders map[netip.Addr]*topology.Parameters) topology.Assignment {
	var assignment topology.Assignment
	for _, addr := range p.Requested {
		pool, _ := p.Admits(addr)
		switch holder := holders[addr]; {
		case pool == nil || slices.Contains(assignment.Addresses, addr) || len(assignment.Addresses) == maxAddresses:
		case holder != nil && !holder.Shares(p):
			assignment.Message = fmt.Sprintf("%s belongs to another Gateway; to share it, give both the label %s", addr, v1alpha1.ShareAddressLabel)
		default:
			holders[addr] = p
			assignment.Addresses = append(assignment.Addresses, addr)
		}
	}
	if p.AnyWillDo && len(p.Wants(assignment.Addresses)) > 0 {
		assignment.Message = "without a cluster nobody gives out addresses; name those of an AddressPool in spec.addresses"
	}
	return assignment
}

func joinAddresses(addresses []netip.Addr) string {
	texts := make([]string, 0, len(addresses))
	for _, a := range addresses {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}
