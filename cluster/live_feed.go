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
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// feed is one reflector and what it fills: it keeps the Store equal to the objects of one
// version of one kind, once it is published. There is no informer between the two: its own
// index and its queues would hold every object's name twice more, and pass each event
// through three goroutines.
type feed struct {
	kind    string
	builtin bool
	version *liveVersion
	store   *Store
	clock   clock.Clock
	// missing is called when the API server no longer knows the kind.
	missing func()
	logger  klog.Logger

	synced  chan struct{} // closed when the whole first list was seen
	stop    context.CancelFunc
	stopped chan struct{}

	mu        sync.Mutex // guards everything below
	published bool
	objects   map[types.NamespacedName]Object // nil once retired
	failing   bool                            // the last attempt to read failed
}

var _ cache.TransformingStore = (*feed)(nil)

// Pauses between lists, or watches, that end with an error although the API server answered:
// those of client-go's informers.
var relist = wait.Backoff{Duration: 800 * time.Millisecond, Cap: 30 * time.Second, Steps: 38, Factor: 2, Jitter: 1}

const relistReset = 2 * time.Minute

// startFeed starts a reflector; nothing enters the Store before publish.
func startFeed(ctx context.Context, kind *liveKind, version *liveVersion, store *Store, c clock.Clock, missing func()) *feed {
	f := &feed{
		kind: kind.name, builtin: kind.builtin, version: version, store: store, clock: c, missing: missing, logger: klog.FromContext(ctx),
		synced: make(chan struct{}), stopped: make(chan struct{}),
		objects: map[types.NamespacedName]Object{},
	}
	source := cache.ToListWatcherWithWatchListSemantics(f.observe(version.source), version.client)
	reflector := cache.NewReflectorWithOptions(source, version.example, f, cache.ReflectorOptions{Logger: &f.logger, Name: kind.name, Clock: c})
	ctx, f.stop = context.WithCancel(ctx)
	go func() {
		defer close(f.stopped)
		_ = relist.DelayWithReset(c, relistReset).Until(ctx, true, true, func(ctx context.Context) (bool, error) {
			if err := reflector.ListAndWatchWithContext(ctx); err != nil { // observe has told already
				f.logger.V(4).Info("Watch ended", "kind", f.kind, "version", version.name, "err", err)
			}
			return false, nil
		}) // ends with ctx only
	}()
	return f
}

// Transformer trims what is listed by watching while it comes in.
func (f *feed) Transformer() cache.TransformFunc { return f.version.trim }

// Resync has nothing to do: nobody works on what is held.
func (f *feed) Resync() error { return nil }

// Add takes over an object.
func (f *feed) Add(object any) error { return f.Update(object) }

// Update takes over an object.
func (f *feed) Update(given any) error {
	o, ok := f.trim(given)
	if !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects == nil {
		return nil // stopped, and not ended yet
	}
	f.objects[nameOf(o)] = o
	if f.published {
		f.check(f.store.Put(o))
	}
	f.foundCRD(o)
	return nil
}

// Delete drops an object.
func (f *feed) Delete(object any) error {
	o, ok := f.trim(object)
	if !ok {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects[nameOf(o)] == nil {
		return nil
	}
	delete(f.objects, nameOf(o))
	if f.published {
		f.check(f.store.Delete(o))
	}
	return nil
}

// Replace takes over a whole list, as one change. Of an object that is as it was, the one
// that everybody has already is kept.
func (f *feed) Replace(list []any, _ string) error {
	objects := make(map[types.NamespacedName]Object, len(list))
	var put, remove []Object
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects == nil {
		return nil
	}
	for _, given := range list {
		o, ok := f.trim(given)
		if !ok {
			continue
		}
		name := nameOf(o)
		if old := f.objects[name]; old != nil && old.GetResourceVersion() == o.GetResourceVersion() && o.GetResourceVersion() != "" {
			o = old
		} else {
			put = append(put, o)
		}
		objects[name] = o
	}
	for name, old := range f.objects {
		if objects[name] == nil {
			remove = append(remove, old)
		}
	}
	f.objects = objects
	if f.published && len(put)+len(remove) > 0 {
		f.check(f.store.Apply(put, remove))
	}
	for _, o := range put {
		f.foundCRD(o)
	}
	if !f.hasSynced() {
		close(f.synced)
	}
	return nil
}

// trim makes an object small.
func (f *feed) trim(given any) (Object, bool) {
	trimmed, err := f.version.trim(given)
	o, ok := trimmed.(Object)
	if err != nil || !ok {
		f.logger.Error(err, "Object of an unexpected type left out", "kind", f.kind, "object", given)
	}
	return o, err == nil && ok
}

// foundCRD asks for another look when there is news of a kind of ours.
func (f *feed) foundCRD(o Object) {
	if crd, ok := o.(*metav1.PartialObjectMetadata); ok && (isGatewayCRD(crd) || isOwnCRD(crd)) {
		f.missing() // or rather: perhaps no longer missing
	}
}

func (f *feed) check(err error) {
	if err != nil {
		f.logger.Error(err, "Object left out", "kind", f.kind)
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
		defer f.mu.Unlock() // what comes in must not overtake this
		f.published = true
		for name, object := range f.objects {
			put = append(put, object)
			delete(before, name)
		}
		remove = slices.AppendSeq(remove, maps.Values(before))
	}
	return store.Apply(put, remove)
}

// retire stops the feed and hands over the objects it has in the Store. What still comes in
// changes nothing any more.
func (f *feed) retire() map[types.NamespacedName]Object {
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	objects := f.objects
	f.published, f.objects = false, nil
	return objects
}

// observe tells once when reading fails, and once when it works again. It also
// waits out an API server that cannot be reached: the pauses of relist
// grow to a minute, a long time for traffic to follow stale objects.
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
		logger.Error(err, "Cannot read objects, keeping those known and trying again", "kind", f.kind, "version", f.version.name)
	case err != nil:
		logger.V(4).Info("Still cannot read objects", "kind", f.kind, "version", f.version.name, "err", err)
	case was:
		logger.Info("Reading objects again", "kind", f.kind, "version", f.version.name)
	}
}
