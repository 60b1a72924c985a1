package topology

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// ControllerName is the GatewayClass.spec.controllerName this project serves.
const ControllerName gatewayv1.GatewayController = "portway.dev/gateway-controller"

// Snapshot is everything a decision may look at. Its maps and objects are never
// mutated by this package and must not be mutated while a Graph made from
// them is in use. EndpointSlices are not part of it: endpoints never change a
// status, they only enter a Forwarder.
//
// TCPRoutes and UDPRoutes of version v1alpha2 are given in their v1 type; only
// there Rules may hold more than one entry.
type Snapshot struct {
	GatewayClasses  map[string]*gatewayv1.GatewayClass
	Gateways        map[types.NamespacedName]*gatewayv1.Gateway
	ListenerSets    map[types.NamespacedName]*gatewayv1.ListenerSet
	TCPRoutes       map[types.NamespacedName]*gatewayv1.TCPRoute
	UDPRoutes       map[types.NamespacedName]*gatewayv1.UDPRoute
	ReferenceGrants map[types.NamespacedName]*gatewayv1.ReferenceGrant
	Namespaces      map[string]*corev1.Namespace
	Services        map[types.NamespacedName]*corev1.Service

	AddressPools      map[string]*v1alpha1.AddressPool
	GatewayParameters map[types.NamespacedName]*v1alpha1.GatewayParameters

	// Addresses are the assigned addresses per Gateway; a Gateway without an
	// entry has none yet (Programmed False/AddressNotAssigned). They are an
	// input: whoever assigns them publishes them, everyone else reads them.
	Addresses map[types.NamespacedName]Assignment

	// NodeAddresses are those at which nodes serve Gateways, for whoever knows all nodes;
	// nil for others, who see by the status what was concluded from them.
	NodeAddresses map[netip.Addr]bool

	// CRDVersions holds, per Gateway API CRD in the cluster, the value of its
	// gateway.networking.k8s.io/bundle-version annotation, empty where the
	// annotation is missing. Nil when nobody looked (YAML files): the
	// SupportedVersion condition is then left out.
	CRDVersions map[string]string
}

// Assignment is the set of addresses a Gateway's listeners bind.
type Assignment struct {
	// NodeMode: the Gateway is reached at the addresses of the nodes. Each node
	// programs its own addresses (Node.Addresses, those of Addresses that it has
	// when the Gateway asked for addresses in its spec); Addresses is what status
	// shows. Ports are then shared with the node itself and with every other
	// Gateway in node mode.
	NodeMode bool
	// LoadBalancer: whoever provides Services of type LoadBalancer has the addresses.
	// Other ports of them, and the addresses themselves, may be somebody else's, too, so
	// that nothing is refused there on behalf of the Gateway.
	LoadBalancer bool
	// Addresses in the order of status, at most 16.
	Addresses []netip.Addr
	// Hostnames follow in the status, in mode LoadBalancer, at most 16 with Addresses.
	Hostnames []string
	// Message says why addresses are missing ("pool public is exhausted") and
	// what would help; shown in the Programmed condition. Optional.
	Message string
}

// empty: the Gateway is reached nowhere.
func (a Assignment) empty() bool { return len(a.Addresses)+len(a.Hostnames) == 0 }

// Config holds what the operator of a node or controller chose. The zero value
// is not useful; start from DefaultConfig.
type Config struct {
	ControllerName gatewayv1.GatewayController
	// Namespace is that of the agents. The Services of Gateways in mode LoadBalancer are
	// there, because a Service selects pods of its own namespace only.
	Namespace string
	// NodePorts are the ports that nodes themselves need: a listener in node mode
	// on one of them is PortUnavailable, for TCP and UDP alike.
	NodePorts []PortRange
	// MaxListeners bounds the listeners served per Gateway, its own and those of
	// its ListenerSets together: entries beyond it are TooManyListeners. Zero is
	// no bound. A Gateway's own listeners (at most 64) are never cut.
	MaxListeners int
	// BundleVersions are the Gateway API releases this project is tested with.
	// Others are served as well as possible (SupportedVersion False).
	BundleVersions []string
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

// DefaultConfig returns the defaults: our controller name, namespace portway-system, and
// as NodePorts SSH (22), etcd (2379-2380), the API server (6443), kubelet, kube-proxy, scheduler
// and controller-manager (10250-10259) and the agents' own ports (7946, 9617); 1024
// listeners per Gateway.
func DefaultConfig() Config {
	return Config{
		ControllerName: ControllerName,
		Namespace:      "portway-system",
		NodePorts:      []PortRange{{22, 22}, {2379, 2380}, {6443, 6443}, {MembersPort, MembersPort}, {AgentPort, AgentPort}, {10250, 10259}},
		MaxListeners:   1024,
		BundleVersions: []string{"v1.5.1", consts.BundleVersion},
	}
}

const (
	// AgentPort is the TCP port of the agent's health and metrics endpoint.
	AgentPort = 9617
	// MembersPort is the TCP and UDP port on which agents talk about who announces which
	// address.
	MembersPort = 7946
)
