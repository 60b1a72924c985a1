package topology

import (
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/portway-dev/portway/rules"
)

// candidate is an endpoint of a Service port and what the choice between them
// depends on.
type candidate struct {
	rules.Endpoint
	traits traits
}

type traits uint8

const (
	ready      traits = 1 << iota
	serving           // answers, be it ready or not
	leaving           // terminating, but serving
	onNode            // the node of that name is this one
	nodeHint          // has a hint for some node
	forNode           // has one for this node
	zoneHint          // has a hint for some zone
	forOurZone        // has one for this node's zone
)

func (t traits) has(all traits) bool { return t&all == all }

func (t *traits) set(one traits, holds bool) {
	if holds {
		*t |= one
	}
}

// newCandidate says what an endpoint is to a node. It is local also by an address of the
// node: such replies pass it, too.
func newCandidate(node Node, e *sliceEndpoint, addr netip.AddrPort) candidate {
	c := candidate{rules.Endpoint{Addr: addr, Name: e.pod}, e.traits}
	c.traits.set(onNode, node.Name != "" && e.node.Value() == node.Name)
	if e.hints != nil {
		c.traits.set(nodeHint, len(e.hints.ForNodes) > 0)
		c.traits.set(forNode, node.Name != "" && slices.Contains(e.hints.ForNodes, discoveryv1.ForNode{Name: node.Name}))
		c.traits.set(zoneHint, len(e.hints.ForZones) > 0)
		c.traits.set(forOurZone, node.Zone != "" && slices.Contains(e.hints.ForZones, discoveryv1.ForZone{Name: node.Zone}))
	}
	c.Local = c.traits.has(onNode) || slices.Contains(node.Addresses, addr.Addr())
	return c
}

// merge sorts candidates by address and makes one of those with the same address:
// the control plane may have an endpoint in two slices while it moves it. The
// first slice by name names it; whatever any of them says of it holds.
func merge(candidates []candidate) []candidate {
	slices.SortStableFunc(candidates, func(a, b candidate) int { return a.Addr.Compare(b.Addr) })
	merged := candidates[:0]
	for _, c := range candidates {
		if last := len(merged) - 1; last >= 0 && merged[last].Addr == c.Addr {
			merged[last].traits |= c.traits
			merged[last].Local = merged[last].Local || c.Local
		} else {
			merged = append(merged, c)
		}
	}
	return merged
}

// choose decides which endpoints of a family get new flows, which only go on with
// those they have, and which do not serve. As kube-proxy does (CategorizeEndpoints
// of 1.34): ready ones; where there is none, those that are terminating but still
// serving. Of these only the node's own with externalTrafficPolicy Local; otherwise,
// while some endpoint is ready, those that the hints name for this node or its zone.
func choose(candidates []candidate, localOnly bool) portEndpoints {
	near := traits(0)
	switch {
	case localOnly:
		near = onNode
	case hinted(candidates, nodeHint, forNode):
		near = forNode
	case hinted(candidates, zoneHint, forOurZone):
		near = forOurZone
	}
	wanted := ready | near
	if !slices.ContainsFunc(candidates, func(c candidate) bool { return c.traits.has(wanted) }) {
		wanted = leaving | near
	}
	var chosen portEndpoints
	count := 0
	for i := range candidates {
		if candidates[i].traits.has(wanted) {
			count++
		}
	}
	if count > 0 { // they are kept, and there are many
		chosen.endpoints = make([]rules.Endpoint, 0, count)
	}
	for _, c := range candidates {
		switch {
		case c.traits.has(wanted):
			chosen.endpoints = append(chosen.endpoints, c.Endpoint)
		case c.traits.has(serving):
			chosen.draining = append(chosen.draining, c.Addr)
		default:
			chosen.lingering = append(chosen.lingering, c.Addr)
		}
	}
	return chosen
}

// hinted reports whether hints of one kind count: every ready endpoint has one, and
// one of them is for us.
func hinted(candidates []candidate, kind, forUs traits) bool {
	found := false
	for _, c := range candidates {
		switch {
		case !c.traits.has(ready):
		case !c.traits.has(kind):
			return false
		case c.traits.has(forUs):
			found = true
		}
	}
	return found
}
