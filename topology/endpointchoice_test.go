package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/rules"
)

// described makes a slice of endpoints 10.0.0.1, 10.0.0.2 … from descriptions:
// words of ready, not-ready (and still serving), gone (neither), unsaid (no
// conditions), terminating, node=, nodes= and zones= (hints, separated by commas).
func described(name string, descriptions ...string) *discoveryv1.EndpointSlice {
	s := slice(name, 80)
	for i, description := range descriptions {
		e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.0.%d", i+1)}, Hints: &discoveryv1.EndpointHints{}}
		for _, word := range strings.Fields(description) {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "ready":
				e.Conditions.Ready, e.Conditions.Serving = ptr.To(true), ptr.To(true)
			case "not-ready":
				e.Conditions.Ready, e.Conditions.Serving = ptr.To(false), ptr.To(true)
			case "gone":
				e.Conditions.Ready, e.Conditions.Serving = ptr.To(false), ptr.To(false)
			case "terminating":
				e.Conditions.Terminating = ptr.To(true)
			case "node":
				e.NodeName = &value
			case "nodes":
				for node := range strings.SplitSeq(value, ",") {
					e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: node})
				}
			case "zones":
				for zone := range strings.SplitSeq(value, ",") {
					e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: zone})
				}
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// lastBytes are the endpoints for new flows, "|", the draining ones and, if there are
// any, "|", the lingering ones.
func lastBytes(p portEndpoints) string {
	var words []string
	for _, e := range p.endpoints {
		words = append(words, fmt.Sprint(e.Addr.Addr().As4()[3]))
	}
	words = append(words, "|")
	for _, addr := range p.draining {
		words = append(words, fmt.Sprint(addr.Addr().As4()[3]))
	}
	if len(p.lingering) > 0 {
		words = append(words, "|")
	}
	for _, addr := range p.lingering {
		words = append(words, fmt.Sprint(addr.Addr().As4()[3]))
	}
	return strings.Join(words, " ")
}

