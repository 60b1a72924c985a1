package cluster

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// newTestFeed is a feed without a reflector.
func newTestFeed(store *Store, published bool) *feed {
	return &feed{
		kind: "Gateway", store: store, published: published, logger: klog.Background(),
		version: &liveVersion{name: "v1", trim: func(object any) (any, error) { return object, nil }},
		synced:  make(chan struct{}), objects: map[types.NamespacedName]Object{},
		stop: func() {},
	}
}

// noErrors wants that nothing went wrong.
func noErrors(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestFeedTakesAListAsOneChange: after a watch that could not go on, what is missing in the
// list is gone, and an object that is as it was stays the one that everybody has.
func TestFeedTakesAListAsOneChange(t *testing.T) {
	versioned := func(name, class, version string) Object {
		g := gateway(name, class)
		g.ResourceVersion = version
		return g
	}
	store := NewStore()
	f := newTestFeed(store, true)
	same := versioned("same", "c", "1")
	noErrors(t, f.Replace([]any{same, versioned("gone", "c", "2"), versioned("edited", "c", "3")}, "3"))
	if !f.hasSynced() {
		t.Error("not synced after a list")
	}
	store.Next()
	noErrors(t, f.Replace([]any{versioned("same", "c", "1"), versioned("edited", "d", "4"), versioned("new", "c", "5")}, "5"))
	got := store.Next().Snapshot.Gateways
	classes := map[string]string{}
	for name, g := range got {
		classes[name.Name] = string(g.Spec.GatewayClassName)
	}
	if diff := cmp.Diff(map[string]string{"same": "c", "edited": "d", "new": "c"}, classes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if f.objects[key("same")] != same || Object(got[key("same")]) != same {
		t.Error("an object that is as it was is held twice")
	}
	noErrors(t, f.Replace([]any{versioned("same", "c", "1"), versioned("edited", "d", "4"), versioned("new", "c", "5")}, "6"))
	if signalled(store) {
		t.Error("the same list again is a change")
	}
}

// TestFeedIgnoresEventsOnceRetired: a reflector may be about to deliver when it is stopped.
func TestFeedIgnoresEventsOnceRetired(t *testing.T) {
	store := NewStore()
	f := newTestFeed(store, true)
	noErrors(t, f.Add(gateway("web", "c")))
	objects := f.retire()
	noErrors(t, f.Add(gateway("late", "c")), f.Update(gateway("web", "late")), f.Delete(gateway("web", "c")), f.Replace([]any{gateway("list", "c")}, "1"))
	if got := slices.Collect(maps.Keys(objects)); !cmp.Equal(got, []types.NamespacedName{key("web")}) {
		t.Errorf("handed over %v", got)
	}
	if got := store.Next().Snapshot.Gateways; len(got) != 1 || got[key("web")].Spec.GatewayClassName != "c" {
		t.Errorf("in the store: %v", got)
	}
}

// TestPublishDuringEvents is for the race detector: the feed that is replaced is
// still told events. Nothing but its own lock may order the two goroutines.
func TestPublishDuringEvents(t *testing.T) {
	store := NewStore()
	old, fresh := newTestFeed(store, true), newTestFeed(store, false)
	noErrors(t, fresh.Add(gateway("fresh", "c")))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		writes := func() bool {
			old.mu.Lock()
			defer old.mu.Unlock()
			return old.published
		}
		for i := 0; writes(); i++ {
			noErrors(t, old.Add(gateway("before-"+strconv.Itoa(i), "c")))
		}
		for i := range 100 {
			noErrors(t, old.Add(gateway("late-"+strconv.Itoa(i), "c")))
		}
	}()
	if err := publish(store, []*liveKind{{name: "Gateway", active: old, candidate: fresh}}); err != nil {
		t.Error(err)
	}
	<-ended
	if got := store.Next().Snapshot.Gateways; len(got) != 1 || got[key("fresh")] == nil {
		t.Errorf("in the store: %d Gateways", len(got))
	}
}
