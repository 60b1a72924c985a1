package topology

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Conditions of ours about what nodes found. Absent where they found nothing.
const (
	// ConditionImpaired, of a Gateway: flows through some nodes fail for a reason that
	// is not ours to remove, such as a firewall. The rules are in place there, so that
	// Programmed is True all the same.
	ConditionImpaired = "portway.dev/Impaired"
	// ConditionPortContended, of a listener: its port is also a Service's NodePort, a
	// pod's hostPort or of a process on a node. The listener has it.
	ConditionPortContended = "portway.dev/PortContended"
	// ReasonNodePort is of ConditionPortContended; its others are those of findings.
	ReasonNodePort = "NodePort"
	// ConditionAnnounced, of a Gateway with addresses of pools that nodes announce
	// (announcement Layer2): True where a node answers for each of them.
	ConditionAnnounced = "portway.dev/Announced"
	ReasonAnnounced    = "Announced"
	// ReasonNotAnnounced: no node answers for an address.
	ReasonNotAnnounced = "NotAnnounced"
	// ReasonAnnouncerUnheard (Unknown): who answered last for an address is not heard of
	// any more, and nobody else says that it answers. It may still do.
	ReasonAnnouncerUnheard = "AnnouncerUnheard"
)

// foundLength is to how many bytes a node's message is cut: three are shown.
const foundLength = 384

func impaired(on []found) Condition {
	return newCondition(ConditionImpaired, metav1.ConditionTrue, on[0].Reason, "flows through some nodes fail: "+listFound(on))
}

func portContended(l *Listener, on []found) Condition {
	var parts []string
	reason := ReasonNodePort
	if l.outranked != (types.NamespacedName{}) {
		parts = append(parts, fmt.Sprintf(
			"%s port %d is a NodePort of Service %s, too, which is younger: at the addresses of this Gateway it does not reach the Service; give the Service another nodePort",
			l.Protocol, l.Port, l.outranked))
	} else {
		reason = on[0].Reason
	}
	if len(on) > 0 {
		parts = append(parts, listFound(on))
	}
	return newCondition(ConditionPortContended, metav1.ConditionTrue, reason, strings.Join(parts, "; "))
}

// listFound reads "node-a: …; node-b: … and 3 more".
func listFound(on []found) string {
	const shown = 3
	texts := make([]string, 0, shown)
	for _, f := range on[:min(len(on), shown)] {
		texts = append(texts, f.node+": "+truncate(f.Message, foundLength))
	}
	list := strings.Join(texts, "; ")
	if more := len(on) - shown; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

func nodePortTaken(l *Listener, service types.NamespacedName) fault {
	return faultf(gatewayv1.ListenerReasonPortUnavailable,
		"%s: %s port %d of the nodes is a NodePort of Service %s, which is older; choose another port, or give the Service another nodePort",
		l.field("port"), l.Protocol, l.Port, service)
}

// portNeeded says that a node keeps a port of its own. Who reads it has a load balancer
// that gives the addresses of nodes, or a pool that holds one.
func portNeeded(l *Listener, at netip.AddrPort) string {
	return fmt.Sprintf("%v: %s is an address of a node, which needs port %d itself (--node-ports): not served there; choose another port", l, at.Addr(), at.Port())
}

func portOfService(l *Listener, at netip.AddrPort, service types.NamespacedName) string {
	return fmt.Sprintf("%v: %s is an address of a node, where %s port %d is a NodePort of Service %s, which is older: not served there; choose another port",
		l, at.Addr(), l.Protocol, at.Port(), service)
}

// placeHeld says that two Gateways are reached at one address of a node, as it turned out.
func placeHeld(l, holder *Listener, at netip.AddrPort) string {
	return fmt.Sprintf("%v: %s port %d of %s belongs to %v, which has precedence (oldest, then by name): not served there; choose another port",
		l, l.Protocol, at.Port(), at.Addr(), holder)
}

// announcedCondition reads "192.0.2.7 by node-a, 2001:db8::7 by node-b".
func announcedCondition(list []announcedBy, conflicts []found) Condition {
	var by, missing, unheard []string
	for _, a := range list {
		switch {
		case len(a.nodes) > 0:
			by = append(by, fmt.Sprintf("%s by %s", a.addr, atMost(3, a.nodes)))
		case len(a.last) > 0:
			unheard = append(unheard, fmt.Sprintf("%s last by %s", a.addr, atMost(3, a.last)))
		default:
			missing = append(missing, a.addr.String())
		}
	}
	switch {
	case len(missing) == 0 && len(unheard) > 0:
		return newCondition(ConditionAnnounced, metav1.ConditionUnknown, ReasonAnnouncerUnheard,
			strings.Join(append(by, unheard...), ", ")+": not heard of any more, so it may still answer, and no other node says that it does")
	case len(missing) == 0:
		return newCondition(ConditionAnnounced, metav1.ConditionTrue, ReasonAnnounced, strings.Join(by, ", "))
	case len(conflicts) > 0:
		return newCondition(ConditionAnnounced, metav1.ConditionFalse, v1alpha1.FindingAddressConflict, strings.Join(append(append(by, unheard...), listFound(conflicts)), "; "))
	default:
		return newCondition(ConditionAnnounced, metav1.ConditionFalse, ReasonNotAnnounced, strings.Join(append(append(by, unheard...), fmt.Sprintf(
			"no node announces %s: a stranger has it, or no node is ready that serves it, has an interface in its network, is selected by the AddressPool's announcement and, with externalTrafficPolicy Local, has an endpoint; see the NodeReports",
			atMost(4, missing))), "; "))
	}
}