func TestEndpointsForNewFlows(t *testing.T) {
	tests := []struct {
		name           string
		endpoints      []string
		cluster, local string // with each externalTrafficPolicy, on node n1 in zone z1
	}{
		{"none", nil, "|", "|"},
		{"what is not said means ready", []string{"unsaid node=n1"}, "1 |", "1 |"},
		{"ready before terminating", []string{"ready node=n1", "not-ready terminating node=n1", "gone terminating node=n1"}, "1 | 2 | 3", "1 | 2 | 3"},
		{"ready though terminating, as publishNotReadyAddresses makes them", []string{"ready terminating node=n1"}, "1 |", "1 |"},
		{"terminating but serving where none is ready", []string{"not-ready terminating node=n1", "gone", "not-ready node=n1"}, "1 | 3 | 2", "1 | 3 | 2"},
		{"nobody serves", []string{"gone", "gone terminating node=n1"}, "| | 1 2", "| | 1 2"},
		{"not ready is no reason to take it, serving or not", []string{"not-ready node=n1"}, "| 1", "| 1"},

		{"Local takes those of this node", []string{"ready node=n1", "ready node=n2", "ready"}, "1 2 3 |", "1 | 2 3"},
		{"Local refuses without any", []string{"ready node=n2"}, "1 |", "| 1"},
		{"Local falls back on its own terminating ones", []string{"not-ready terminating node=n1", "ready node=n2"}, "2 | 1", "1 | 2"},
		{"Local does not look at hints", []string{"ready node=n1 zones=z2", "ready node=n2 zones=z1"}, "2 | 1", "1 | 2"},

		{"hints for the zone", []string{"ready zones=z1", "ready zones=z2", "ready zones=z2,z1"}, "1 3 | 2", "| 1 2 3"},
		{"hints for other zones only", []string{"ready zones=z2", "ready zones=z3"}, "1 2 |", "| 1 2"},
		{"one ready endpoint without a hint", []string{"ready zones=z1", "ready"}, "1 2 |", "| 1 2"},
		{"only ready endpoints need a hint", []string{"ready zones=z1", "not-ready", "not-ready terminating", "ready zones=z2"}, "1 | 2 3 4", "| 1 2 3 4"},
		{"the only one for the zone is not ready", []string{"not-ready zones=z1", "ready zones=z2"}, "2 | 1", "| 1 2"},
		{"hints count for nothing while none is ready", []string{"not-ready terminating zones=z2", "not-ready terminating zones=z1"}, "1 2 |", "| 1 2"},
		{"hints for the node", []string{"ready nodes=n1 zones=z1", "ready nodes=n2 zones=z1"}, "1 | 2", "| 1 2"},
		{"hints for other nodes: then those for the zone", []string{"ready nodes=n2 zones=z1", "ready nodes=n3 zones=z2"}, "1 | 2", "| 1 2"},
		{"one without a hint for a node: then those for the zone", []string{"ready nodes=n1 zones=z2", "ready zones=z1"}, "2 | 1", "| 1 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServiceEndpoints(compact(described("a", tt.endpoints...)))
			node, port := Node{Name: "n1", Zone: "z1"}, portKey{"p", rules.TCP}
			got := [2]string{lastBytes(s.endpoints(node, usedPort{port, false})[ipv4]), lastBytes(s.endpoints(node, usedPort{port, true})[ipv4])}
			if diff := cmp.Diff([2]string{tt.cluster, tt.local}, got); diff != "" {
				t.Errorf("policies Cluster, Local (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEndpointsOfAnUnknownNode: a node without a name has no endpoints of its own
// and one without a zone gets no hints, whatever slices say.
func TestEndpointsOfAnUnknownNode(t *testing.T) {
	s := newServiceEndpoints(compact(described("a", "ready node= nodes= zones=", "ready node=n2 nodes=n2 zones=z2")))
	port := portKey{"p", rules.TCP}
	if got := lastBytes(s.endpoints(Node{}, usedPort{port, false})[ipv4]); got != "1 2 |" {
		t.Errorf("Cluster: %s", got)
	}
	if got := lastBytes(s.endpoints(Node{}, usedPort{port, true})[ipv4]); got != "| 1 2" {
		t.Errorf("Local: %s", got)
	}
}

// TestEndpointsAreHintedPerFamily: kube-proxy, too, decides for each family alone.
func TestEndpointsAreHintedPerFamily(t *testing.T) {
	v6 := with(slice("b", 80, "fd00::1", "fd00::2"), func(s *discoveryv1.EndpointSlice) {
		s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z1"}}}
	})
	s := newServiceEndpoints(compact(described("a", "ready zones=z1", "ready zones=z2"), v6))
	got := s.endpoints(Node{Zone: "z1"}, usedPort{portKey: portKey{"p", rules.TCP}})
	if len(got[ipv4].endpoints) != 1 || len(got[ipv6].endpoints) != 2 {
		t.Errorf("endpoints %v", got)
	}
}

// TestEndpointInTwoSlices: while an endpoint moves from one slice to another, what
// either says of it holds.
func TestEndpointInTwoSlices(t *testing.T) {
	slices := []*discoveryv1.EndpointSlice{
		described("a", "not-ready terminating", "ready zones=z2"), described("b", "ready zones=z1 node=n1"), described("c", "gone", "gone"),
	}
	got := newServiceEndpoints(compact(slices...)).endpoints(Node{Name: "n1", Zone: "z1"}, usedPort{portKey: portKey{"p", rules.TCP}})[ipv4]
	if lastBytes(got) != "1 | 2" || !got.endpoints[0].Local {
		t.Errorf("%s, %v", lastBytes(got), got.endpoints)
	}
}

// FuzzEndpoints makes endpoints from two bytes each and compares the choice with
// what kube-proxy's documentation says of it, in many words.
func FuzzEndpoints(f *testing.F) {
	f.Add([]byte{}, false, true)
	f.Add([]byte{1, 0, 2, 0}, true, false)
	for seed := range 32 {
		stream := make([]byte, 2*(seed%7)+2)
		for i := range stream {
			stream[i] = byte(131*seed + 29*i*i + i)
		}
		f.Add(stream, seed%3 == 0, seed%5 > 0)
	}
	f.Fuzz(func(t *testing.T, stream []byte, localOnly, zoned bool) {
		var descriptions []string
		for i := 0; i+1 < len(stream) && len(descriptions) < 50; i += 2 {
			states := [...]string{"ready", "ready terminating", "not-ready", "not-ready terminating", "gone terminating", "unsaid"}
			nodes := [...]string{"", "node=n1", "node=n2"}
			hints := [...]string{"", "zones=z1", "zones=z2", "nodes=n1", "nodes=n2", "nodes=n2 zones=z1", "nodes=n1 zones=z2"}
			a, b := int(stream[i]), int(stream[i+1])
			descriptions = append(descriptions, strings.Join([]string{states[a%6], nodes[a/6%3], hints[b%7]}, " "))
		}
		node := Node{Name: "n1"}
		if zoned {
			node.Zone = "z1"
		}
		given := described("a", descriptions...)
		got := newServiceEndpoints(compact(given)).endpoints(node, usedPort{portKey{"p", rules.TCP}, localOnly})[ipv4]
		if want := spelledOut(given.Endpoints, node, localOnly); lastBytes(got) != want {
			t.Errorf("%q (local only %t, zone %q): %s, want %s", descriptions, localOnly, node.Zone, lastBytes(got), want)
		}
		all := slices.Concat(got.draining, got.lingering)
		for _, e := range got.endpoints {
			all = append(all, e.Addr)
		}
		slices.SortFunc(all, netip.AddrPort.Compare)
		if len(slices.Compact(all)) != len(given.Endpoints) {
			t.Errorf("not in one list each: %+v", got)
		}
		if !slices.IsSortedFunc(got.draining, netip.AddrPort.Compare) || !slices.IsSortedFunc(got.lingering, netip.AddrPort.Compare) {
			t.Errorf("draining %v, lingering %v", got.draining, got.lingering)
		}
	})
}

// spelledOut is the choice once more, by filters.
func spelledOut(endpoints []discoveryv1.Endpoint, node Node, localOnly bool) string {
	type predicate = func(discoveryv1.Endpoint) bool
	isReady := func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Ready, true) }
	isServing := func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Serving, true) }
	isLeaving := func(e discoveryv1.Endpoint) bool { return isServing(e) && ptr.Deref(e.Conditions.Terminating, false) }
	isOurs := func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.NodeName, "") == node.Name }
	forNode := func(e discoveryv1.Endpoint) bool {
		return slices.ContainsFunc(e.Hints.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == node.Name })
	}
	forZone := func(e discoveryv1.Endpoint) bool {
		return slices.ContainsFunc(e.Hints.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == node.Zone })
	}
	filter := func(list []discoveryv1.Endpoint, keep predicate) []discoveryv1.Endpoint {
		return slices.DeleteFunc(slices.Clone(list), func(e discoveryv1.Endpoint) bool { return !keep(e) })
	}
	pool := endpoints
	if localOnly {
		pool = filter(pool, isOurs)
	}
	chosen := filter(pool, isReady)
	if len(chosen) == 0 {
		chosen = filter(pool, isLeaving)
	} else if !localOnly {
		noNodeHint := func(e discoveryv1.Endpoint) bool { return len(e.Hints.ForNodes) == 0 }
		noZoneHint := func(e discoveryv1.Endpoint) bool { return len(e.Hints.ForZones) == 0 }
		switch {
		case !slices.ContainsFunc(chosen, noNodeHint) && slices.ContainsFunc(chosen, forNode):
			chosen = filter(chosen, forNode)
		case !slices.ContainsFunc(chosen, noZoneHint) && slices.ContainsFunc(chosen, forZone):
			chosen = filter(chosen, forZone)
		}
	}
	taken := map[string]bool{}
	var words []string
	number := func(e discoveryv1.Endpoint) string { return strings.TrimPrefix(e.Addresses[0], "10.0.0.") }
	for _, e := range chosen {
		taken[number(e)] = true
		words = append(words, number(e))
	}
	words = append(words, "|")
	for _, e := range endpoints {
		if !taken[number(e)] && (isReady(e) || isServing(e)) {
			words = append(words, number(e))
		}
	}
	if rest := filter(endpoints, func(e discoveryv1.Endpoint) bool { return !isReady(e) && !isServing(e) }); len(rest) > 0 {
		words = append(words, "|")
		for _, e := range rest {
			words = append(words, number(e))
		}
	}
	return strings.Join(words, " ")
}
