package cluster

import (
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// Assign gives every Gateway its addresses where no cluster does it: those of
// the node, or of those the ones that spec.addresses asks for. At most 16, the
// limit of a Gateway's status; order is that of the node's addresses.
func Assign(gateways map[types.NamespacedName]*gatewayv1.Gateway, node []netip.Addr) map[types.NamespacedName]topology.Assignment {
	assigned := make(map[types.NamespacedName]topology.Assignment, len(gateways))
	for key, gateway := range gateways {
		assigned[key] = assign(gateway, node)
	}
	return assigned
}

func assign(g *gatewayv1.Gateway, node []netip.Addr) topology.Assignment {
	assignment := topology.Assignment{NodeMode: true}
	for _, addr := range node {
		if len(assignment.Addresses) < maxAddresses && asksFor(g.Spec.Addresses, addr) {
			assignment.Addresses = append(assignment.Addresses, addr)
		}
	}
	switch {
	case len(node) == 0:
		assignment.Message = "this node has no address; give it one, or name one with --node-address"
	case len(g.Spec.Addresses) > 0:
		assignment.Message = "this node has " + joinAddresses(node)
	}
	return assignment
}

// asksFor reports whether an address is among those requested. No request, and
// one without a value, asks for any.
func asksFor(requested []gatewayv1.GatewaySpecAddress, addr netip.Addr) bool {
	return len(requested) == 0 || slices.ContainsFunc(requested, func(r gatewayv1.GatewaySpecAddress) bool {
		if ptr.Deref(r.Type, gatewayv1.IPAddressType) != gatewayv1.IPAddressType {
			return false
		}
		want, err := netip.ParseAddr(r.Value)
		return r.Value == "" || err == nil && want.Unmap() == addr
	})
}

func joinAddresses(addresses []netip.Addr) string {
	texts := make([]string, 0, len(addresses))
	for _, a := range addresses {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}
