package topology

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// gateways returns the Gateways of our classes with their own listeners, each judged by
// itself, oldest first. A Gateway that names a class we do not have belongs to
// someone else.
func (r *Resolution) gateways(assigned map[types.NamespacedName]Assignment) []*Gateway {
	var gateways []*Gateway
	for _, p := range r.OldestFirst() {
		gateway := &Gateway{
			Source: p.Gateway, Key: p.Key, Parameters: p, controller: p.class.Source.Spec.ControllerName, claimed: make(claims),
		}
		gateway.Assignment, gateway.assigned = assigned[p.Key]
		gateway.LoadBalancer = p.LoadBalancer
		gateway.needs, gateway.takes = gateway.places()
		gateway.fault = gatewayFault(p)
		gateway.own, gateway.excess = newListeners(gateway, nil, p.Gateway.Spec.Listeners)
		gateway.Listeners = gateway.own
		gateways = append(gateways, gateway)
	}
	return gateways
}

// gatewayFault finds what rejects a Gateway whatever its listeners are. Without valid
// parameters, or with an address that cannot be one, nobody knows where it is to be reached; but one that has addresses is
// reached there, and an object that somebody deletes must not end that. The API is
// silent on classes that are no longer accepted, beyond that they are templates.
func gatewayFault(p *Parameters) fault {
	switch {
	case !p.Frozen || !p.Kept().empty():
		return fault{}
	case !p.class.Accepted:
		return classNotAccepted(p.class)
	default:
		return p.fault
	}
}

// addressTypeFault finds an entry of spec.addresses of a type that is not served.
func addressTypeFault(g *gatewayv1.Gateway) fault {
	for i, address := range g.Spec.Addresses {
		if kind := ptr.Deref(address.Type, gatewayv1.IPAddressType); kind != gatewayv1.IPAddressType {
			return addressTypeUnsupported(i, kind)
		}
	}
	return fault{}
}

// admitOwn decides on the Gateway's own listeners and with that whether it is
// accepted: one valid listener suffices. Listeners of sets do not count, sets
// have an Accepted condition of their own (GEP-1713, "Gateway Conditions").
func (g *Gateway) admitOwn(bound *bindings) {
	if g.fault.exists() {
		rejectAll(g.own, parentNotAccepted(g))
		return
	}
	rejectConflicts(g.own, g.claimed)
	for _, listener := range g.own {
		bound.admit(listener)
	}
	g.admitted = countValid(g.own)
	g.Accepted = g.admitted > 0
}

// unusableAddress returns the index of the first spec.addresses entry that asks
// for an address the Gateway was not assigned, -1 without one. An empty value
// asks for any address.
func (g *Gateway) unusableAddress() int { return g.Parameters.refused(g.Assignment.Addresses) }

// lacksAddress: there is none, or none of a family that was asked for.
func (g *Gateway) lacksAddress() bool {
	return g.Assignment.empty() || g.lacksFamily() != "" ||
		g.Parameters.Mode == v1alpha1.AddressModePool && len(g.Parameters.Wants(g.Assignment.Addresses)) > 0
}

// requestsAddresses: the spec asks for certain addresses, so that in node mode only
// those are bound and not every address of a node. An entry without a value asks
// for any.
func (g *Gateway) requestsAddresses() bool {
	return len(g.Source.Spec.Addresses) > 0 && !slices.ContainsFunc(g.Source.Spec.Addresses, func(a gatewayv1.GatewaySpecAddress) bool {
		return a.Value == ""
	})
}

// chooseWinners gives every valid listener its oldest route. TCP and UDP know no
// matching within a port, so one route takes all (Gateway API, "Conflicts").
func (g *Gateway) chooseWinners() {
	for _, listener := range g.Listeners {
		if listener.Valid && len(listener.Attached) > 0 {
			listener.Winner = listener.Attached[0]
		}
	}
}

func objectKey(namespace *gatewayv1.Namespace, name gatewayv1.ObjectName, home string) types.NamespacedName {
	return types.NamespacedName{Namespace: string(ptr.Deref(namespace, gatewayv1.Namespace(home))), Name: string(name)}
}
