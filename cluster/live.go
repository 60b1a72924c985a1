package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Role says for which program a cluster is watched.
type Role int

const (
	// ForAgent is with EndpointSlices; of statuses only the addresses of Gateways and of
	// their Services, and those that AddressPools retain.
	ForAgent Role = iota
	// ForController is with statuses, Nodes, NodeReports, Leases of agents and the
	// Gateway API's CustomResourceDefinitions; no EndpointSlices.
	ForController
)

// LiveConfig says what is watched and how often missing kinds are looked for.
// Start from DefaultLiveConfig.
type LiveConfig struct {
	Clients Clients
	Role    Role
	// Namespace holds the Leases of agents; only for the controller.
	Namespace string
	// MinPoll is the first pause before kinds that the API server does not serve,
	// or not in their preferred version, are looked for again. It doubles up to
	// MaxPoll and starts anew when something changed.
	MinPoll, MaxPoll time.Duration
	// Jitter is the part by which pauses are at most longer, so that the agents of a
	// large cluster do not ask all at once.
	Jitter float64
	Clock  clock.Clock
}

// DefaultLiveConfig returns the defaults.
func DefaultLiveConfig() LiveConfig {
	return LiveConfig{MinPoll: time.Second, MaxPoll: time.Minute, Jitter: 0.5, Clock: clock.RealClock{}}
}

// Live keeps a Store equal to what a cluster holds. Nothing enters the Store before
// every kind was read completely; then everything enters as one change.
//
// A kind that the API server has not served for a while counts as one without
// objects, and is read once it appears. While the API server is away, the Store
// keeps what it has.
type Live struct {
	config LiveConfig
	store  *Store

	// Of the goroutine that runs.
	kinds   []*liveKind
	started bool
	running sync.WaitGroup

	synced     chan struct{}
	progress   chan struct{} // a feed has synced
	rediscover chan struct{} // what is served may have changed

	mu     sync.Mutex // guards served
	served map[string]string
}

// NewLive returns a Live; Run does the work.
func NewLive(config LiveConfig, store *Store) *Live {
	if config.Role == ForController {
		store.lookAtCRDs()
	}
	return &Live{
		config: config, store: store,
		kinds:      liveKinds(config.Clients, config.Role, config.Namespace),
		synced:     make(chan struct{}),
		progress:   make(chan struct{}, 1),
		rediscover: make(chan struct{}, 1),
		served:     map[string]string{},
	}
}

// Synced is closed when the Store holds what the cluster does for the first time.
func (l *Live) Synced() <-chan struct{} { return l.synced }

// Served returns, per kind whose objects the Store follows, the version they are
// read in and should be written in: "TCPRoute" is "v1" or "v1alpha2". A kind
// that the API server does not serve is absent.
func (l *Live) Served() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.served)
}

