package topology

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Resolution is what is decided before any address is assigned: which pools there are,
// and where each Gateway may have its addresses from. Whoever assigns addresses, or
// reads those that were assigned, asks it; Build goes on from it. Immutable, and safe
// for concurrent use.
type Resolution struct {
	Pools map[string]*Pool
	// Gateways are those of classes of ours.
	Gateways map[types.NamespacedName]*Parameters

	byName   []*Pool // Pools in the order of their names
	classes  map[string]*GatewayClass
	snapshot Snapshot
	config   Config
}

// Resolve reads of a Snapshot everything but its Addresses. It costs little enough for
// every pass: pools are few, and what Gateways may use is found once for all that are
// alike.
func Resolve(s Snapshot, c Config) *Resolution {
	r := &Resolution{
		Pools: poolsOf(s.AddressPools), Gateways: make(map[types.NamespacedName]*Parameters, len(s.Gateways)),
		snapshot: s, config: c,
	}
	r.byName = slices.SortedFunc(maps.Values(r.Pools), func(a, b *Pool) int { return strings.Compare(a.Name, b.Name) })
	all := &choiceIndex{sources: s.GatewayParameters, read: map[types.NamespacedName]*choice{}}
	r.classes = gatewayClasses(s, c, all, r.Pools)
	found := map[entitlementKey]*entitlement{}
	for key, source := range s.Gateways {
		if class, ours := r.classes[string(source.Spec.GatewayClassName)]; ours {
			p := newParameters(r, source, key, class, all)
			p.entitle(found)
			p.settleMode()
			r.Gateways[key] = p
		}
	}
	return r
}

// OldestFirst returns the Parameters of all Gateways in the order of precedence.
func (r *Resolution) OldestFirst() []*Parameters {
	return slices.SortedFunc(maps.Values(r.Gateways), func(a, b *Parameters) int { return compareAge(a.age(), b.age()) })
}

// Parameters are where one Gateway is reached: what its class demands, and what it chose
// itself of what the class permits. Immutable.
type Parameters struct {
	Gateway *gatewayv1.Gateway
	Key     types.NamespacedName
	Mode    v1alpha1.AddressMode
	// Frozen: the parameters of the class or of the Gateway are missing or invalid, or
	// spec.addresses has a type that there is not. It keeps what it has, and gets
	// nothing. Mode is then that in which it got its addresses.
	Frozen bool
	// Families it has addresses of. Empty: as said for GatewayParameters.spec.ipFamilies.
	Families []corev1.IPFamily
	// Nodes whose addresses are published in mode Node; nil: all.
	Nodes labels.Selector
	// NodeAddressType in mode Node; empty: as the controller was told.
	NodeAddressType v1alpha1.NodeAddressType
	// LoadBalancerClass in mode LoadBalancer; may be empty.
	LoadBalancerClass string
	// LoadBalancer is the Service in front of the Gateway in mode LoadBalancer, else nil.
	LoadBalancer *LoadBalancer

	// Requested are the addresses that spec.addresses names, in its order.
	Requested []netip.Addr
	// AnyWillDo: other addresses than those do as well, as spec.addresses is empty or
	// has an entry without a value.
	AnyWillDo bool
	// Published are the addresses that the status shows, at most 16.
	Published []netip.Addr
	// Recorded is the mode in which they were given, empty where there are none.
	Recorded v1alpha1.AddressMode

	of       *Resolution
	class    *GatewayClass
	own      *choice // nil: none, or not to be followed
	fault    fault   // of its own parameters, else of a type in spec.addresses
	known    bool    // the parameters are
	entitled *entitlement
}

func (p *Parameters) age() age { return newAge(p.Gateway.CreationTimestamp, p.Key) }

// Shares reports whether two Gateways may have the same address: they ask for it with
// v1alpha1.ShareAddressLabel.
func (p *Parameters) Shares(other *Parameters) bool {
	value := p.Gateway.Labels[v1alpha1.ShareAddressLabel]
	return value != "" && value == other.Gateway.Labels[v1alpha1.ShareAddressLabel] && p.Key.Namespace == other.Key.Namespace
}

