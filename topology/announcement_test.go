package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// announcedPools are one that nodes announce and has what the spec of another says, which
// nobody does, and one that has nothing any more but what is retained.
func announcedPools() *Resolution {
	pool := func(name string, mode v1alpha1.AnnouncementMode, has v1alpha1.AddressRange, retained ...string) *v1alpha1.AddressPool {
		p := &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
		p.Spec.Addresses = []v1alpha1.AddressRange{has}
		p.Spec.Announcement = &v1alpha1.Announcement{Mode: mode}
		p.Status.Retained = retained
		return p
	}
	return Resolve(Snapshot{AddressPools: map[string]*v1alpha1.AddressPool{
		"near": pool("near", v1alpha1.AnnouncementLayer2, "192.0.2.48/28"),
		"far":  pool("far", v1alpha1.AnnouncementNone, "198.51.100.0/24"),
		"old":  pool("old", v1alpha1.AnnouncementLayer2, "203.0.113.1", "203.0.113.7"),
	}}, DefaultConfig())
}

func TestAnnouncements(t *testing.T) {
	near, far, retained, nobodys := pool[0], netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.9")
	r := announcedPools()
	inMode := func(mode v1alpha1.AddressMode) func(*Gateway) {
		return func(g *Gateway) { g.Parameters = &Parameters{Mode: mode, of: r} }
	}
	rejected := func(g *Gateway) {
		inMode(v1alpha1.AddressModePool)(g)
		g.Accepted = false
	}
	g := graphOf(0)
	withPool(g, "a", inMode(v1alpha1.AddressModePool), near, far, retained, nobodys)
	withPool(g, "b", rejected, near)
	withPool(g, "c", inMode(v1alpha1.AddressModeNode), pool[1])
	withPool(g, "d", rejected, netip.AddrFrom16(pool[1].As16()))
	got := map[string]string{}
	for addr, a := range g.Announcements() {
		var gateways []string
		for _, gateway := range a.Gateways {
			gateways = append(gateways, gateway.Key.Name)
		}
		slices.Sort(gateways)
		got[addr.String()] = a.Pool.Name + ": " + strings.Join(gateways, " ")
	}
	want := map[string]string{"192.0.2.50": "near: a b", "192.0.2.51": "near: d", "203.0.113.7": "old: a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnnouncedSelects(t *testing.T) {
	edge := labels.SelectorFromSet(labels.Set{"edge": "yes"})
	for _, tt := range []struct {
		announced Announced
		node      labels.Set
		want      bool
	}{
		{Announced{}, nil, false},
		{Announced{Nodes: edge}, labels.Set{"edge": "yes"}, false},
		{Announced{Layer2: true}, nil, true},
		{Announced{Layer2: true, Nodes: edge}, labels.Set{"edge": "yes", "a": "b"}, true},
		{Announced{Layer2: true, Nodes: edge}, nil, false},
	} {
		if got := tt.announced.Selects(tt.node); got != tt.want {
			t.Errorf("%+v selects %v: %t", tt.announced, tt.node, got)
		}
	}
}

// TestForwarderServes: where an address may enter whose Gateway has a listener for each of
// the Services s0, s1, …, given which of them have externalTrafficPolicy Local.
func TestForwarderServes(t *testing.T) {
	none := []string{}
	tests := []struct {
		name      string
		local     string // a word for each Service: local, cluster, weightless or invalid
		endpoints [][]string
		want      string // nodes of n1, n2 and n3
	}{
		{"no Service", "", nil, "n1 n2 n3"},
		{"Cluster", "cluster", [][]string{{"ready node=n1"}}, "n1 n2 n3"},
		{"Cluster without endpoints", "cluster", [][]string{none}, "n1 n2 n3"},
		{"Local", "local", [][]string{{"ready node=n1", "ready node=n3"}}, "n1 n3"},
		{"Local without endpoints", "local", [][]string{none}, ""},
		{"Local, none ready", "local", [][]string{{"not-ready node=n1", "gone node=n2"}}, ""},
		{"ready before terminating", "local", [][]string{{"ready node=n1", "not-ready terminating node=n2"}}, "n1"},
		{"terminating where none is ready", "local", [][]string{{"not-ready terminating node=n2", "gone terminating node=n3"}}, "n2"},
		{"on no node", "local", [][]string{{"ready"}}, ""},
		{"an address of the node does not count", "local", [][]string{{"ready node=elsewhere"}}, ""},
		{"Local and Cluster", "local cluster", [][]string{{"ready node=n1"}, {"ready node=n2"}}, "n1"},
		{"Local without endpoints and Cluster", "local cluster", [][]string{none, none}, "n1 n2 n3"},
		{"two Local", "local local", [][]string{{"ready node=n1", "ready node=n2"}, {"ready node=n2", "ready node=n3"}}, "n2"},
		{"two Local, of which one has endpoints", "local local", [][]string{{"ready node=n1"}, none}, "n1"},
		{"two Local on no node together", "local local", [][]string{{"ready node=n1"}, {"ready node=n2"}}, "n1 n2"},
		{"without weight", "weightless local", [][]string{{"ready node=n1"}, {"ready node=n2"}}, "n2"},
		{"invalid", "invalid", [][]string{{"ready node=n1"}}, "n1 n2 n3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			words := strings.Fields(tt.local)
			g := graphOf(len(words), func(g *Gateway) {
				for i, l := range g.Listeners {
					ref := &l.Winner.Backends[0]
					ref.LocalOnly, ref.Valid = words[i] != "cluster", words[i] != "invalid"
					if words[i] == "weightless" {
						ref.Weight = 0
					}
				}
			})
			a := &Announcement{}
			a.add(g.Gateways[named("gw")])
			a.add(g.Gateways[named("gw")]) // shared by a Gateway with the same Services
			var serving []string
			for _, node := range []string{"n1", "n2", "n3"} {
				f := NewForwarder(Node{Name: node, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
				f.SetGraph(g)
				for i, endpoints := range tt.endpoints {
					f.SetEndpointSlices(named(fmt.Sprintf("s%d", i)), compact(described("a", endpoints...)))
				}
				f.State()
				if f.Serves(pool[0], a) {
					serving = append(serving, node)
				}
				if len(words) > 0 && words[0] == "local" && f.Serves(pool[2], a) != strings.Contains(tt.local, "cluster") {
					t.Errorf("%s serves an address of the family without endpoints", node)
				}
			}
			if got := strings.Join(serving, " "); got != tt.want {
				t.Errorf("served by %q, want %q", got, tt.want)
			}
		})
	}
}

// TestForwarderServesFollows: what endpoints there are is looked at anew.
func TestForwarderServesFollows(t *testing.T) {
	g := graphOf(1, func(g *Gateway) { g.Listeners[0].Winner.Backends[0].LocalOnly = true })
	a := &Announcement{}
	a.add(slices.Collect(maps.Values(g.Gateways))[0])
	f := forwarderOf(g)
	for i, node := range []string{"n1", "n2", "n1"} {
		f.SetEndpointSlices(named("s0"), compact(described("a", "ready node="+node)))
		f.State()
		if got := f.Serves(pool[0], a); got != (node == "n1") {
			t.Errorf("step %d, endpoint on %s: serves %t", i, node, got)
		}
	}
	g.Gateways[named("gw")].Listeners[0].Protocol = gatewayv1.HTTPProtocolType
	other := &Announcement{}
	other.add(g.Gateways[named("gw")])
	if len(other.local) > 0 {
		t.Error("a listener of a protocol that is not served counts")
	}
}
