package cluster

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// feed is one informer: it keeps the Store equal to the objects of one version of
// one kind, once it is published.
type feed struct {
	kind    string
	builtin bool
	version string
	store   *Store
	clock   clock.Clock
	// missing is called when the API server no longer knows the kind.
	missing func()

	synced  <-chan struct{} // the handler has seen the whole first list
	stop    context.CancelFunc
	stopped chan struct{}

	mu        sync.Mutex // guards everything below
	published bool
	objects   map[types.NamespacedName]Object // nil once retired
	failing   bool                            // the last attempt to read failed
}

// startFeed starts an informer; nothing enters the Store before publish.
func startFeed(ctx context.Context, kind *liveKind, version *liveVersion, store *Store, c clock.Clock, missing func()) (*feed, error) {
	f := &feed{
		kind: kind.name, builtin: kind.builtin, version: version.name, store: store, clock: c, missing: missing,
		stopped: make(chan struct{}),
		objects: map[types.NamespacedName]Object{},
	}
	source := cache.ToListWatcherWithWatchListSemantics(f.observe(version.source), version.client)
	informer := cache.NewSharedIndexInformerWithOptions(source, version.example, cache.SharedIndexInformerOptions{ObjectDescription: kind.name})
	logger := klog.FromContext(ctx)
	registration, err := informer.AddEventHandlerWithOptions(&handler{f, logger}, cache.HandlerOptions{Logger: &logger})
	err = errors.Join(err,
		informer.SetTransform(version.trim),
		// observe has told already.
		informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			klog.FromContext(ctx).V(4).Info("Watch ended", "kind", kind.name, "version", version.name, "err", err)
		}))
	if err != nil {
		return nil, err
	}
	f.synced = registration.HasSyncedChecker().Done()
	ctx, f.stop = context.WithCancel(ctx)
	go func() {
		defer close(f.stopped)
		informer.RunWithContext(ctx)
	}()
	return f, nil
}

// handler is the one handler of all kinds.
type handler struct {
	*feed
	logger klog.Logger
}

var _ cache.ResourceEventHandler = (*handler)(nil)

func (h *handler) OnAdd(object any, _ bool) { h.put(object) }
func (h *handler) OnUpdate(_, object any)   { h.put(object) }

func (h *handler) put(object any) {
	o, ok := object.(Object)
	if !ok {
		h.logger.Error(nil, "Object of an unexpected type left out", "kind", h.kind, "object", object)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.objects == nil {
		return // still queued when the informer was stopped
	}
	h.objects[nameOf(o)] = o
	if h.published {
		h.check(h.store.Put(o))
	}
	if crd, ok := o.(*metav1.PartialObjectMetadata); ok && (isGatewayCRD(crd) || isOwnCRD(crd)) {
		h.missing() // or rather: perhaps no longer missing
	}
}

func (h *handler) OnDelete(object any) {
	var name types.NamespacedName
	switch o := object.(type) {
	case Object:
		name = nameOf(o)
	case cache.DeletedFinalStateUnknown: // the watch missed the deletion
		key, err := cache.ParseObjectName(o.Key)
		if err != nil {
			h.check(err)
			return
		}
		name = types.NamespacedName(key)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.objects[name]
	if known == nil {
		return
	}
	delete(h.objects, name)
	if h.published {
		h.check(h.store.Delete(known))
	}
}

func (h *handler) check(err error) {
	if err != nil {
		h.logger.Error(err, "Object left out", "kind", h.kind)
	}
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// hasSynced reports whether the whole first list was seen.
func (f *feed) hasSynced() bool {
	select {
	case <-f.synced:
		return true
	default:
		return false
	}
}

// publish hands the objects of the kinds' candidates to the Store as one change, in
// place of those of the active feeds. From then on the candidates write themselves.
func publish(store *Store, kinds []*liveKind) error {
	var put, remove []Object
	for _, kind := range kinds {
		var before map[types.NamespacedName]Object
		if kind.active != nil {
			before = kind.active.retire()
		}
		f := kind.candidate
		f.mu.Lock()
		defer f.mu.Unlock() // the handler must not overtake this
		f.published = true
		for name, object := range f.objects {
			put = append(put, object)
			delete(before, name)
		}
		remove = slices.AppendSeq(remove, maps.Values(before))
	}
	return store.Apply(put, remove)
}

// retire stops the feed and hands over the objects it has in the Store. Events that
// the informer still delivers change nothing any more.
func (f *feed) retire() map[types.NamespacedName]Object {
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	objects := f.objects
	f.published, f.objects = false, nil
	return objects
}

// observe tells once when reading fails, and once when it works again. It also
// waits out an API server that cannot be reached: the informer's own backoff
// grows to a minute, a long time for traffic to follow stale objects.
func (f *feed) observe(source cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (list runtime.Object, err error) {
			f.attempt(ctx, func() error {
				list, err = source.ListWithContextFunc(ctx, options)
				return err
			})
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (w apiwatch.Interface, err error) {
			f.attempt(ctx, func() error {
				w, err = source.WatchFuncWithContext(ctx, options)
				return err
			})
			return w, err
		},
	}
}

// Bounds of the pause before an API server that did not answer is tried again.
const (
	minPause = 500 * time.Millisecond
	maxPause = 5 * time.Second
)

// attempt calls do until the API server answers. One that cannot, such as a load
// balancer without servers behind it, or a server without its store, has not.
func (f *feed) attempt(ctx context.Context, do func() error) {
	for pause := minPause; ; pause = min(pause*2, maxPause) {
		err := do()
		f.note(ctx, err)
		if Answered(err) {
			return
		}
		// Half of it is random: nodes should not come back all at once.
		timer := f.clock.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

// Answered reports whether a request that ended with this error, or none, was answered
// by an API server that works: a conflict is an answer, "too many requests" is not.
func Answered(err error) bool {
	var status apierrors.APIStatus
	if err == nil || !errors.As(err, &status) {
		return err == nil
	}
	code := status.Status().Code
	return code >= http.StatusBadRequest && code < http.StatusInternalServerError && code != http.StatusTooManyRequests
}

func (f *feed) note(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil,
		apierrors.IsResourceExpired(err), apierrors.IsGone(err), // asks for a new list
		apierrors.IsInvalid(err): // asks for a list instead of a watch that lists
		return
	case apierrors.IsNotFound(err) && !f.builtin:
		f.missing() // tells if that is so
		return
	}
	f.mu.Lock()
	was := f.failing
	f.failing = err != nil
	f.mu.Unlock()
	logger := klog.FromContext(ctx)
	switch {
	case err != nil && !was:
		logger.Error(err, "Cannot read objects, keeping those known and trying again", "kind", f.kind, "version", f.version)
	case err != nil:
		logger.V(4).Info("Still cannot read objects", "kind", f.kind, "version", f.version, "err", err)
	case was:
		logger.Info("Reading objects again", "kind", f.kind, "version", f.version)
	}
}