func newParameters(r *Resolution, source *gatewayv1.Gateway, key types.NamespacedName, class *GatewayClass, all *choiceIndex) *Parameters {
	t := class.terms
	p := &Parameters{
		Gateway: source, Key: key, Mode: t.mode, Families: t.spec.IPFamilies, Nodes: t.nodes,
		NodeAddressType: t.spec.NodeAddressType, LoadBalancerClass: t.spec.LoadBalancerClass,
		of: r, class: class,
	}
	p.readAddresses()
	infrastructure := ptr.Deref(source.Spec.Infrastructure, gatewayv1.GatewayInfrastructure{})
	if ref := infrastructure.ParametersRef; ref != nil && class.Accepted {
		p.choose(ref, all)
	}
	p.known = class.Accepted && !p.fault.exists()
	if !p.fault.exists() {
		p.fault = addressTypeFault(source)
	}
	p.Frozen = !p.known || p.fault.exists()
	return p
}

// choose takes over what the Gateway's own parameters say.
func (p *Parameters) choose(ref *gatewayv1.LocalParametersReference, all *choiceIndex) {
	if string(ref.Group) != v1alpha1.GroupName || ref.Kind != KindGatewayParameters {
		p.fault = gatewayParametersUnsupported(ref)
		return
	}
	key := types.NamespacedName{Namespace: p.Key.Namespace, Name: ref.Name}
	own := all.find(key)
	if own == nil {
		p.fault = gatewayParametersMissing(key)
		return
	}
	if wrong := p.class.terms.objection(own, p.of.Pools); wrong.exists() {
		p.fault = gatewayParametersInvalid(own.name, wrong)
		return
	}
	p.own = own
	if own.spec.Mode != "" {
		p.Mode = own.spec.Mode
	}
	if len(own.spec.IPFamilies) > 0 {
		p.Families = own.spec.IPFamilies
	}
	if own.nodes != nil {
		p.Nodes = both(p.Nodes, own.nodes)
	}
}

// poolName is the pool that its own parameters name, or else its class; empty: none.
func (p *Parameters) poolName() string {
	if p.own != nil && p.own.spec.Pool != "" {
		return p.own.spec.Pool
	}
	return p.class.terms.spec.Pool
}

// both selects what two selectors do, the first of which may be nil.
func both(a, b labels.Selector) labels.Selector {
	if a == nil {
		return b
	}
	requirements, selectable := b.Requirements()
	if !selectable {
		return b
	}
	return a.Add(requirements...)
}

func (p *Parameters) readAddresses() {
	p.AnyWillDo = len(p.Gateway.Spec.Addresses) == 0
	for _, entry := range p.Gateway.Spec.Addresses {
		if ptr.Deref(entry.Type, gatewayv1.IPAddressType) != gatewayv1.IPAddressType {
			continue
		}
		if entry.Value == "" {
			p.AnyWillDo = true
		} else if addr, err := netip.ParseAddr(entry.Value); err == nil {
			p.Requested = append(p.Requested, addr.Unmap())
		}
	}
	p.Published, p.Recorded = PublishedAddresses(p.Gateway), RecordedMode(p.Gateway)
}

