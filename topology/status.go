package topology

import (
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Condition is a condition as a value: the generation it was observed at is that
// of the object it is written to, its transition time is the writer's business.
type Condition struct {
	Type    string
	Status  metav1.ConditionStatus
	Reason  string
	Message string
}

// Reports is what the nodes have proven. It is the only source of Programmed.
type Reports struct {
	// NotEvaluated: nobody was asked (portwayctl check). Programmed is then
	// Unknown/Pending with a message that says so.
	NotEvaluated bool
	// Nodes that count: ready nodes that run an agent, in any order. None →
	// False/NoResources.
	Nodes []NodeReport
	// Silent names, in order, those of Nodes whose agent is not heard of: their rules
	// stand, but nobody looks after them.
	Silent []string
	// Away are nodes that are not ready, or no longer run an agent, in any order. They may
	// still answer for addresses: a node that the API server has lost keeps them.
	Away []AwayNode
}

// AwayNode is what a node said before it was lost.
type AwayNode struct {
	Node      string
	Announces []netip.Addr
}

// NodeReport is what one node has proven.
type NodeReport struct {
	Node string
	// Committed is, per Gateway, the digest whose rules are in this node's kernel.
	Committed map[types.NamespacedName]string
	// Missing takes Gateways out of Committed again. Nodes may so share the two maps
	// with all that have proven the same, which are then looked at once.
	Missing map[types.NamespacedName]bool
	// Errors is, per Gateway, why the current digest is not; may be absent while a
	// node is merely behind.
	Errors map[types.NamespacedName]string
	// Announces are the addresses of pools that this node answers for.
	Announces []netip.Addr
	// Findings about the node, in any order.
	Findings []Finding
	// Unheard is why nothing newer is known of any Gateway, empty if that is not so:
	// AgentNotReported, AgentSilent, AgentNotUnderstood.
	Unheard string
}

// Statuses are the complete statuses of all objects of ours, ready to be
// compared with what the API holds. Conditions have no LastTransitionTime and
// do not include those of others. An object that is not in here, such as a route
// whose last parent of ours went, gets nothing from us: the writer removes the
// entries of our controller that it still finds there.
type Statuses struct {
	GatewayClasses map[string]gatewayv1.GatewayClassStatus
	Gateways       map[types.NamespacedName]gatewayv1.GatewayStatus
	ListenerSets   map[types.NamespacedName]gatewayv1.ListenerSetStatus
	// Routes hold the entries of our own controller only.
	Routes map[RouteKey]gatewayv1.RouteStatus
	// AddressPools are all of them. What they retain is said of the Gateways that the
	// Graph has: it must not be written while some could not be read.
	AddressPools map[string]v1alpha1.AddressPoolStatus
	// Waiting are the Gateways that wait for nodes.
	Waiting map[types.NamespacedName]*Waiting
}

// maxStatusAddresses is MaxItems of GatewayStatus.Addresses.
const maxStatusAddresses = 16

// Statuses returns the status of every object of the Graph, given what the nodes
// have proven. Safe for concurrent use.
func (g *Graph) Statuses(r Reports) Statuses {
	s := Statuses{
		GatewayClasses: make(map[string]gatewayv1.GatewayClassStatus, len(g.Classes)),
		Gateways:       make(map[types.NamespacedName]gatewayv1.GatewayStatus, len(g.Gateways)),
		ListenerSets:   make(map[types.NamespacedName]gatewayv1.ListenerSetStatus, len(g.ListenerSets)),
		Routes:         make(map[RouteKey]gatewayv1.RouteStatus, len(g.Routes)),
		AddressPools:   make(map[string]v1alpha1.AddressPoolStatus, len(g.Pools)),
		Waiting:        map[types.NamespacedName]*Waiting{},
	}
	for name, pool := range g.Pools {
		s.AddressPools[name] = pool.status(g.Uses[name])
	}
	for name, class := range g.Classes {
		s.GatewayClasses[name] = gatewayv1.GatewayClassStatus{
			Conditions:        observed(class.Source.Generation, class.Conditions),
			SupportedFeatures: publishedFeatures(),
		}
	}
	fleet, findings, announcers := newFleet(r), newFindings(r.Nodes), newAnnouncers(r)
	for key, gateway := range g.Gateways {
		programmed, waiting := gateway.programmed(fleet)
		if waiting != nil {
			s.Waiting[key] = waiting
		}
		s.Gateways[key] = gateway.status(programmed, findings, announcers.ofGateway(gateway))
		for _, set := range gateway.sets {
			s.ListenerSets[set.Key] = set.status(programmed, findings)
		}
	}
	for key, route := range g.Routes {
		s.Routes[key] = route.status()
	}
	return s
}

// status shows the assigned addresses even while the Gateway is not accepted:
// they stay its own, and whoever points there is better off with a stable answer
// than with one that goes away over a typing error.
func (g *Gateway) status(programmed Condition, f findings, more []Condition) gatewayv1.GatewayStatus {
	status := gatewayv1.GatewayStatus{
		Conditions:           observed(g.Source.Generation, g.Conditions, append(append(f.ofGateway(g), more...), programmed)...),
		Listeners:            make([]gatewayv1.ListenerStatus, 0, len(g.own)),
		AttachedListenerSets: ptr.To(g.AttachedListenerSets),
	}
	for _, addr := range g.Assignment.Addresses[:min(len(g.Assignment.Addresses), maxStatusAddresses)] {
		status.Addresses = append(status.Addresses, gatewayv1.GatewayStatusAddress{
			Type: ptr.To(gatewayv1.IPAddressType), Value: addr.Unmap().String(),
		})
	}
	for _, name := range g.Assignment.Hostnames[:min(len(g.Assignment.Hostnames), maxStatusAddresses-len(status.Addresses))] {
		status.Addresses = append(status.Addresses, gatewayv1.GatewayStatusAddress{Type: ptr.To(gatewayv1.HostnameAddressType), Value: name})
	}
	for _, listener := range g.own {
		status.Listeners = append(status.Listeners, gatewayv1.ListenerStatus{
			Name:           listener.Name,
			SupportedKinds: slices.Clone(listener.SupportedKinds),
			AttachedRoutes: int32(len(listener.Attached)),
			Conditions:     observed(g.Source.Generation, listener.Conditions, append(f.ofListener(listener), listener.programmed(programmed))...),
		})
	}
	return status
}

func (s *ListenerSet) status(gateway Condition, f findings) gatewayv1.ListenerSetStatus {
	status := gatewayv1.ListenerSetStatus{
		Conditions: observed(s.Source.Generation, s.Conditions, s.programmed(gateway)),
		Listeners:  make([]gatewayv1.ListenerEntryStatus, 0, len(s.Listeners)),
	}
	for _, listener := range s.Listeners {
		entry := gatewayv1.ListenerEntryStatus{
			Name:           listener.Name,
			AttachedRoutes: int32(len(listener.Attached)),
			Conditions:     observed(s.Source.Generation, listener.Conditions, append(f.ofListener(listener), listener.programmed(gateway))...),
		}
		if len(listener.SupportedKinds) > 0 { // the API leaves an empty list out here
			entry.SupportedKinds = slices.Clone(listener.SupportedKinds)
		}
		status.Listeners = append(status.Listeners, entry)
	}
	return status
}

func (r *Route) status() gatewayv1.RouteStatus {
	status := gatewayv1.RouteStatus{Parents: make([]gatewayv1.RouteParentStatus, 0, len(r.Parents))}
	for _, parent := range r.Parents {
		status.Parents = append(status.Parents, gatewayv1.RouteParentStatus{
			ParentRef:      parent.Ref,
			ControllerName: parent.Gateway.controller,
			Conditions:     observed(r.Object.Meta.Generation, parent.Conditions),
		})
	}
	return status
}

// observed makes API conditions, observed at the generation of the object they
// are written to.
func observed(generation int64, conditions []Condition, more ...Condition) []metav1.Condition {
	made := make([]metav1.Condition, 0, len(conditions)+len(more))
	for _, list := range [][]Condition{conditions, more} {
		for _, c := range list {
			made = append(made, metav1.Condition{
				Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message, ObservedGeneration: generation,
			})
		}
	}
	return made
}
