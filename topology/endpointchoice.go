package topology

import (
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

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

// newCandidate reads an endpoint. What is not said of its conditions means ready,
// serving and not terminating (discovery/v1 EndpointConditions). It is local also by
// an address of the node: such replies pass it, too.
func newCandidate(node Node, e *discoveryv1.Endpoint, addr netip.AddrPort) candidate {
	c := candidate{Endpoint: rules.Endpoint{Addr: addr}}
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		c.Name = e.TargetRef.Name
	}
	set := func(t traits, holds bool) {
		if holds {
			c.traits |= t
		}
	}
	isReady, isServing := ptr.Deref(e.Conditions.Ready, true), ptr.Deref(e.Conditions.Serving, true)
	set(ready, isReady)
	set(serving, isReady || isServing)
	set(leaving, isServing && ptr.Deref(e.Conditions.Terminating, false))
	set(onNode, node.Name != "" && ptr.Deref(e.NodeName, "") == node.Name)
	if e.Hints != nil {
		set(nodeHint, len(e.Hints.ForNodes) > 0)
		set(forNode, node.Name != "" && slices.Contains(e.Hints.ForNodes, discoveryv1.ForNode{Name: node.Name}))
		set(zoneHint, len(e.Hints.ForZones) > 0)
		set(forOurZone, node.Zone != "" && slices.Contains(e.Hints.ForZones, discoveryv1.ForZone{Name: node.Zone}))
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
