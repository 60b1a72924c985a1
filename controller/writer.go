package controller

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

const (
	// writeTimeout bounds one change, the client's own rate limit included.
	writeTimeout = 30 * time.Second
	// unseenFor is how long it is believed that an object is as the API answered to
	// a write although the informers show it as before: as long as from one full
	// pass to the next. Somebody may have restored what was there, and that is
	// nothing new to informers.
	unseenFor = 30 * time.Second
	// refusedFor is how long the API is not asked again for what it did not take over.
	refusedFor = 10 * time.Minute
)

// writer writes what the last pass found to differ, while it leads. Passes never
// wait for it. Safe for concurrent use.
type writer struct {
	clients  clients
	clock    clock.PassiveClock
	recorder recorder
	events   flowcontrol.RateLimiter // of what recorder gets
	workers  int

	term chan struct{} // full while writing; it tells when that has ended

	failing atomic.Bool // the last write failed
	news    func()      // a term has begun, or there is something unheard
	unheard atomic.Bool // failures have changed since the last pass

	mu      sync.Mutex // guards everything below
	pending map[objectKey]*change
	// written is what the API answered last, while Snapshots show what was there
	// before: passes run before the informers have seen our writes.
	written     map[objectID]*writtenObject
	failures    map[objectKey]string // why Services could not be written
	crdVersions map[string]string    // of the last Snapshot
	queues      *queues              // nil while not leading
	present     *term                // likewise
}

// objectID tells an object from a later one of the same name.
type objectID struct {
	kind gatewayv1.Kind
	uid  types.UID
}

// writtenObject is the last answer of the API about an object. Immutable.
type writtenObject struct {
	object object
	at     time.Time
	// seen is the version that the Snapshot showed which the write came from.
	seen string
	// refused is the desired status that the API did not take over in full, nil
	// where it did.
	refused any
}

// speaksOf reports whether the answer is about what a Snapshot shows in a version:
// it is newer than that, or of that version and lacks what the API refused.
func (o *writtenObject) speaksOf(version string) bool {
	return version == o.seen || o.refused != nil && version == o.object.GetResourceVersion()
}

// doubtful reports whether the API has to be asked whether it still is so.
func (o *writtenObject) doubtful(version string, now time.Time) bool {
	return version != o.object.GetResourceVersion() && now.Sub(o.at) >= unseenFor
}

// again is the answer to that question.
func (o *writtenObject) again(fresh object, now time.Time) *writtenObject {
	answer := &writtenObject{object: fresh, at: now, seen: o.seen}
	if fresh.GetResourceVersion() == o.object.GetResourceVersion() {
		answer.refused = o.refused
	}
	return answer
}

// queues hold the keys of changes. Routes are many and wait for each other only.
type queues struct {
	gateways, routes workqueue.TypedRateLimitingInterface[objectKey]
}

func newWriter(c clients, clock clock.PassiveClock, r recorder, workers int) *writer {
	return &writer{
		clients: c, clock: clock, recorder: r, workers: workers, news: func() {}, term: make(chan struct{}, 1),
		events:  flowcontrol.NewTokenBucketRateLimiter(EventQPS, eventBacklog),
		pending: map[objectKey]*change{}, written: map[objectID]*writtenObject{}, failures: map[objectKey]string{},
	}
}

// offer replaces what is to be written, if it was found in the present term, nil for
// none. What failed waits for its turn unless something else is wanted by now.
func (w *writer) offer(t *term, changes []*change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t != w.present {
		return // another pass comes
	}
	before := w.pending
	w.pending = make(map[objectKey]*change, len(changes))
	for _, c := range changes {
		w.pending[c.key] = c
		if old := before[c.key]; old == nil || !c.wants(old.desired) {
			w.queues.add(c.key)
		}
	}
	maps.DeleteFunc(w.failures, func(key objectKey, _ string) bool { return w.pending[key] == nil })
	pendingWrites.Set(float64(len(w.pending)))
}

