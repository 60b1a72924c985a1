package controller

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

// answers is a lock whose calls end with err.
type answers struct {
	resourcelock.Interface
	err error
}

func (a *answers) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	return nil, nil, a.err
}
func (a *answers) Create(context.Context, resourcelock.LeaderElectionRecord) error { return a.err }
func (a *answers) Update(context.Context, resourcelock.LeaderElectionRecord) error { return a.err }

// TestReachHearsAnswers: whatever the API server says is an answer, unless it says
// that it cannot tell.
func TestReachHearsAnswers(t *testing.T) {
	lease := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	for name, test := range map[string]struct {
		err   error
		heard bool
	}{
		"done":           {nil, true},
		"conflict":       {apierrors.NewConflict(lease, "x", errors.New("changed")), true},
		"not found":      {apierrors.NewNotFound(lease, "x"), true},
		"forbidden":      {apierrors.NewForbidden(lease, "x", errors.New("no")), true},
		"refused":        {errors.New("dial tcp: connection refused"), false},
		"client gave up": {context.DeadlineExceeded, false},
		"timeout":        {apierrors.NewTimeoutError("etcd", 1), false},
		"internal":       {apierrors.NewInternalError(errors.New("etcd")), false},
		"overloaded":     {apierrors.NewTooManyRequestsError("later"), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := clocktesting.NewFakePassiveClock(epoch)
			r := newReach(c, DefaultLeaderElection())
			lock := r.listen(&answers{err: test.err})
			calls := map[string]func() error{
				"get":    func() error { _, _, err := lock.Get(t.Context()); return err },
				"create": func() error { return lock.Create(t.Context(), resourcelock.LeaderElectionRecord{}) },
				"update": func() error { return lock.Update(t.Context(), resourcelock.LeaderElectionRecord{}) },
			}
			for call, do := range calls {
				r.heard()
				c.SetTime(c.Now().Add(maxUnheard))
				if err := do(); !errors.Is(err, test.err) {
					t.Errorf("%s: error %v", call, err)
				}
				c.SetTime(c.Now().Add(time.Second))
				if _, hearing := r.since(); hearing != test.heard {
					t.Errorf("%s: hearing %t", call, hearing)
				}
			}
		})
	}
}

// TestReachAfterAGap: the gap is over with the first answer, and only a gap counts.
func TestReachAfterAGap(t *testing.T) {
	c := clocktesting.NewFakePassiveClock(epoch)
	r := newReach(c, DefaultLeaderElection())
	expect := func(what string, heardSince time.Time, hearing bool) {
		t.Helper()
		if s, h := r.since(); !s.Equal(heardSince) || h != hearing {
			t.Errorf("%s: since %s, hearing %t", what, s, h)
		}
	}
	at := func(seconds int) time.Time {
		now := epoch.Add(time.Duration(seconds) * time.Second)
		c.SetTime(now)
		return now
	}
	expect("new", time.Time{}, true)
	at(10)
	r.heard()
	expect("in time", time.Time{}, true)
	at(20)
	expect("a little late", time.Time{}, true)
	at(21)
	expect("gap", time.Time{}, false)
	back := at(60)
	r.heard()
	expect("back", back, true)
	at(70)
	r.heard()
	expect("still", back, true)
	at(81)
	expect("the next gap", back, false)
}

// TestReachWaitsForSlowElections: a follower asks no more often than it retries.
func TestReachWaitsForSlowElections(t *testing.T) {
	e := DefaultLeaderElection()
	e.RetryPeriod = 10 * time.Second
	c := clocktesting.NewFakePassiveClock(epoch)
	r := newReach(c, e)
	c.SetTime(epoch.Add(23 * time.Second))
	if _, hearing := r.since(); !hearing {
		t.Error("its patience is shorter than its pauses")
	}
}

// TestReachProbes without an election to listen to.
func TestReachProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newReach(clock.RealClock{}, LeaderElection{})
		server := &answers{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.probe(ctx, r.listen(server))
		}()
		time.Sleep(time.Minute)
		if since, hearing := r.since(); !hearing || !since.IsZero() {
			t.Errorf("since %s, hearing %t", since, hearing)
		}
		cancel()
		<-done
	})
}
