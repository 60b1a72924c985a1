package topology

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/rules"
)

// Graph is the decision: every object of the Snapshot that is ours, what is
// attached to what, what is wrong, and which route wins each listener. It is
// immutable once built.
type Graph struct {
	Classes      map[string]*GatewayClass
	Gateways     map[types.NamespacedName]*Gateway
	ListenerSets map[types.NamespacedName]*ListenerSet
	Routes       map[RouteKey]*Route
	Pools        map[string]*Pool
	// Uses are what Gateways have of each pool, by its name; of no pool that nobody uses.
	Uses map[string]PoolUse
	// Orphans are, by name, the Services of ours that no Gateway has any more. They mean
	// nothing while objects may be missing that only could not be read.
	Orphans []*corev1.Service

	reserved reserved
}

// GatewayClass is a class that names our controller.
type GatewayClass struct {
	Source     *gatewayv1.GatewayClass
	Accepted   bool
	Conditions []Condition

	terms *terms
	fault fault
}

// Gateway is a Gateway of one of our classes. One whose class is not accepted is
// here too: if it has no addresses it is not accepted, and its status must not go on
// saying that it is served.
type Gateway struct {
	Source *gatewayv1.Gateway
	Key    types.NamespacedName
	// Accepted: its listeners are served. So are those of a Gateway with addresses whose
	// own parameters are invalid, although its condition is False.
	Accepted bool
	// Parameters are where its addresses come from.
	Parameters *Parameters
	// Listeners are the Gateway's own in the order of the spec, then those of its
	// accepted ListenerSets in the order of precedence.
	Listeners []*Listener
	// Assignment is where the listeners are reached; nothing is programmed while
	// it holds no address that this Gateway may use.
	Assignment Assignment
	// LoadBalancer is the Service in front of it in mode LoadBalancer, else nil.
	LoadBalancer *LoadBalancer
	// Digest identifies the configuration nodes have to prove: listeners, winners,
	// backendRefs with weights and the policies of their Services, and assigned
	// addresses, and in mode LoadBalancer node ports; no endpoints, no node-mode addresses. It carries a version prefix ("1:…"). Empty while the Gateway is
	// not accepted: there is nothing to prove.
	Digest string
	// AttachedListenerSets counts the sets whose Accepted condition is True.
	AttachedListenerSets int32
	Conditions           []Condition // all but Programmed

	controller gatewayv1.GatewayController // of its class
	own        []*Listener                 // the head of Listeners: those of the spec
	excess     int                         // listeners of the spec beyond maxListeners, which are left out
	sets       []*ListenerSet              // by precedence, also those that are not accepted
	needs      []place                     // where its ports must be free
	takes      []place                     // where they are then taken
	assigned   bool                        // the Snapshot has an Assignment, be it an empty one
	claimed    claims                      // by valid listeners so far
	admitted   int                         // valid listeners so far
	fault      fault                       // of the Gateway itself, not of its listeners
}

// ListenerSet is a ListenerSet whose parent is one of our Gateways.
type ListenerSet struct {
	Source     *gatewayv1.ListenerSet
	Key        types.NamespacedName
	Gateway    *Gateway
	Accepted   bool
	Listeners  []*Listener // in the order of the spec, also when the set is not accepted
	Conditions []Condition // all but Programmed

	excess int // entries of the spec beyond maxListeners, which are left out
	fault  fault
}

// Listener is one listener of a Gateway or one entry of a ListenerSet.
type Listener struct {
	Gateway  *Gateway
	Set      *ListenerSet // nil for the Gateway's own
	Name     gatewayv1.SectionName
	Port     uint16
	Protocol gatewayv1.ProtocolType
	// SupportedKinds is what status shows; empty when the protocol or every kind
	// named in allowedRoutes is not supported.
	SupportedKinds []gatewayv1.RouteGroupKind
	// Valid: the listener is accepted and programmed. Never true while its Gateway
	// or ListenerSet is not accepted.
	Valid bool
	// Attached routes in the order of precedence: oldest first, then by
	// namespace/name. Counted in status whether the listener is valid or not.
	Attached []*Route
	// Winner is Attached[0], the one route that carries traffic; nil without one
	// or while the listener is not valid.
	Winner     *Route
	Conditions []Condition // all but Programmed

	index      int // in spec.listeners of its owner
	fault      fault
	loses      bool  // its node port, which is why it is not valid
	kindsFault fault // of allowedRoutes.kinds; does not make the listener invalid
	namespaces namespacePolicy
	outranked  types.NamespacedName // a younger Service with the same NodePort
}

// RouteKey identifies a route of either kind.
type RouteKey struct {
	Kind gatewayv1.Kind // TCPRoute or UDPRoute
	types.NamespacedName
}

// Route is a TCPRoute or UDPRoute with at least one parent of ours.
type Route struct {
	Key      RouteKey
	Object   RouteObject
	Backends []BackendRef // of the one rule, in the order of the spec
	Parents  []*RouteParent

	backendFaults []fault
}

// RouteParent is the outcome for one parentRef that names a parent of ours.
type RouteParent struct {
	Ref        gatewayv1.ParentReference // as written in the route
	Gateway    *Gateway                  // the parent, or the parent of Set
	Set        *ListenerSet              // nil when the parent is the Gateway itself
	Accepted   bool
	Listeners  []*Listener // those it is attached to
	Conditions []Condition

	fault fault
}

// BackendRef is one resolved backendRef.
type BackendRef struct {
	Service types.NamespacedName
	// Port is the Service port's number, PortName its name: endpoints are found
	// by the name, which is how EndpointSlices refer to it. PortName is empty for
	// an unnamed port.
	Port     int32
	PortName string
	Weight   int32
	// LocalOnly: the Service's externalTrafficPolicy is Local; each node uses only
	// the endpoints that run on it.
	LocalOnly bool
	// ClientAffinity: the Service's sessionAffinity is ClientIP.
	ClientAffinity bool
	// Valid: kind, grant, Service, port and protocol resolve. Traffic of an invalid
	// reference is refused in proportion to its weight.
	Valid bool
}

// TransportProtocol returns the listener's protocol as the kernel knows it; ok is false
// for protocols this project does not serve.
func (l *Listener) TransportProtocol() (p rules.Protocol, ok bool) {
	switch l.Protocol {
	case gatewayv1.TCPProtocolType:
		return rules.TCP, true
	case gatewayv1.UDPProtocolType:
		return rules.UDP, true
	default:
		return 0, false
	}
}

// Node is the node a Forwarder works for.
type Node struct {
	Name      string
	Zone      string       // its label topology.kubernetes.io/zone; empty: hints for zones are not used
	Addresses []netip.Addr // both families, no duplicates
}
