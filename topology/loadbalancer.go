package topology

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// LoadBalancer is the Service of type LoadBalancer in front of a Gateway, as it is at
// present; Gateway.Service says what it has to be. Immutable.
type LoadBalancer struct {
	// Key is what the Service is called, or will be.
	Key types.NamespacedName
	// Source is nil while there is none of this Gateway.
	Source *corev1.Service
	// Routed are the addresses that packets still have when they reach a node. What is
	// sent to others comes from a proxy, to a node port.
	Routed []netip.Addr

	foreign   bool             // a Service that is not of this Gateway has the name
	addresses []netip.Addr     // at most 16, IPv4 first
	hostnames []string         // as many as status then has room for, in order
	ports     map[claim]uint16 // the node port of each port; 0: it has none
	failures  map[claim]string // what the provider says of ports that it does not serve
}

// loadBalancer finds the Service of a Gateway.
func (r *Resolution) loadBalancer(p *Parameters) *LoadBalancer {
	lb := &LoadBalancer{Key: types.NamespacedName{Namespace: r.config.Namespace, Name: serviceName(p.Key, p.Gateway.UID)}}
	switch found := r.snapshot.Services[lb.Key]; {
	case found == nil:
	case found.Labels[v1alpha1.GatewayNamespaceLabel] != p.Key.Namespace, found.Labels[v1alpha1.GatewayNameLabel] != labelOf(p.Key.Name):
		lb.foreign = true
	default:
		lb.read(found)
	}
	return lb
}

func (lb *LoadBalancer) read(service *corev1.Service) {
	lb.Source = service
	lb.ports, lb.failures = map[claim]uint16{}, map[claim]string{}
	for _, port := range service.Spec.Ports {
		nodePort := uint16(0)
		if port.NodePort >= 1 && port.NodePort <= 65535 {
			nodePort = uint16(port.NodePort)
		}
		lb.ports[claim{gatewayv1.ProtocolType(port.Protocol), uint16(port.Port)}] = nodePort
	}
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		for _, port := range ingress.Ports {
			if port.Error != nil {
				lb.failures[claim{gatewayv1.ProtocolType(port.Protocol), uint16(port.Port)}] = *port.Error
			}
		}
		if addr, err := netip.ParseAddr(ingress.IP); err == nil && addr.Zone() == "" {
			lb.addresses = append(lb.addresses, addr.Unmap())
			if ptr.Deref(ingress.IPMode, corev1.LoadBalancerIPModeVIP) != corev1.LoadBalancerIPModeProxy {
				lb.Routed = append(lb.Routed, addr.Unmap())
			}
		} else if ingress.Hostname != "" {
			lb.hostnames = append(lb.hostnames, ingress.Hostname)
		}
	}
	slices.SortFunc(lb.Routed, netip.Addr.Compare)
	lb.Routed = slices.Compact(lb.Routed)
	slices.SortFunc(lb.addresses, netip.Addr.Compare) // IPv4 first, clients often take the first one
	lb.addresses = slices.Compact(lb.addresses)
	lb.addresses = lb.addresses[:min(len(lb.addresses), maxStatusAddresses)]
	slices.Sort(lb.hostnames)
	lb.hostnames = slices.Compact(lb.hostnames)
	lb.hostnames = lb.hostnames[:min(len(lb.hostnames), maxStatusAddresses-len(lb.addresses))]
}

func (lb *LoadBalancer) assignment() Assignment {
	return Assignment{LoadBalancer: true, Addresses: lb.addresses, Hostnames: lb.hostnames, Message: lb.waiting()}
}

func (lb *LoadBalancer) deleting() bool {
	return lb.Source != nil && lb.Source.DeletionTimestamp != nil
}

// hasNodePorts reports whether the node ports are also those of an address.
func (lb *LoadBalancer) hasNodePorts(addr netip.Addr) bool {
	return lb.Source != nil && (len(lb.Source.Spec.IPFamilies) == 0 || slices.Contains(lb.Source.Spec.IPFamilies, FamilyOf(addr)))
}