// PublishedAddresses returns the addresses that a Gateway's status shows, at most 16.
func PublishedAddresses(g *gatewayv1.Gateway) []netip.Addr {
	var addresses []netip.Addr
	for _, entry := range g.Status.Addresses {
		addr, err := netip.ParseAddr(entry.Value)
		if err == nil && ptr.Deref(entry.Type, gatewayv1.IPAddressType) == gatewayv1.IPAddressType && len(addresses) < maxStatusAddresses {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses
}

// settleMode finds the mode that the addresses speak for: of a Gateway whose parameters
// are not known, those it has; else those it asks for.
func (p *Parameters) settleMode() {
	if p.Frozen {
		p.Mode = p.frozenMode()
	} else {
		p.Mode = p.requestedMode()
	}
	if p.Mode != v1alpha1.AddressModeNode || p.Frozen {
		p.Nodes, p.NodeAddressType = nil, ""
	}
	if p.Mode == v1alpha1.AddressModeLoadBalancer {
		p.LoadBalancer = p.of.loadBalancer(p)
	}
	if p.Mode != v1alpha1.AddressModeLoadBalancer || p.Frozen {
		p.LoadBalancerClass = ""
	}
	if p.Frozen {
		p.Families = nil
	}
}

// requestedMode is the mode that spec.addresses speaks for: another one than that of the
// parameters if all are of that, and the class permits it. A Gateway that has addresses
// of pools stays there until all that it asks for are others: a typing mistake is not to
// cost it what it has, and neither is a class that permits mode Pool no more.
func (p *Parameters) requestedMode() v1alpha1.AddressMode {
	const node, pool = v1alpha1.AddressModeNode, v1alpha1.AddressModePool
	permits := func(mode v1alpha1.AddressMode) bool { return slices.Contains(p.class.terms.modes, mode) }
	asks := len(p.Requested) > 0 && len(p.Requested) == len(p.Gateway.Spec.Addresses)
	pooled := slices.ContainsFunc(p.Published, p.Keeps) && (permits(pool) || slices.ContainsFunc(p.Requested, p.Keeps))
	switch {
	case p.Mode != node && p.Mode != pool, !p.namesAddresses():
		return p.Mode
	case pooled && asks && permits(node) && !slices.ContainsFunc(p.Requested, p.ofNoNode):
		return node
	case pooled:
		return pool
	case asks && p.Mode == node && permits(pool) && !slices.ContainsFunc(p.Requested, p.outside):
		return pool
	case asks && p.Mode == pool && permits(node) && !slices.ContainsFunc(p.Requested, p.inside):
		return node
	}
	return p.Mode
}

// ofNoNode: the address is of a pool, or no node is known to have it.
func (p *Parameters) ofNoNode(addr netip.Addr) bool {
	return p.inside(addr) || !p.of.snapshot.NodeAddresses[addr]
}

// namesAddresses: spec.addresses has an entry that is not only "any".
func (p *Parameters) namesAddresses() bool {
	return slices.ContainsFunc(p.Gateway.Spec.Addresses, func(entry gatewayv1.GatewaySpecAddress) bool { return entry.Value != "" })
}

// frozenMode is the mode in which a Gateway got what it has: its addresses, or the Service
// that waits for some. Never another one, whatever pools have come to hold: in mode Node
// ports of the nodes are not to be had, and in the others every node serves every address.
func (p *Parameters) frozenMode() v1alpha1.AddressMode {
	switch {
	case p.Recorded != "":
		return p.Recorded
	case p.of.loadBalancer(p).Source != nil:
		return v1alpha1.AddressModeLoadBalancer
	default:
		return v1alpha1.AddressModeNode
	}
}

// inside reports whether an address is, or was, of a pool that the Gateway may use. What
// it has got otherwise is not, even where a pool covers it by now.
func (p *Parameters) inside(addr netip.Addr) bool {
	if slices.Contains(p.Published, addr) {
		return p.Keeps(addr)
	}
	return slices.ContainsFunc(p.entitled.usable, func(pool *Pool) bool { return pool.Held.Contains(addr) })
}

func (p *Parameters) outside(addr netip.Addr) bool { return !p.inside(addr) }

// entitlement is which pools Gateways may use that are of one class and namespace and
// name the same pool, or none. Both lists are in the order of names and hold pools that
// give nothing at present.
type entitlement struct {
	// draws are those of which a Gateway gets addresses that it does not name.
	draws []*Pool
	// usable are those of which it may name addresses.
	usable []*Pool
}

type entitlementKey struct {
	class     *GatewayClass
	named     string // by the Gateway's own parameters
	namespace string
}

// entitle finds the pools that the Gateway may use: none with parameters that are not
// known, or of a class that does not permit mode Pool.
func (p *Parameters) entitle(found map[entitlementKey]*entitlement) {
	if !p.known || !slices.Contains(p.class.terms.modes, v1alpha1.AddressModePool) {
		p.entitled = &entitlement{}
		return
	}
	key := entitlementKey{class: p.class, namespace: p.Key.Namespace}
	if p.own != nil {
		key.named = p.own.spec.Pool
	}
	if p.entitled = found[key]; p.entitled != nil {
		return
	}
	e, named := &entitlement{}, p.poolName()
	for _, pool := range p.of.byName {
		if key.named != "" && pool.Name != key.named || !p.class.terms.permits(pool) || !pool.admits(key.namespace, p.of.snapshot.Namespaces) {
			continue
		}
		e.usable = append(e.usable, pool)
		if pool.Name == named || named == "" && pool.autoAssign {
			e.draws = append(e.draws, pool)
		}
	}
	found[key], p.entitled = e, e
}
