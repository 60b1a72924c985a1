package topology

import (
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// An address does not tell where it is from: a pool may cover the network of the nodes,
// or what a provider of load balancers has. So the mode in which addresses were given is
// written beside them, in one status, and everybody who reads them goes by that.

// RecordedMode returns the mode in which a Gateway got the addresses that its status
// shows: ConditionAddressMode tells, and without it they are those of nodes. Empty where
// it shows none.
func RecordedMode(g *gatewayv1.Gateway) v1alpha1.AddressMode {
	if len(g.Status.Addresses) == 0 {
		return ""
	}
	for i := range g.Status.Conditions {
		c := &g.Status.Conditions[i]
		if c.Type != ConditionAddressMode || c.Status != metav1.ConditionTrue {
			continue
		}
		if mode := v1alpha1.AddressMode(c.Reason); mode == v1alpha1.AddressModePool || mode == v1alpha1.AddressModeLoadBalancer {
			return mode
		}
	}
	return v1alpha1.AddressModeNode
}

// record returns what is to be written beside the addresses of the Gateway. It is there
// for as long as they are, whatever is wrong with the Gateway or its parameters.
func (g *Gateway) record() []Condition {
	switch mode := g.Parameters.Mode; {
	case g.Assignment.empty() || g.Assignment.NodeMode || mode == v1alpha1.AddressModeNode:
		return nil
	case mode == v1alpha1.AddressModeLoadBalancer:
		return []Condition{addressMode(mode, "Service "+g.LoadBalancer.Key.String())}
	default:
		return []Condition{addressMode(mode, g.Parameters.origin(g.Assignment.Addresses))}
	}
}

// origin names the pools that addresses are of, or were.
func (p *Parameters) origin(addrs []netip.Addr) string {
	var pools []string
	for _, addr := range addrs {
		if pool := p.holder(addr.Unmap()); pool != nil && !slices.Contains(pools, pool.Name) {
			pools = append(pools, pool.Name)
		}
	}
	slices.Sort(pools)
	return "AddressPool " + atMost(3, pools)
}
