package agent

import (
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// wanted is an address that some node is to answer for.
type wanted struct {
	pool       string
	gateways   []string // that have it, in order
	interfaces []string
	// admitted: the pool's nodeSelector selects this node.
	admitted bool
	// ready: this node may answer.
	ready bool
}

// use is a Gateway's of an address.
type use struct {
	addr    netip.Addr
	gateway string
}

// plan derives what is wanted from what was decided and what was committed. To be used by
// the loop only.
type plan struct {
	graph         *topology.Graph
	announcements map[netip.Addr]*topology.Announcement
	// proven are the addresses that were once committed, of each of their Gateways. What
	// was, is served: a new configuration that cannot be programmed leaves the rules before
	// in place, here and most likely everywhere. Of the rules of another Gateway that had the
	// address before nothing may be left.
	proven map[use]bool

	node      labels.Set
	committed map[string]string
	last      map[netip.Addr]wanted
	local     bool // endpoints matter
}

// next returns what is wanted after a pass. Most passes are for endpoints, which few Gateways
// care for.
func (p *plan) next(graph *topology.Graph, forwarder *topology.Forwarder, node labels.Set, results rules.Results) map[netip.Addr]wanted {
	same := graph == p.graph && maps.Equal(node, p.node) && maps.Equal(results.Committed, p.committed)
	if same && !p.local {
		return p.last
	}
	if graph != p.graph {
		p.graph, p.announcements = graph, graph.Announcements()
	}
	if !same {
		p.node, p.committed = node, maps.Clone(results.Committed)
	}
	p.local = false
	all := make(map[netip.Addr]wanted, len(p.announcements))
	proven := make(map[use]bool, len(p.announcements))
	for addr, a := range p.announcements {
		w := wanted{pool: a.Pool.Name, interfaces: a.Pool.Announced.Interfaces, admitted: a.Pool.Announced.Selects(node)}
		served := false
		for _, gateway := range a.Gateways {
			u := use{addr, gateway.Key.String()}
			w.gateways = append(w.gateways, u.gateway)
			committed, some := results.Committed[u.gateway]
			if some && (committed == gateway.Digest || p.proven[u]) {
				proven[u], served = true, true
			}
		}
		slices.Sort(w.gateways)
		w.ready = w.admitted && served && forwarder.Serves(addr, a)
		p.local = p.local || a.NeedsEndpoints()
		all[addr] = w
	}
	p.proven, p.last = proven, all
	return all
}

func sameWanted(a, b wanted) bool {
	return a.pool == b.pool && a.admitted == b.admitted && a.ready == b.ready &&
		slices.Equal(a.gateways, b.gateways) && slices.Equal(a.interfaces, b.interfaces)
}

// offered reports whether offer was called. From then on it is after every pass: one that
// fails as a whole names what is in place nevertheless, which is nothing where somebody
// deleted the rules. To be used by the loop only.
func (s *speaker) offered() bool { return s.plan.graph != nil }

// offer takes over what a pass has committed. Before anything was, nothing is wanted: others
// wait for this node to know what it can serve. To be used by the loop only.
func (s *speaker) offer(graph *topology.Graph, forwarder *topology.Forwarder, addresses []netip.Addr, results rules.Results) {
	next := s.plan.next(graph, forwarder, s.self.labels(), results)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted == nil || !maps.EqualFunc(s.wanted, next, sameWanted) {
		s.wanted = next
	}
	s.addresses = addresses
	signal(s.fresh)
}
