package topology

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// waiting says why there is no address; empty where there is one.
func (lb *LoadBalancer) waiting() string {
	switch {
	case lb.foreign:
		return fmt.Sprintf("Service %s has the name of this Gateway's Service, but not its labels; delete it, or, if it is this Gateway's, give it back %s and %s",
			lb.Key, v1alpha1.GatewayNamespaceLabel, v1alpha1.GatewayNameLabel)
	case lb.Source == nil:
		return fmt.Sprintf("waiting for Service %s to be made", lb.Key)
	case len(lb.addresses)+len(lb.hostnames) > 0:
		return ""
	case lb.deleting():
		return fmt.Sprintf("Service %s is being deleted; another one is made when it is gone", lb.Key)
	default:
		return lb.waitingForProvider()
	}
}

func (lb *LoadBalancer) waitingForProvider() string {
	provider := "the provider of LoadBalancer Services"
	if class := lb.Source.Spec.LoadBalancerClass; class != nil {
		provider += " of class " + *class
	}
	return fmt.Sprintf("waiting for %s to give Service %s an address; does the cluster have one?", provider, lb.Key)
}

// ServiceNotWritten says why a Service of ours is not as it has to be.
func ServiceNotWritten(service types.NamespacedName, problem string) string {
	const errorLength = 512
	return fmt.Sprintf("Service %s could not be written: %s", service, truncate(problem, errorLength))
}

// portNotServed says what is wrong with the port of a listener in front of the nodes.
func (g *Gateway) portNotServed(l *Listener) string {
	lb := g.LoadBalancer
	port := fmt.Sprintf("%s port %d of %v", l.Protocol, l.Port, l)
	if failure := lb.failures[claim{l.Protocol, l.Port}]; failure != "" {
		return fmt.Sprintf("the provider of Service %s does not serve %s: %s", lb.Key, port, failure)
	}
	return withHint(fmt.Sprintf("waiting for Service %s to have %s", lb.Key, port), g.Assignment.Message)
}

func (lb *LoadBalancer) choosesItself() string {
	return fmt.Sprintf("in mode LoadBalancer the provider of Service %s chooses; many can be asked with spec.infrastructure.annotations", lb.Key)
}

func (lb *LoadBalancer) giveUp(p *Parameters) string {
	if p.Frozen {
		return fmt.Sprintf("delete Service %s", lb.Key)
	}
	return fmt.Sprintf("delete Service %s, and another one is made", lb.Key)
}

// retentions are what the Gateway would not get again, of what its Service has.
func (lb *LoadBalancer) retentions(p *Parameters) []retention {
	if lb.Source == nil || len(lb.addresses)+len(lb.hostnames) == 0 {
		return nil
	}
	if !p.known {
		return []retention{{reason: ReasonInvalidParameters}}
	}
	var found []retention
	fixed := func(field, has, wanted string) {
		found = append(found, retention{reason: ReasonServiceImmutable, text: fmt.Sprintf(
			"Service %s has %s %s, which cannot be changed to %s", lb.Key, field, has, wanted)})
	}
	spec := &lb.Source.Spec
	if has := ptr.Deref(spec.LoadBalancerClass, ""); p.LoadBalancerClass != "" && p.LoadBalancerClass != has && spec.Type == corev1.ServiceTypeLoadBalancer {
		fixed("spec.loadBalancerClass", fmt.Sprintf("%q", has), fmt.Sprintf("%q", p.LoadBalancerClass))
	}
	if len(p.Families) > 0 && len(spec.IPFamilies) > 0 && !slices.Contains(p.Families, spec.IPFamilies[0]) {
		fixed("spec.ipFamilies", strings.Join(names(spec.IPFamilies), ", "), strings.Join(names(p.Families), ", "))
	}
	return found
}

func nodePortHeld(l, holder *Listener) fault {
	return faultf(gatewayv1.ListenerReasonPortUnavailable,
		"%s: its node port %d belongs to %v, which has precedence (oldest, then by name); it gets another node port as soon as Service %s is without this one",
		l.field("port"), l.nodePort(), holder, l.Gateway.LoadBalancer.Key)
}