// Rediscover asks for another look at which kinds the API server serves.
func (l *Live) Rediscover() { wake(l.rediscover) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends; when it returns, everything it started has ended.
func (l *Live) Run(ctx context.Context) {
	defer l.running.Wait()
	ctx, stop := context.WithCancel(ctx) // stops all feeds
	defer stop()
	for _, kind := range l.kinds {
		if kind.builtin {
			l.read(ctx, kind, kind.versions[0].name)
		}
	}
	pause := l.config.MinPoll
	for {
		chosen, err := l.discover(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(pause, maxOutagePause)
			klog.FromContext(ctx).Error(err, "Cannot find out which kinds the API server serves, trying again", "after", pause)
			l.excuse()
		case l.choose(ctx, chosen):
			pause = l.config.MinPoll
		}
		switch l.await(ctx, pause, err == nil && l.complete()) {
		case ended:
			return
		case hinted:
			pause = l.config.MinPoll
		case due:
			pause = min(pause*2, l.config.MaxPoll)
		}
	}
}

// why a wait ended.
type why int

const (
	ended  why = iota // with the context
	due               // after the pause
	hinted            // because what is served may have changed
)

// await publishes what has synced until the next discovery. Without a kind to look
// for there is no pause: a watch that breaks gives the hint.
func (l *Live) await(ctx context.Context, pause time.Duration, complete bool) why {
	if l.config.Jitter > 0 { // wait.Jitter takes 0 for 1
		pause = wait.Jitter(pause, l.config.Jitter)
	}
	timer := l.config.Clock.NewTimer(pause)
	defer timer.Stop()
	over := timer.C()
	if complete {
		over = nil
	}
	for {
		l.settle(ctx)
		select {
		case <-ctx.Done():
			return ended
		case <-over:
			return due
		case <-l.rediscover:
			return hinted
		case <-l.progress:
		}
	}
}

// settle publishes the feeds that have synced; the first time only all together,
// when nothing is left that may yet have objects.
func (l *Live) settle(ctx context.Context) {
	var ready []*liveKind
	for _, kind := range l.kinds {
		switch {
		case kind.candidate != nil && kind.candidate.hasSynced():
			ready = append(ready, kind)
		case !l.started && !kind.gone:
			return
		}
	}
	if err := publish(l.store, ready); err != nil {
		klog.FromContext(ctx).Error(err, "Objects left out")
	}
	if len(ready) > 0 {
		l.store.reconsider()
	}
	l.mu.Lock()
	for _, kind := range ready {
		kind.active, kind.candidate = kind.candidate, nil
		l.served[kind.name] = kind.active.version.name
	}
	l.mu.Unlock()
	if !l.started {
		l.started = true
		close(l.synced)
	}
}

// complete reports whether every kind is served and read in its preferred version.
func (l *Live) complete() bool {
	return !slices.ContainsFunc(l.kinds, func(k *liveKind) bool {
		return k.reading() != k.versions[0].name || !k.missing.IsZero()
	})
}

// choose starts and stops feeds so that each custom kind is read in its chosen
// version, empty for none. It reports whether another look is due soon.
func (l *Live) choose(ctx context.Context, chosen map[*liveKind]string) (soon bool) {
	for _, kind := range l.kinds {
		version, custom := chosen[kind]
		switch {
		case !custom:
		case version == "":
			soon = l.miss(ctx, kind) || soon
		default:
			kind.missing, kind.gone = time.Time{}, false
			soon = l.read(ctx, kind, version) || soon
		}
	}
	return soon
}

// read makes a kind's objects come from a version; until it has synced, those of
// the version before stay.
func (l *Live) read(ctx context.Context, kind *liveKind, version string) (changed bool) {
	if kind.reading() == version {
		return false
	}
	if kind.candidate != nil {
		kind.candidate.stop()
		kind.candidate = nil
	}
	if kind.reading() == version {
		return true // back to the active one
	}
	i := slices.IndexFunc(kind.versions, func(v liveVersion) bool { return v.name == version })
	f := startFeed(ctx, kind, &kind.versions[i], l.store, l.config.Clock, l.Rediscover)
	kind.candidate = f
	l.running.Go(func() {
		select {
		case <-f.synced:
			wake(l.progress)
		case <-f.stopped:
		}
		<-f.stopped
	})
	kind.tell(ctx, "Watching "+version)
	return true
}

// maxOutagePause is the longest pause while the API server does not answer: a node
// that booted meanwhile serves nothing before it does.
const maxOutagePause = 5 * time.Second

// absence is how long a kind has to be missing, look after look, before it counts
// as one without objects: behind one address there may be API servers that learn of
// a kind one after the other. That holds before the start as well, when the kernel
// has the rules of the process before.
const absence = 5 * time.Second

// miss notes that a look did not find a kind. Until that is so for long enough,
// nothing is given up.
func (l *Live) miss(ctx context.Context, kind *liveKind) (soon bool) {
	if kind.gone {
		return false
	}
	now := l.config.Clock.Now()
	if kind.missing.IsZero() {
		kind.missing = now
	}
	if now.Sub(kind.missing) >= absence {
		l.drop(ctx, kind)
	}
	return true
}

// excuse forgets misses after a look without an answer: only those in a row count,
// and an API server that has just come back may not know every kind yet.
func (l *Live) excuse() {
	for _, kind := range l.kinds {
		kind.missing = time.Time{}
	}
}

// drop gives up a kind that the API server does not serve.
func (l *Live) drop(ctx context.Context, kind *liveKind) {
	kind.gone = true
	if kind.candidate != nil {
		kind.candidate.stop()
		kind.candidate = nil
	}
	if kind.active != nil {
		objects := slices.Collect(maps.Values(kind.active.retire()))
		if err := l.store.Apply(nil, objects); err != nil {
			klog.FromContext(ctx).Error(err, "Objects could not be removed", "kind", kind.name)
		}
		l.mu.Lock()
		delete(l.served, kind.name)
		l.mu.Unlock()
		kind.active = nil
	}
	kind.tell(ctx, "The API server does not serve this kind, going on without it until it does")
}

// discover asks the API server in which version each custom kind should be read;
// empty where it serves none.
func (l *Live) discover(ctx context.Context) (map[*liveKind]string, error) {
	served := servedResources{client: l.config.Clients.Discovery, known: map[string]map[string]bool{}}
	chosen := map[*liveKind]string{}
	for _, kind := range l.kinds {
		if kind.builtin {
			continue
		}
		chosen[kind] = ""
		for _, v := range kind.versions {
			found, err := served.has(ctx, kind.group+"/"+v.name, kind.resource)
			if err != nil {
				return nil, err
			}
			if found {
				chosen[kind] = v.name
				break
			}
		}
	}
	return chosen, nil
}

// servedResources asks for each group and version once, and only for those that
// matter.
type servedResources struct {
	client Discovery
	known  map[string]map[string]bool
}

func (s servedResources) has(ctx context.Context, groupVersion, resource string) (bool, error) {
	resources, asked := s.known[groupVersion]
	if !asked {
		list, err := s.client.ServerResourcesForGroupVersionWithContext(ctx, groupVersion)
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("ask for the resources of %s: %w", groupVersion, err)
		}
		resources = map[string]bool{}
		if list != nil && err == nil {
			for _, r := range list.APIResources {
				resources[r.Name] = true
			}
		}
		s.known[groupVersion] = resources
	}
	return resources[resource], nil
}
