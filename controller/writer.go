package controller

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// writeTimeout bounds one change, the client's own rate limit included.
const writeTimeout = 30 * time.Second

// writer writes what the last pass found to differ, while it leads. Passes never
// wait for it. Safe for concurrent use.
type writer struct {
	clients  clients
	clock    clock.PassiveClock
	recorder recorder
	workers  int

	term sync.Mutex // held while writing; it tells when that has ended

	failing atomic.Bool // the last write failed

	mu      sync.Mutex // guards everything below
	pending map[objectKey]*change
	// written is what the API answered, by what a Snapshot still shows: passes
	// run before the informers have seen our writes.
	written map[seenObject]writtenObject
	queues  *queues // nil while not leading
}

// seenObject is a version of an object as a Snapshot showed it.
type seenObject struct {
	kind            gatewayv1.Kind
	uid             types.UID
	resourceVersion string
}

type writtenObject struct {
	object any // the kind's object type
	// refused is the desired status that the API did not take over in full, nil
	// where it did.
	refused any
}

// queues hold the keys of changes. Routes are many and wait for each other only.
type queues struct {
	gateways, routes workqueue.TypedRateLimitingInterface[objectKey]
}

func newWriter(c clients, clock clock.PassiveClock, r recorder, workers int) *writer {
	return &writer{
		clients: c, clock: clock, recorder: r, workers: workers,
		pending: map[objectKey]*change{}, written: map[seenObject]writtenObject{},
	}
}

// offer replaces what is to be written.
func (w *writer) offer(changes []*change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = make(map[objectKey]*change, len(changes))
	for _, c := range changes {
		w.pending[c.key] = c
		w.queues.add(c.key)
	}
	pendingWrites.Set(float64(len(w.pending)))
}

// settle forgets what was written to objects that Snapshots show a later version
// of.
func (w *writer) settle(s *topology.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.written) == 0 {
		return
	}
	still := make(map[seenObject]writtenObject, len(w.written))
	keep := func(kind gatewayv1.Kind, o object) {
		seen := seenObject{kind, o.GetUID(), o.GetResourceVersion()}
		if latest, ok := w.written[seen]; ok {
			still[seen] = latest
		}
	}
	for _, o := range s.GatewayClasses {
		keep("GatewayClass", o)
	}
	for _, o := range s.Gateways {
		keep("Gateway", o)
	}
	for _, o := range s.ListenerSets {
		keep("ListenerSet", o)
	}
	for _, o := range s.TCPRoutes {
		keep("TCPRoute", o)
	}
	for _, o := range s.UDPRoutes {
		keep("UDPRoute", o)
	}
	w.written = still
}

func (w *writer) recall(seen seenObject) (writtenObject, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	latest, ok := w.written[seen]
	return latest, ok
}

func (w *writer) remember(seen seenObject, latest writtenObject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[seen] = latest
}

// run writes until ctx ends and every write has ended.
func (w *writer) run(ctx context.Context) {
	w.term.Lock()
	defer w.term.Unlock()
	leading.Set(1)
	defer leading.Set(0)
	q := w.open()
	var workers sync.WaitGroup
	half := w.workers / 2
	for range half {
		workers.Go(func() { w.work(ctx, q.gateways) })
	}
	for range w.workers - half {
		workers.Go(func() { w.work(ctx, q.routes) })
	}
	<-ctx.Done()
	w.close(q)
	workers.Wait()
}

// open starts with what the last pass left to write.
func (w *writer) open() *queues {
	limiter := func() workqueue.TypedRateLimiter[objectKey] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[objectKey](200*time.Millisecond, 15*time.Second)
	}
	q := &queues{
		gateways: workqueue.NewTypedRateLimitingQueue(limiter()),
		routes:   workqueue.NewTypedRateLimitingQueue(limiter()),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queues = q
	for key := range w.pending {
		q.add(key)
	}
	return q
}

func (w *writer) close(q *queues) {
	w.mu.Lock()
	w.queues = nil
	w.mu.Unlock()
	q.gateways.ShutDown()
	q.routes.ShutDown()
}

// leads reports whether this writer writes.
func (w *writer) leads() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queues != nil
}

func (q *queues) add(key objectKey) {
	if q != nil {
		q.of(key).Add(key)
	}
}

func (q *queues) of(key objectKey) workqueue.TypedRateLimitingInterface[objectKey] {
	if key.kind == topology.KindTCPRoute || key.kind == topology.KindUDPRoute {
		return q.routes
	}
	return q.gateways
}

func (w *writer) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[objectKey]) {
	for {
		key, shutdown := queue.Get()
		if shutdown || ctx.Err() != nil {
			return
		}
		if err := w.process(ctx, key); err != nil && ctx.Err() == nil {
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

// process makes one change, if it is still wanted.
func (w *writer) process(ctx context.Context, key objectKey) error {
	w.mu.Lock()
	c := w.pending[key]
	w.mu.Unlock()
	if c == nil {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	result, err := c.write(limited, w)
	if err != nil && ctx.Err() != nil {
		return err // the end of the term: whoever leads next completes it
	}
	statusWrites.WithLabelValues(string(key.kind), string(result)).Inc()
	logger := klog.FromContext(ctx)
	if err != nil {
		// The first one for an operator; thousands may follow while an API server is down.
		if !w.failing.Swap(true) {
			logger.Error(err, "Could not write a status, trying again", "kind", key.kind, "object", key.NamespacedName)
		}
		logger.V(4).Info("Could not write a status", "kind", key.kind, "object", key.NamespacedName, "err", err)
		return err
	}
	w.failing.Store(false)
	logger.V(4).Info("Status", "kind", key.kind, "object", key.NamespacedName, "outcome", result)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending[key] == c {
		delete(w.pending, key)
		pendingWrites.Set(float64(len(w.pending)))
	}
	return nil
}

// conflict counts a write that lost against another.
func (w *writer) conflict(kind gatewayv1.Kind) {
	writeConflicts.WithLabelValues(string(kind)).Inc()
}

// ended returns when nothing is being written.
func (w *writer) ended() {
	w.term.Lock()
	defer w.term.Unlock()
}
