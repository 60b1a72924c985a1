package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/portway-dev/portway/rules"
)

// TestDisturbedRulesAreProgrammedWithinASecond: what others flush is found by the next
// look, and programmed at once.
func TestDisturbedRulesAreProgrammedWithinASecond(t *testing.T) {
	inCluster(t, func(b *clusterBench) { b.cluster.createGuide(t) }, func(b *clusterBench) {
		b.settle(5*time.Second + 300*time.Millisecond)
		before, looks := len(b.kernel.all()), 0
		b.settle(10 * time.Second)
		if got := len(b.kernel.all()); got != before {
			t.Errorf("%d programs although nobody disturbed anything", got-before)
		}
		flushed := time.Now()
		b.kernel.disturb(true, func() bool { looks++; return looks == 1 })
		b.settle(time.Second)
		if got := len(b.kernel.all()); got != before+1 {
			t.Errorf("%d programs within %s of a flush, want 1", got-before, time.Since(flushed))
		}
		b.settle(3 * time.Second)
		if got := len(b.kernel.all()); got != before+1 || looks != 4 {
			t.Errorf("%d programs and %d looks after 4 s, want 1 and 4", got-before, looks)
		}
	})
}

// TestLookoutRests: a pass that was asked for in vain and takes long is not asked for again
// soon; one that mended something is.
func TestLookoutRests(t *testing.T) {
	for name, test := range map[string]struct {
		restored bool
		want     int // programs in 20 s, of which each takes 200 ms
	}{"in vain": {false, 7}, "mended": {true, 20}} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(b *clusterBench) { b.cluster.createGuide(t); b.kernel.takes = 200 * time.Millisecond }, func(b *clusterBench) {
				b.settle(2*time.Second + 500*time.Millisecond)
				before := len(b.kernel.all())
				b.kernel.disturb(test.restored, func() bool { return true })
				b.settle(20 * time.Second)
				if got := len(b.kernel.all()) - before; got != test.want {
					t.Errorf("%d programs in 20 s, want %d", got, test.want)
				}
			})
		})
	}
}

// slow is a backend that is busy until it is told to go on.
type slow struct {
	fakeProgrammer
	entered, proceed chan struct{}
}

func (s *slow) Program(context.Context, *rules.State) (rules.Results, error) {
	s.entered <- struct{}{}
	<-s.proceed
	return rules.Results{}, errors.New("not alone yet")
}

// TestNoLookWhileProgramming: backends are used by one goroutine at a time.
func TestNoLookWhileProgramming(t *testing.T) {
	busy := &slow{entered: make(chan struct{}), proceed: make(chan struct{})}
	busy.disturbed = func() bool { return true }
	s := &sole{chosen: busy}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.Program(t.Context(), &rules.State{})
	}()
	<-busy.entered
	if s.Disturbed() {
		t.Error("looked while something was programmed")
	}
	close(busy.proceed)
	<-done
	if !s.Disturbed() {
		t.Error("did not look afterwards")
	}
}
