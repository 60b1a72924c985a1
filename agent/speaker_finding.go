package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/internal/announce"
	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/owner"
	"github.com/portway-dev/portway/topology"
)

// Reasons of findings about announcing, beside those of announce.Problems.
const (
	reasonAnnouncer   = "AnnouncerFailed"  // it cannot work at all
	reasonOff         = "AnnouncerOff"     // a pool wants it, and it is not switched on
	reasonNoInterface = "NoInterface"      // addresses cannot be answered on any interface
	reasonSplitBrain  = "SplitBrain"       // two nodes answered for an address
	reasonPeers       = "NodesNotReadable" // who else there is is not known
	splitToldFor      = 10 * time.Minute   // a split brain that is over
	maxAnnounced      = 2048               // groups in a NodeReport
)

// split is an address that another node has answered for as well.
type split struct {
	address netip.Addr
	node    string
	at      time.Time
}

// offFindings tells, once per pool, that nodes are to announce it and that this one is among
// them, but does not.
func offFindings(graph *topology.Graph, node labels.Set) []v1alpha1.Finding {
	var findings []v1alpha1.Finding
	for _, name := range slices.Sorted(maps.Keys(graph.Pools)) {
		if pool := graph.Pools[name]; (pool.Accepted || len(graph.Uses[name].Assigned) > 0) && pool.Announced.Selects(node) {
			findings = append(findings, v1alpha1.Finding{Reason: reasonOff, Message: fmt.Sprintf(
				"AddressPool %s has announcement Layer2, and this node is selected, but announces nothing, as portway-agent runs without --layer2-key-file; "+
					"install with component deploy/layer2, or narrow the pool's spec.announcement.nodeSelector", name)})
		}
	}
	return findings
}

func failureFinding(err error) v1alpha1.Finding {
	reason := reasonAnnouncer
	var capability *layer2.CapabilityError
	if errors.As(err, &capability) {
		reason = announce.ReasonCapability
	}
	return v1alpha1.Finding{Reason: reason, Message: "this node announces no addresses: " + err.Error()}
}

func peersFinding(err error) v1alpha1.Finding {
	return v1alpha1.Finding{Reason: reasonPeers, Message: fmt.Sprintf(
		"this node announces no addresses before it knows of the other nodes: %v; the agent's ClusterRole needs the verbs list and watch for nodes, as component deploy/layer2 gives them", err)}
}

func problemFindings(problems []announce.Problem) []v1alpha1.Finding {
	findings := make([]v1alpha1.Finding, 0, len(problems))
	for _, p := range problems {
		findings = append(findings, v1alpha1.Finding{Reason: p.Reason, Message: p.Message})
	}
	return findings
}

// conflictFindings tells the Gateways of each address that a stranger has.
func conflictFindings(node string, owners []announce.Owner, all map[netip.Addr]wanted) []v1alpha1.Finding {
	var findings []v1alpha1.Finding
	for _, o := range owners {
		if o.Node != node || o.Phase != owner.Conflict || o.Stranger == nil {
			continue
		}
		for _, gateway := range all[o.Address].gateways {
			findings = append(findings, v1alpha1.Finding{
				Reason: v1alpha1.FindingAddressConflict, Gateway: gateway,
				Message: fmt.Sprintf("%s belongs to a host with MAC address %s, seen on interface %s, that is no node of this cluster: nobody announces it; take it from that host, or out of AddressPool %s",
					o.Address, o.Stranger.MAC, o.Stranger.Interface, all[o.Address].pool),
			})
		}
	}
	return findings
}

// missingFindings tells which addresses this node is selected for and cannot announce, by
// pool and reason.
func missingFindings(owners []announce.Owner, all map[netip.Addr]wanted) []v1alpha1.Finding {
	type why struct{ pool, reason string }
	found := map[why][]netip.Addr{}
	for _, o := range owners {
		if w := all[o.Address]; o.Missing != "" && w.admitted {
			found[why{w.pool, o.Missing}] = append(found[why{w.pool, o.Missing}], o.Address)
		}
	}
	var findings []v1alpha1.Finding
	for _, w := range slices.SortedFunc(maps.Keys(found), func(a, b why) int {
		return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.reason, b.reason))
	}) {
		findings = append(findings, v1alpha1.Finding{Reason: reasonNoInterface, Message: fmt.Sprintf(
			"this node cannot announce %s: %s; see spec.announcement of AddressPool %s", few(found[w]), w.reason, w.pool)})
	}
	return findings
}

// splitFindings tells of each node that has answered for addresses at the same time.
func splitFindings(splits []split, port uint16) []v1alpha1.Finding {
	type episode struct {
		node string
		last time.Time
		of   []netip.Addr
	}
	by := map[string]*episode{}
	for _, s := range splits {
		e := by[s.node]
		if e == nil {
			e = &episode{node: s.node}
			by[s.node] = e
		}
		e.of = append(e.of, s.address)
		if s.at.After(e.last) {
			e.last = s.at
		}
	}
	var findings []v1alpha1.Finding
	for _, node := range slices.Sorted(maps.Keys(by)) {
		e := by[node]
		slices.SortFunc(e.of, netip.Addr.Compare)
		findings = append(findings, v1alpha1.Finding{Reason: reasonSplitBrain, Message: fmt.Sprintf(
			"until %s this node and %s both answered for %s, as they could not reach each other on port %d (TCP and UDP); it is over, and %s goes on; find out what was between them",
			e.last.UTC().Format(time.RFC3339), node, few(slices.Compact(e.of)), port, node)})
	}
	return findings
}

// announcing groups what a node answers for by when it began to.
func announcing(node string, owners []announce.Owner) []v1alpha1.Announced {
	since := map[int64][]netip.Addr{}
	for _, o := range owners {
		if o.Node == node && o.Phase == owner.Answering {
			since[o.Since.Unix()] = append(since[o.Since.Unix()], o.Address)
		}
	}
	var groups []v1alpha1.Announced
	for i, began := range slices.Sorted(maps.Keys(since)) {
		texts := make([]string, 0, len(since[began]))
		slices.SortFunc(since[began], netip.Addr.Compare)
		for _, addr := range since[began] {
			texts = append(texts, addr.String())
		}
		if i < maxAnnounced {
			groups = append(groups, v1alpha1.Announced{Since: metav1.NewTime(time.Unix(began, 0)), Addresses: texts})
		} else {
			last := &groups[maxAnnounced-1]
			last.Addresses = append(last.Addresses, texts...)
		}
	}
	return groups
}

func sameAnnounced(a, b []v1alpha1.Announced) bool {
	return slices.EqualFunc(a, b, func(a, b v1alpha1.Announced) bool {
		return a.Since.Equal(&b.Since) && slices.Equal(a.Addresses, b.Addresses)
	})
}

// few reads "192.0.2.7, 192.0.2.8, 192.0.2.9 and 41 more".
func few(list []netip.Addr) string {
	const shown = 3
	texts := make([]string, 0, shown)
	for _, addr := range list[:min(len(list), shown)] {
		texts = append(texts, addr.String())
	}
	text := strings.Join(texts, ", ")
	if more := len(list) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func lines(findings []v1alpha1.Finding) []string {
	texts := make([]string, 0, len(findings))
	for _, f := range findings {
		texts = append(texts, f.Reason+": "+f.Message)
	}
	return texts
}
