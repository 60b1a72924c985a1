package cluster

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// Assigned reads the addresses that the controller has assigned and published in
// the Gateways' statuses. All are in node mode: a node that is none of them yet
// serves a Gateway all the same, unless spec.addresses asks for certain ones.
func Assigned(gateways map[types.NamespacedName]*gatewayv1.Gateway) map[types.NamespacedName]topology.Assignment {
	assigned := make(map[types.NamespacedName]topology.Assignment, len(gateways))
	for key, gateway := range gateways {
		assignment := topology.Assignment{NodeMode: true}
		for _, a := range gateway.Status.Addresses {
			addr, err := netip.ParseAddr(a.Value)
			if ptr.Deref(a.Type, gatewayv1.IPAddressType) == gatewayv1.IPAddressType && err == nil && len(assignment.Addresses) < maxAddresses {
				assignment.Addresses = append(assignment.Addresses, addr.Unmap())
			}
		}
		assigned[key] = assignment
	}
	return assigned
}
