package topology

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// TestNodesThatShareMaps: Missing takes out of what is shared, and nodes of several
// groups are named in order.
func TestNodesThatShareMaps(t *testing.T) {
	web, mail := types.NamespacedName{Name: "web"}, types.NamespacedName{Name: "mail"}
	committed := map[types.NamespacedName]string{web: "1:w", mail: "1:m"}
	lacksWeb, lacksMail := map[types.NamespacedName]bool{web: true}, map[types.NamespacedName]bool{mail: true}
	fleet := newFleet(Reports{Nodes: []NodeReport{
		{Node: "e", Committed: committed, Missing: lacksWeb},
		{Node: "d", Committed: committed, Missing: lacksMail},
		{Node: "c"},
		{Node: "b", Committed: committed},
		{Node: "a", Committed: committed, Missing: lacksWeb},
	}})
	if n := len(fleet.groups); n != 4 {
		t.Errorf("%d groups", n)
	}
	for want, gateway := range map[string]*Gateway{
		"a c e":     {Key: web, Digest: "1:w"},
		"c d":       {Key: mail, Digest: "1:m"},
		"a b c d e": {Key: web, Digest: "1:edited"},
	} {
		var names []string
		for _, node := range fleet.behind(gateway) {
			names = append(names, node.Node)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s at %s: behind are %s, want %s", gateway.Key.Name, gateway.Digest, got, want)
		}
	}
}

// TestSilentNodesAreNamedWithoutTheirNumber: it would change every Gateway's message
// each time.
func TestSilentNodesAreNamedWithoutTheirNumber(t *testing.T) {
	four, five := everyNodeServes([]string{"a", "b", "c", "d"}), everyNodeServes([]string{"a", "b", "c", "d", "e"})
	if four != five || !strings.Contains(four, "the agent of a, b, c and others,") {
		t.Errorf("%s\n%s", four, five)
	}
}
