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
	services  map[claim]age // by their NodePorts
	taken     map[binding]*Listener
}

type binding struct {
	place
	claim
}

// place is where a port can be taken.
type place struct {
	scope scope
	addr  netip.Addr // of scope oneAddress
}

type scope uint8

const (
	oneAddress scope = iota
	// allNodes: every address of every node, whichever nodes there are.
	allNodes
	// someNodes: some addresses of nodes, besides being taken one by one.
	someNodes
)

// places returns what has to be free for an assignment, and what it takes.
// Gateways that ask for different addresses of the nodes do not meet; one that is
// reached at all of them meets everyone who is reached at any.
func (g *Gateway) places() (needs, takes []place) {
	switch {
	case !g.Assignment.NodeMode:
	case g.requestsAddresses():
		needs, takes = []place{{scope: allNodes}}, []place{{scope: someNodes}}
	default:
		needs, takes = []place{{scope: allNodes}, {scope: someNodes}}, []place{{scope: allNodes}}
	}
	for _, addr := range g.boundAddresses() {
		one := place{oneAddress, addr.Unmap()}
		needs, takes = append(needs, one), append(takes, one)
	}
	return needs, takes
}

// boundAddresses are those at which nodes take packets for the Gateway, besides their own.
func (g *Gateway) boundAddresses() []netip.Addr {
	if g.LoadBalancer != nil {
		return g.LoadBalancer.Routed
	}
	return g.Assignment.Addresses
}

func newBindings(s Snapshot, c Config) *bindings {
	return &bindings{nodePorts: c.NodePorts, services: nodePortServices(s.Services, c), taken: make(map[binding]*Listener)}
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
		if b.admitBesideNodePorts(l); !l.Valid {
			return
		}
	}
	wanted := binding{claim: claim{l.Protocol, l.Port}}
	for _, wanted.place = range l.Gateway.needs {
		if holder, taken := b.taken[wanted]; taken {
			l.reject(portTaken(l, holder, wanted.addr))
			return
		}
	}
	if !b.admitNodePort(l) {
		return
	}
	for _, wanted.place = range l.Gateway.takes {
		if _, taken := b.taken[wanted]; !taken { // someNodes may be taken by several
			b.taken[wanted] = l
		}
	}
}
