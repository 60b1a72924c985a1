package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// TestPlan: ready is what was once committed for a Gateway, and is committed still.
func TestPlan(t *testing.T) {
	source := &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "public"}}
	source.Spec.Addresses = []v1alpha1.AddressRange{"203.0.113.0/24"}
	source.Spec.Announcement = &v1alpha1.Announcement{Mode: v1alpha1.AnnouncementLayer2}
	parameters := edge()
	class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "portway"}}
	class.Spec.ControllerName = topology.ControllerName
	class.Spec.ParametersRef = &gatewayv1.ParametersReference{
		Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To(gatewayv1.Namespace("default")), Name: "edge",
	}
	gateway := func(name string, port gatewayv1.PortNumber, addresses ...string) *gatewayv1.Gateway {
		g := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		g.Spec.GatewayClassName = "portway"
		g.Status.Conditions = []metav1.Condition{{Type: topology.ConditionAddressMode, Status: metav1.ConditionTrue, Reason: "Pool"}}
		g.Spec.Listeners = []gatewayv1.Listener{{Name: "l", Protocol: gatewayv1.TCPProtocolType, Port: port}}
		for _, address := range addresses {
			g.Status.Addresses = append(g.Status.Addresses, gatewayv1.GatewayStatusAddress{Value: address})
		}
		return g
	}
	decide := func(gateways ...*gatewayv1.Gateway) *topology.Graph {
		all := map[types.NamespacedName]*gatewayv1.Gateway{}
		for _, g := range gateways {
			all[types.NamespacedName{Namespace: g.Namespace, Name: g.Name}] = g
		}
		r := topology.Resolve(topology.Snapshot{
			GatewayClasses: map[string]*gatewayv1.GatewayClass{"portway": class}, AddressPools: map[string]*v1alpha1.AddressPool{"public": source},
			Gateways:          all,
			GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{{Namespace: "default", Name: "edge"}: parameters},
		}, topology.DefaultConfig())
		return r.Build(cluster.Assigned(r))
	}
	one, two := decide(gateway("web", 80, "203.0.113.7")), decide(gateway("web", 81, "203.0.113.7"))
	three := decide(gateway("web", 81, "203.0.113.7", "203.0.113.8"))
	beside := decide(gateway("web", 81, "203.0.113.7"), gateway("db", 90, "203.0.113.8"))
	instead := decide(gateway("db", 90, "203.0.113.7"))
	web, db := types.NamespacedName{Namespace: "default", Name: "web"}, types.NamespacedName{Namespace: "default", Name: "db"}
	p, f := plan{}, topology.NewForwarder(topology.Node{Name: "n1"})
	for i, step := range []struct {
		graph   *topology.Graph
		web, db *topology.Graph // that are committed
		want    string
	}{
		{one, nil, nil, "203.0.113.7 false"},
		{one, two, nil, "203.0.113.7 false"},
		{one, one, nil, "203.0.113.7 true"},
		{two, one, nil, "203.0.113.7 true"}, // the rules before are in place
		{three, one, nil, "203.0.113.7 true, 203.0.113.8 false"},
		{three, three, nil, "203.0.113.7 true, 203.0.113.8 true"},
		{two, three, nil, "203.0.113.7 true"},
		{three, two, nil, "203.0.113.7 true, 203.0.113.8 false"},
		{three, nil, nil, "203.0.113.7 false, 203.0.113.8 false"},
		{beside, beside, beside, "203.0.113.7 true, 203.0.113.8 true"},
		{instead, nil, beside, "203.0.113.7 false"}, // the rules before are of another Gateway
		{instead, nil, instead, "203.0.113.7 true"},
	} {
		results := rules.Results{Committed: map[string]string{}}
		for key, graph := range map[types.NamespacedName]*topology.Graph{web: step.web, db: step.db} {
			if graph != nil {
				results.Committed[key.String()] = graph.Gateways[key].Digest
			}
		}
		f.SetGraph(step.graph)
		f.State()
		next := p.next(step.graph, f, nil, results)
		var texts []string
		for _, addr := range slices.SortedFunc(maps.Keys(next), netip.Addr.Compare) {
			texts = append(texts, fmt.Sprint(addr, " ", next[addr].ready))
		}
		if got := strings.Join(texts, ", "); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}
