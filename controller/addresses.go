package controller

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// maxAddresses is MaxItems of a Gateway's status.addresses.
const maxAddresses = 16

// assigner gives Gateways their addresses, in one pass.
type assigner struct {
	members []member
	kind    corev1.NodeAddressType // where parameters name none
	nodes   map[nodeTerms]*nodePool
	// pooled are those of Gateways in mode Pool.
	pooled map[types.NamespacedName]topology.Assignment
	// failure is why a Service of ours could not be written, empty if that is not so.
	failure func(service types.NamespacedName) string
}

func newAssigner(members []member, kind corev1.NodeAddressType, pooled map[types.NamespacedName]topology.Assignment) *assigner {
	return &assigner{
		members: members, kind: kind, pooled: pooled, nodes: map[nodeTerms]*nodePool{},
		failure: func(types.NamespacedName) string { return "" },
	}
}

// assign gives every Gateway of our classes its addresses.
func (a *assigner) assign(r *topology.Resolution) map[types.NamespacedName]topology.Assignment {
	assigned := make(map[types.NamespacedName]topology.Assignment, len(r.Gateways))
	for key, parameters := range r.Gateways {
		assigned[key] = a.assignOne(parameters)
	}
	return assigned
}

func (a *assigner) assignOne(p *topology.Parameters) topology.Assignment {
	switch {
	case p.Mode == v1alpha1.AddressModePool:
		return a.pooled[p.Key]
	case p.Frozen:
		return a.keep(p)
	case p.Mode == v1alpha1.AddressModeNode:
		return a.nodePool(p).assign(p)
	default:
		return a.balanced(p)
	}
}

// balanced is what the Gateway's Service shows.
func (a *assigner) balanced(p *topology.Parameters) topology.Assignment {
	assignment := p.Kept()
	if failure := a.failure(p.LoadBalancer.Key); failure != "" {
		assignment.Message = topology.ServiceNotWritten(p.LoadBalancer.Key, failure)
	}
	return assignment
}

// keep leaves a Gateway whose parameters are not known what it has, as long as somebody
// serves it.
func (a *assigner) keep(p *topology.Parameters) topology.Assignment {
	if p.LoadBalancer != nil {
		return a.balanced(p)
	}
	kept := p.Kept()
	if !kept.NodeMode {
		return kept
	}
	internal, external := a.poolOf(nodeTerms{kind: corev1.NodeInternalIP}, nil), a.poolOf(nodeTerms{kind: corev1.NodeExternalIP}, nil)
	kept.Addresses = slices.DeleteFunc(kept.Addresses, func(addr netip.Addr) bool {
		return !internal.keeps[addr] && !external.keeps[addr] && !internal.bound[addr]
	})
	return kept
}