// settle forgets what was written to objects that Snapshots show a later version
// of, and what other CRDs than the present ones refused.
func (w *writer) settle(s *topology.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	upgraded := !maps.Equal(w.crdVersions, s.CRDVersions)
	w.crdVersions = s.CRDVersions
	if len(w.written) == 0 {
		return
	}
	still := make(map[objectID]*writtenObject, len(w.written))
	keep := func(kind gatewayv1.Kind, o object) {
		id := objectID{kind, o.GetUID()}
		latest := w.written[id]
		if latest == nil || !latest.speaksOf(o.GetResourceVersion()) || upgraded && latest.refused != nil {
			return
		}
		still[id] = latest
	}
	for _, o := range s.GatewayClasses {
		keep("GatewayClass", o)
	}
	for _, o := range s.AddressPools {
		keep("AddressPool", o)
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

// recall returns the last answer about an object, nil if there was none, the
// Snapshot shows a later one, or what was refused may be taken over by now.
func (w *writer) recall(id objectID, version string) *writtenObject {
	w.mu.Lock()
	defer w.mu.Unlock()
	latest := w.written[id]
	if latest == nil || !latest.speaksOf(version) {
		return nil
	}
	if latest.refused != nil && w.clock.Since(latest.at) >= refusedFor {
		return nil
	}
	return latest
}

func (w *writer) remember(id objectID, latest *writtenObject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[id] = latest
}

// run writes until ctx ends and every write has ended.
func (w *writer) run(ctx context.Context) {
	w.term <- struct{}{}
	defer func() { <-w.term }()
	if ctx.Err() != nil {
		return
	}
	leading.Set(1)
	defer leading.Set(0)
	t := w.begin(ctx)
	if t == nil {
		return
	}
	q := w.open(t)
	w.news()
	var workers sync.WaitGroup
	// Routes are many; Gateways only must not wait for them.
	few := max(1, w.workers/4)
	for range few {
		workers.Go(func() { w.work(ctx, q.gateways) })
	}
	for range w.workers - few {
		workers.Go(func() { w.work(ctx, q.routes) })
	}
	<-ctx.Done()
	w.close(q)
	workers.Wait()
}

// begin returns what has to be known to lead, nil if ctx ends before.
func (w *writer) begin(ctx context.Context) *term {
	const pause, patience = 100 * time.Millisecond, 5 * time.Second
	for {
		limited, cancel := context.WithTimeout(ctx, patience)
		t, err := beginTerm(limited, w.clients.listGateways)
		cancel()
		if err == nil {
			return t
		}
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Cannot read what addresses Gateways have, and writes nothing before")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// open starts with nothing to write: what was found before this term may give somebody
// an address that another controller has given to somebody else since.
func (w *writer) open(t *term) *queues {
	limiter := func() workqueue.TypedRateLimiter[objectKey] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[objectKey](200*time.Millisecond, 15*time.Second)
	}
	q := &queues{
		gateways: workqueue.NewTypedRateLimitingQueue(limiter()),
		routes:   workqueue.NewTypedRateLimitingQueue(limiter()),
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queues, w.present, w.pending = q, t, map[objectKey]*change{}
	clear(w.failures)
	pendingWrites.Set(0)
	return q
}

func (w *writer) close(q *queues) {
	w.mu.Lock()
	w.queues, w.present = nil, nil
	w.mu.Unlock()
	q.gateways.ShutDown()
	q.routes.ShutDown()
}

// leads in a term, nil if it does not lead.
func (w *writer) presentTerm() *term {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.present
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
			logger.Error(err, "Could not write, trying again", "kind", key.kind, "object", key.NamespacedName)
		}
		logger.V(4).Info("Could not write", "kind", key.kind, "object", key.NamespacedName, "err", err)
		return err
	}
	w.failing.Store(false)
	logger.V(4).Info("Status", "kind", key.kind, "object", key.NamespacedName, "outcome", result)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.pending[key] {
	case nil:
	case c:
		delete(w.pending, key)
		pendingWrites.Set(float64(len(w.pending)))
	default: // offered anew meanwhile, perhaps because of what was not there before
		w.queues.add(key)
	}
	return nil
}

// conflict counts a write that lost against another.
func (w *writer) conflict(kind gatewayv1.Kind) {
	writeConflicts.WithLabelValues(string(kind)).Inc()
}

// ended returns when nothing is being written.
func (w *writer) ended() {
	w.term <- struct{}{}
	<-w.term
}
