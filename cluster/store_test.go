package cluster

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

func slice(name, service string, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: addresses}},
	}
	if service != "" {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	}
	return s
}

func gateway(name, class string) *gatewayv1.Gateway {
	return &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       gatewayv1.GatewaySpec{GatewayClassName: gatewayv1.ObjectName(class)},
	}
}

func key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: name}
}

func put(t *testing.T, s *Store, objects ...Object) {
	t.Helper()
	if err := s.Apply(objects, nil); err != nil {
		t.Fatal(err)
	}
}

// signalled drains the signal of Changed.
func signalled(s *Store) bool {
	select {
	case <-s.Changed():
		return true
	default:
		return false
	}
}

func TestStoreFirstUpdateHasSnapshot(t *testing.T) {
	s := NewStore()
	if signalled(s) {
		t.Error("an empty store signals")
	}
	if u := s.Next(); u.Snapshot == nil || len(u.Slices) != 0 {
		t.Errorf("first update: %+v", u)
	}
	if u := s.Next(); u.Snapshot != nil {
		t.Error("second update has a snapshot although nothing changed")
	}
}

func TestStoreDropsNoOps(t *testing.T) {
	s := NewStore()
	put(t, s, gateway("web", "c"), slice("a", "s", "10.0.0.1"))
	s.Next()
	if signalled(s) {
		t.Error("what Next returned is signalled again")
	}

	again := gateway("web", "c")
	again.ResourceVersion = "2"
	again.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	sliceAgain := slice("a", "s", "10.0.0.1")
	sliceAgain.ResourceVersion = "3"
	put(t, s, again, sliceAgain)
	if signalled(s) {
		t.Error("signalled for nothing")
	}
	if u := s.Next(); u.Snapshot != nil || len(u.Slices) != 0 {
		t.Errorf("update for nothing: %+v", u)
	}
	if err := s.Delete(gateway("other", "")); err != nil || signalled(s) {
		t.Errorf("deleting what is not there: signal or %v", err)
	}
	put(t, s, gateway("web", "d"))
	if !signalled(s) || s.Next().Snapshot == nil {
		t.Error("a change was dropped")
	}
}

// TestStoreTellsStatusesFromDecisions: most changes a controller sees are its own
// writes of statuses.
func TestStoreTellsStatusesFromDecisions(t *testing.T) {
	base := func() *gatewayv1.Gateway {
		g := gateway("web", "c")
		g.Generation, g.UID = 1, "u"
		return g
	}
	tests := map[string]struct {
		change     func(*gatewayv1.Gateway)
		statusOnly bool
	}{
		"status": {func(g *gatewayv1.Gateway) {
			g.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.1"}}
		}, true},
		"spec":          {func(g *gatewayv1.Gateway) { g.Spec.GatewayClassName, g.Generation = "d", 2 }, false},
		"label":         {func(g *gatewayv1.Gateway) { g.Labels = map[string]string{"a": "b"} }, false},
		"another":       {func(g *gatewayv1.Gateway) { g.UID = "v" }, false},
		"going":         {func(g *gatewayv1.Gateway) { g.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, false},
		"no generation": {func(g *gatewayv1.Gateway) { g.Generation = 0 }, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := NewStore()
			put(t, s, base())
			if s.Next().StatusOnly {
				t.Error("a new object is a status only")
			}
			g := base()
			test.change(g)
			put(t, s, g)
			if got := s.Next().StatusOnly; got != test.statusOnly {
				t.Errorf("status only: %t", got)
			}
			put(t, s, base(), gateway("other", "c"))
			if s.Next().StatusOnly {
				t.Error("together with a new object it is a status only")
			}
			if err := s.Delete(g); err != nil || s.Next().StatusOnly {
				t.Errorf("gone: a status only, or %v", err)
			}
		})
	}
}

func TestStoreSliceChangeYieldsNoSnapshot(t *testing.T) {
	s := NewStore()
	b, a := slice("b", "s", "10.0.0.2"), slice("a", "s", "10.0.0.1")
	put(t, s, b, a, slice("x", "other", "10.0.0.9"))
	s.Next()

	changed := slice("a", "s", "10.0.0.7")
	put(t, s, changed)
	u := s.Next()
	if u.Snapshot != nil {
		t.Error("slices alone changed, yet there is a snapshot")
	}
	want := map[types.NamespacedName][]*topology.EndpointSlice{key("s"): {topology.NewEndpointSlice(changed), topology.NewEndpointSlice(b)}}
	if diff := cmp.Diff(want, u.Slices); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStoreSliceMovesAndGoes(t *testing.T) {
	s := NewStore()
	put(t, s, slice("a", "s", "10.0.0.1"))
	s.Next()

	moved := slice("a", "t", "10.0.0.1")
	put(t, s, moved)
	want := map[types.NamespacedName][]*topology.EndpointSlice{key("s"): {}, key("t"): {topology.NewEndpointSlice(moved)}}
	if diff := cmp.Diff(want, s.Next().Slices); diff != "" {
		t.Errorf("moved (-want +got):\n%s", diff)
	}

	err := s.Put(slice("a", "", "10.0.0.1"))
	const wantErr = "store objects: EndpointSlice default/a belongs to no Service: add the label kubernetes.io/service-name with the Service's name"
	if err == nil || err.Error() != wantErr {
		t.Errorf("error %v, want %s", err, wantErr)
	}
	want = map[types.NamespacedName][]*topology.EndpointSlice{key("t"): {}}
	if diff := cmp.Diff(want, s.Next().Slices); diff != "" {
		t.Errorf("unlabelled (-want +got):\n%s", diff)
	}
}

func TestStoreSnapshotsAreImmutable(t *testing.T) {
	s := NewStore()
	put(t, s, gateway("web", "c"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	first := s.Next().Snapshot
	put(t, s, gateway("web", "d"), gateway("more", "c"))
	if err := s.Delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
		t.Fatal(err)
	}
	second := s.Next().Snapshot
	if first.Gateways[key("web")].Spec.GatewayClassName != "c" || len(first.Gateways) != 1 || len(first.Namespaces) != 1 {
		t.Errorf("the first snapshot changed: %+v", first)
	}
	if second.Gateways[key("web")].Spec.GatewayClassName != "d" || len(second.Gateways) != 2 || len(second.Namespaces) != 0 {
		t.Errorf("the second snapshot lacks changes: %+v", second)
	}
}

func TestStoreHoldsEveryKind(t *testing.T) {
	s := NewStore()
	for name, k := range kinds {
		object := k.empty()
		object.SetName("x")
		if name == "EndpointSlice" {
			object.SetLabels(map[string]string{discoveryv1.LabelServiceName: "s"})
		}
		if got := kindOf(object); got != name {
			t.Errorf("kindOf(%s) = %s", name, got)
		}
		if err := s.Put(object); err != nil || !signalled(s) {
			t.Errorf("put %s: %v", name, err)
		}
		if err := s.Delete(object); err != nil || !signalled(s) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if err := s.Put(&corev1.Pod{}); err == nil {
		t.Error("a Pod was taken")
	}
}
