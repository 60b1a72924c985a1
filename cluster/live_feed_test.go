package cluster

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// newTestFeed is a feed without an informer, and the handler to tell it events.
func newTestFeed(store *Store, published bool) *handler {
	f := &feed{
		kind: "Gateway", store: store, published: published,
		objects: map[types.NamespacedName]Object{},
		stop:    func() {},
	}
	return &handler{f, klog.Background()}
}

func TestFeedUnwrapsTombstones(t *testing.T) {
	store := NewStore()
	h := newTestFeed(store, true)
	h.OnAdd(gateway("web", "c"), true)
	h.OnAdd(gateway("api", "c"), true)
	h.OnDelete(cache.DeletedFinalStateUnknown{Key: "default/web", Obj: gateway("web", "older")})
	h.OnDelete(cache.DeletedFinalStateUnknown{Key: "default/api"}) // the last state is not known at all
	h.OnDelete(cache.DeletedFinalStateUnknown{Key: "default/never"})
	if got := store.Next().Snapshot.Gateways; len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestFeedIgnoresEventsOnceRetired: an informer delivers what it had queued after it
// was stopped.
func TestFeedIgnoresEventsOnceRetired(t *testing.T) {
	store := NewStore()
	h := newTestFeed(store, true)
	h.OnAdd(gateway("web", "c"), true)
	objects := h.retire()
	h.OnAdd(gateway("late", "c"), false)
	h.OnUpdate(nil, gateway("web", "late"))
	h.OnDelete(gateway("web", "c"))
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
	fresh.OnAdd(gateway("fresh", "c"), true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		writes := func() bool {
			old.mu.Lock()
			defer old.mu.Unlock()
			return old.published
		}
		for i := 0; writes(); i++ {
			old.OnAdd(gateway("before-"+strconv.Itoa(i), "c"), false)
		}
		for i := range 100 {
			old.OnAdd(gateway("late-"+strconv.Itoa(i), "c"), false)
		}
	}()
	if err := publish(store, []*liveKind{{name: "Gateway", active: old.feed, candidate: fresh.feed}}); err != nil {
		t.Error(err)
	}
	<-ended
	if got := store.Next().Snapshot.Gateways; len(got) != 1 || got[key("fresh")] == nil {
		t.Errorf("in the store: %d Gateways", len(got))
	}
}
