package cluster

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

func gatewayWithStatus(accepted, programmed metav1.ConditionStatus) *gatewayv1.Gateway {
	g := gateway("web", "c")
	completeType(g)
	g.Generation = 3
	g.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: accepted, Reason: "A", ObservedGeneration: 3}}
	g.Status.Listeners = []gatewayv1.ListenerStatus{{Name: "l", Conditions: []metav1.Condition{{Type: "Programmed", Status: programmed, Reason: "P"}}}}
	return g
}

// TestTransitionTimeMovesWithStatusOnly walks a condition through changes and a
// restart.
func TestTransitionTimeMovesWithStatusOnly(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(minutes int) metav1.Time { return metav1.NewTime(start.Add(time.Duration(minutes) * time.Minute)) }
	times := func(g *gatewayv1.Gateway) [2]time.Time {
		return [2]time.Time{g.Status.Conditions[0].LastTransitionTime.UTC(), g.Status.Listeners[0].Conditions[0].LastTransitionTime.UTC()}
	}
	var tr Transitions
	apply := func(minutes int, accepted, programmed metav1.ConditionStatus) *gatewayv1.Gateway {
		g := gatewayWithStatus(accepted, programmed)
		tr.Apply([]Object{g}, at(minutes))
		return g
	}
	apply(0, "True", "False")
	if got, want := times(apply(1, "True", "True")), [2]time.Time{at(0).Time, at(1).Time}; got != want {
		t.Errorf("after a change: %v, want %v", got, want)
	}
	text, err := StatusYAML([]Object{apply(2, "True", "True")})
	if err != nil {
		t.Fatal(err)
	}
	tr = Transitions{}
	tr.Restore(text)
	if got, want := times(apply(3, "False", "True")), [2]time.Time{at(3).Time, at(1).Time}; got != want {
		t.Errorf("after a restart: %v, want %v", got, want)
	}
	tr = Transitions{}
	tr.Restore([]byte("junk: [\n---\nkind: Gateway\nfoo: 1\n---\n- 1\n"))
	if got, want := times(apply(4, "True", "True")), [2]time.Time{at(4).Time, at(4).Time}; got != want {
		t.Errorf("after junk: %v, want %v", got, want)
	}
}

func TestStatusYAML(t *testing.T) {
	text, err := StatusYAML([]Object{gatewayWithStatus("True", "False")})
	if err != nil {
		t.Fatal(err)
	}
	const want = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  generation: 3
  name: web
  namespace: default
status:
  conditions:
  - message: ""
    observedGeneration: 3
    reason: A
    status: "True"
    type: Accepted
  listeners:
  - attachedRoutes: 0
    conditions:
    - message: ""
      reason: P
      status: "False"
      type: Programmed
    name: l
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatusObjectsKeepVersionsAndOrder(t *testing.T) {
	objects, err := Load([]string{"../examples/tcp-routing.yaml", "../examples/tcp-routing-backends.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	resolution := topology.Resolve(*objects.Snapshot, topology.DefaultConfig())
	graph := resolution.Build(Assign(resolution, []netip.Addr{netip.MustParseAddr("192.0.2.1")}))
	var got []string
	for _, o := range StatusObjects(objects.Snapshot, graph.Statuses(topology.Reports{})) {
		got = append(got, o.GetObjectKind().GroupVersionKind().GroupVersion().String()+" "+keyOf(o).String())
	}
	want := []string{
		"gateway.networking.k8s.io/v1 GatewayClass my-tcp-gateway-class",
		"gateway.networking.k8s.io/v1 Gateway default/my-tcp-gateway",
		"gateway.networking.k8s.io/v1alpha2 TCPRoute default/tcp-app-1",
		"gateway.networking.k8s.io/v1alpha2 TCPRoute default/tcp-app-2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s := objects.Snapshot.Gateways[key("my-tcp-gateway")].Status; len(s.Conditions) > 0 {
		t.Error("the snapshot's object was changed")
	}
}

func TestUnserved(t *testing.T) {
	objects, err := loadText(t, gatewayYAML("web", 80)+"---\n"+
		strings.Replace(routeHead, "{name: r}", "{name: r1}", 1)+"  parentRefs: [{name: wbe}, {name: mesh, kind: Service, group: \"\"}]\n  rules:\n  - backendRefs: [{name: s, port: 1}]\n---\n"+
		strings.Replace(routeHead, "{name: r}", "{name: r2}", 1)+"  rules:\n  - backendRefs: [{name: s, port: 1}]\n---\n"+
		"apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {name: ls}\nspec:\n  parentRef: {name: gone, namespace: x}\n"+oneListener)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`Gateway default/web is not served: GatewayClass "c" does not exist; add it, with controllerName portway.dev/gateway-controller`,
		`ListenerSet default/ls is not served: Gateway x/gone does not exist; add it or correct spec.parentRef`,
		`TCPRoute default/r1 is not served by spec.parentRefs[0]: Gateway default/wbe does not exist; add it or correct the name`,
		`TCPRoute default/r2 is not served: it names no Gateway; add spec.parentRefs`,
	}
	if diff := cmp.Diff(want, Unserved(objects.Snapshot)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
