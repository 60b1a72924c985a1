package controller

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"

	"github.com/portway-dev/portway/cluster"
)

// maxUnheard is how long the API server may give no answer before it counts as
// out of reach.
const maxUnheard = 10 * time.Second

// probeInterval is how often a controller without leader election asks.
const probeInterval = 2 * time.Second

// reach knows whether the API server answers, and since when it does again: what
// was not seen to happen meanwhile proves nothing. It listens to the calls for the
// leader's Lease, which every replica makes all the time. Safe for concurrent use.
type reach struct {
	clock   clock.PassiveClock
	unheard time.Duration

	mu       sync.Mutex // guards everything below
	answered time.Time  // the last time, or when this was made
	again    time.Time  // the first answer after the last gap; zero: no gap so far
}

// newReach: e tells how often the Lease is asked for.
func newReach(c clock.PassiveClock, e LeaderElection) *reach {
	unheard := maxUnheard
	if e.Enabled {
		unheard = max(unheard, 4*e.RetryPeriod) // a follower's is up to 2.2 times as long
	}
	return &reach{clock: c, unheard: unheard, answered: c.Now()}
}

// since returns whether the API server is heard of, and since when that is so after
// the last gap (zero: there was none).
func (r *reach) since() (heardSince time.Time, hearing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.again, r.clock.Since(r.answered) <= r.unheard
}

// heard notes an answer.
func (r *reach) heard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	if now.Sub(r.answered) > r.unheard {
		r.again = now
	}
	r.answered = now
}

// note notes how a call ended.
func (r *reach) note(err error) error {
	if cluster.Answered(err) {
		r.heard()
	}
	return err
}

// listen returns a lock whose calls are listened to.
func (r *reach) listen(lock resourcelock.Interface) resourcelock.Interface {
	return heardLock{lock, r}
}

// probe asks for a Lease that is listened to until ctx ends, for want of other
// calls.
func (*reach) probe(ctx context.Context, lock resourcelock.Interface) {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, maxUnheard/2)
		_, _, _ = lock.Get(limited) // nothing but that there is an answer matters
		cancel()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

type heardLock struct {
	resourcelock.Interface
	reach *reach
}

func (l heardLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	return record, raw, l.reach.note(err)
}

func (l heardLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.reach.note(l.Interface.Create(ctx, record))
}

func (l heardLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.reach.note(l.Interface.Update(ctx, record))
}
