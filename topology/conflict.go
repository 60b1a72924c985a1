package topology

import (
	"net/netip"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// claim is what has to be distinct among the listeners of one Gateway and its
// ListenerSets: TCP and UDP tell listeners apart by port alone
// (GatewaySpec.Listeners, "Distinct Listeners"). TCP and UDP on one port are
// distinct, and so is a TCP listener from one of a protocol we do not serve.
type claim struct {
	protocol gatewayv1.ProtocolType
	port     uint16
}

// claims holds the first listener of each claim. Listeners that are not
// acceptable by themselves claim nothing.
type claims map[claim]*Listener

// rejectConflicts rejects listeners of one Gateway or ListenerSet whose claim is
// taken. Between sources precedence decides and the earlier one stays as it is.
// Inside one source nobody is picked and all lose ("MUST NOT pick one
// conflicting Listener as the winner"), yet the claim stays theirs: mending
// that Gateway must not first take a port away from someone else.
func rejectConflicts(listeners []*Listener, claimed claims) {
	for _, l := range listeners {
		if !l.Valid {
			continue
		}
		key := claim{l.Protocol, l.Port}
		holder, taken := claimed[key]
		switch {
		case !taken:
			claimed[key] = l
		case holder.Set == l.Set:
			holder.reject(indistinct(holder, l))
			l.reject(indistinct(l, holder))
		default:
			l.reject(precededBy(l, holder))
		}
	}
}

func (l *Listener) conflicted() bool {
	return l.fault.reason == string(gatewayv1.ListenerReasonProtocolConflict)
}

// bindings is who has which port of which address, across all Gateways.
type bindings struct {
	nodePorts []PortRange
	taken     map[binding]*Listener
}

type binding struct {
	addr netip.Addr // zero: the addresses of the nodes
	claim
}

func newBindings(c Config) *bindings {
	return &bindings{nodePorts: c.NodePorts, taken: make(map[binding]*Listener)}
}

// admit binds a valid listener to every address of its Gateway, or rejects it
// when one of these ports is not free: all listeners must be available on all
// addresses (GatewaySpec.Addresses). Callers come oldest Gateway first.
func (b *bindings) admit(l *Listener) {
	if !l.Valid {
		return
	}
	if l.Gateway.Assignment.NodeMode {
		for _, ports := range b.nodePorts {
			if ports.First <= l.Port && l.Port <= ports.Last {
				l.reject(nodePort(l))
				return
			}
		}
	}
	addrs := l.Gateway.binds
	wanted := binding{claim: claim{l.Protocol, l.Port}}
	for _, addr := range addrs {
		wanted.addr = addr
		if holder, taken := b.taken[wanted]; taken {
			l.reject(portTaken(l, holder, addr))
			return
		}
	}
	for _, addr := range addrs {
		wanted.addr = addr
		b.taken[wanted] = l
	}
}