// lacksFamily returns a family that the parameters ask for and the Service has, but of
// which there is no address; empty if there is none such. A host name may have any.
func (g *Gateway) lacksFamily() corev1.IPFamily {
	lb := g.LoadBalancer
	if lb == nil || lb.Source == nil || len(g.Assignment.Hostnames) > 0 {
		return ""
	}
	for _, family := range g.Parameters.Families {
		if slices.Contains(lb.Source.Spec.IPFamilies, family) && !hasFamily(g.Assignment.Addresses, family) {
			return family
		}
	}
	return ""
}

// unserved returns the first valid listener whose port is not passed on yet, nil for
// none.
func (g *Gateway) unserved() *Listener {
	if g.LoadBalancer == nil {
		return nil
	}
	for _, l := range g.Listeners {
		at := claim{l.Protocol, l.Port}
		if _, has := g.LoadBalancer.ports[at]; l.Valid && (!has || g.LoadBalancer.failures[at] != "") {
			return l
		}
	}
	return nil
}

// nodePort is the port of the nodes at which the listener is reached as well; 0: none.
func (l *Listener) nodePort() uint16 {
	if l.Gateway.LoadBalancer == nil {
		return 0
	}
	return l.Gateway.LoadBalancer.ports[claim{l.Protocol, l.Port}]
}

// orphans returns the Services of ours that no Gateway has any more, but for those that
// are being deleted already.
func (r *Resolution) orphans() []*corev1.Service {
	needed := map[types.NamespacedName]bool{}
	for _, p := range r.Gateways {
		switch {
		case p.LoadBalancer != nil:
			needed[p.LoadBalancer.Key] = true
		case p.Frozen: // nobody knows what it is to have
			needed[r.loadBalancer(p).Key] = true
		}
	}
	var orphans []*corev1.Service
	for key, service := range r.snapshot.Services {
		if r.config.owns(service) && !needed[key] && service.DeletionTimestamp == nil {
			orphans = append(orphans, service)
		}
	}
	slices.SortFunc(orphans, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	return orphans
}

// owns reports whether a Service is of some Gateway in mode LoadBalancer, be it gone.
func (c Config) owns(service *corev1.Service) bool {
	return service.Namespace == c.Namespace && service.Labels[v1alpha1.GatewayNamespaceLabel] != "" && service.Labels[v1alpha1.GatewayNameLabel] != ""
}

// GatewayOf returns the Gateway that a Service of ours was made for; ok is false where
// its annotations do not tell.
func GatewayOf(service *corev1.Service) (key types.NamespacedName, uid types.UID, ok bool) {
	namespace, name, found := strings.Cut(service.Annotations[v1alpha1.GatewayAnnotation], "/")
	uid = types.UID(service.Annotations[v1alpha1.GatewayUIDAnnotation])
	return types.NamespacedName{Namespace: namespace, Name: name}, uid, found && uid != ""
}

const (
	maxLabel  = 63 // characters of a label's value, and of the name of a Service
	nameBytes = 5  // of a hash, 10 characters
)

// serviceName is of the Gateway and no other one, not even of a later one of the same
// name: that does not wait until the Service of the one before is deleted, which may
// take minutes in clouds.
func serviceName(gateway types.NamespacedName, uid types.UID) string {
	hash := shortHash(gateway.String() + "/" + string(uid))
	readable := strings.ReplaceAll("gw-"+gateway.Namespace+"-"+gateway.Name, ".", "-")
	return strings.TrimRight(readable[:min(len(readable), maxLabel-1-len(hash))], "-") + "-" + hash
}

func labelOf(name string) string {
	if len(name) <= maxLabel {
		return name
	}
	hash := shortHash(name)
	return strings.TrimRight(name[:maxLabel-1-len(hash)], "-.") + "-" + hash
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:nameBytes])
}
