package topology

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/rules"
)

// Finding is something a node found that flows suffer from, or suffers from them.
type Finding struct {
	// Reason is one of api/v1alpha1.
	Reason, Message string
	// Owner has the Gateway and listener that are concerned; without, all flows
	// through the node are.
	Owner rules.Owner
}

// impairing are the findings because of which flows through a node fail, whatever its
// rules say. Others are warnings, which the NodeReport shows: to tell them of every
// Gateway would say that they have a problem, and be many writes.
var impairing = map[string]bool{
	v1alpha1.FindingPacketForwarding: true,
	v1alpha1.FindingFirewallDrops:    true,
}

// contending are the findings of somebody else who wants a listener's port.
var contending = map[string]bool{
	v1alpha1.FindingPortInUse: true,
	v1alpha1.FindingHostPort:  true,
}

// found is a Finding and the node it is of.
type found struct {
	node string
	Finding
}

// findings are those of all nodes, by whom they concern, in the order of the nodes.
type findings struct {
	nodes     []found
	listeners map[rules.Owner][]found
}

func newFindings(nodes []NodeReport) findings {
	f := findings{listeners: make(map[rules.Owner][]found)}
	for i := range nodes {
		for _, one := range nodes[i].Findings {
			owner := rules.Owner{Gateway: one.Owner.Gateway, Listener: one.Owner.Listener}
			switch {
			case owner != rules.Owner{} && contending[one.Reason]:
				f.listeners[owner] = append(f.listeners[owner], found{nodes[i].Node, one})
			case owner == rules.Owner{} && impairing[one.Reason]:
				f.nodes = append(f.nodes, found{nodes[i].Node, one})
			}
		}
	}
	slices.SortFunc(f.nodes, compareFound)
	for _, list := range f.listeners {
		slices.SortFunc(list, compareFound)
	}
	return f
}

func compareFound(a, b found) int {
	return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
}

// ofGateway returns what is to be added to the conditions of a Gateway.
func (f *findings) ofGateway(g *Gateway) []Condition {
	if len(f.nodes) == 0 || !g.Accepted {
		return nil
	}
	return []Condition{impaired(f.nodes)}
}

// ofListener returns what is to be added to the conditions of a listener.
func (f *findings) ofListener(l *Listener) []Condition {
	if !l.Valid {
		return nil // it has no port that somebody could want
	}
	owner := ownerOf(l)
	owner.Route = ""
	onNodes := f.listeners[owner]
	if len(onNodes) == 0 && l.outranked == (types.NamespacedName{}) {
		return nil
	}
	return []Condition{portContended(l, onNodes)}
}
