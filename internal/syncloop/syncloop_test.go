package syncloop

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

var epoch = time.Unix(1000, 0)

// bench runs a loop on a fake clock; runs are held until the test lets them end.
type bench struct {
	t       *testing.T
	clock   *timers
	changed chan struct{}
	started chan bool  // full
	finish  chan error // ends the run
	stopped chan struct{}
	stop    context.CancelFunc
}

func start(t *testing.T) *bench {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	b := &bench{
		t: t, clock: &timers{FakeClock: clocktesting.NewFakeClock(epoch)},
		changed: make(chan struct{}, 1), started: make(chan bool), finish: make(chan error),
		stopped: make(chan struct{}), stop: cancel,
	}
	config := Config{
		MinInterval: time.Second, MaxInterval: time.Minute,
		MinBackoff: 2 * time.Second, MaxBackoff: 5 * time.Second, Clock: b.clock,
	}
	go func() {
		defer close(b.stopped)
		Run(ctx, config, b.changed, func(ctx context.Context, full bool) error {
			select {
			case b.started <- full:
			case <-ctx.Done():
				return ctx.Err()
			}
			return <-b.finish
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-b.stopped
	})
	return b
}

// run waits for a run to start and ends it.
func (b *bench) run(full bool, err error) {
	b.t.Helper()
	select {
	case got := <-b.started:
		if got != full {
			b.t.Errorf("full %v, want %v", got, full)
		}
	case <-time.After(10 * time.Second):
		b.t.Fatal("no run")
	}
	b.finish <- err
}

// timers is a fake clock that tells for when the last timer was set.
type timers struct {
	*clocktesting.FakeClock
	last atomic.Int64
}

func (c *timers) NewTimer(d time.Duration) clock.Timer {
	timer := c.FakeClock.NewTimer(d)
	c.last.Store(c.Now().Add(d).UnixNano())
	return timer
}

// waiting waits until the loop sleeps until due, counted from the first run.
func (b *bench) waiting(due time.Duration) {
	b.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for b.clock.last.Load() != epoch.Add(due).UnixNano() {
		if time.Now().After(deadline) {
			b.t.Fatalf("the loop sleeps until %s, want %s", time.Unix(0, b.clock.last.Load()).Sub(epoch), due)
		}
		runtime.Gosched()
	}
}

// idle lets the clock run to now, where the loop still has to sleep until due.
func (b *bench) idle(now, due time.Duration) {
	b.t.Helper()
	b.waiting(due)
	b.clock.SetTime(epoch.Add(now))
	for range 100 {
		runtime.Gosched()
		select {
		case <-b.started:
			b.t.Fatal("ran too early")
		default:
		}
	}
}

// wake lets the clock run to the time that the loop sleeps until.
func (b *bench) wake(due time.Duration) {
	b.t.Helper()
	b.waiting(due)
	b.clock.SetTime(epoch.Add(due))
}

func (b *bench) change() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

const (
	ms  = time.Millisecond
	sec = time.Second
)

func TestRunsAtOnceWhenIdle(t *testing.T) {
	b := start(t)
	b.run(true, nil)
	b.idle(10*sec, 60*sec)
	b.change()
	b.run(false, nil)
}

func TestChangesCoalesceWithinTheMinimumInterval(t *testing.T) {
	b := start(t)
	b.run(true, nil)
	b.waiting(60 * sec)
	b.change()
	b.idle(999*ms, 1*sec)
	b.change()
	b.wake(1 * sec)
	b.run(false, nil)
	b.wake(2 * sec) // the second signal came while waiting: one more run takes it
	b.run(false, nil)
	b.idle(30*sec, 60*sec)
}

func TestFullRunAtTheMaximumInterval(t *testing.T) {
	b := start(t)
	b.run(true, nil)
	b.idle(30*sec, 60*sec)
	b.change()
	b.run(false, nil)
	b.idle(59*sec, 60*sec) // runs that are not full do not put it off
	b.wake(60 * sec)
	b.run(true, nil)
	b.waiting(120 * sec)
}

func TestBackoffGrowsToItsCapAndEnds(t *testing.T) {
	b := start(t)
	failure := errors.New("no")
	b.run(true, failure)
	for _, due := range []time.Duration{2 * sec, 6 * sec, 11 * sec, 16 * sec} {
		b.idle(due-ms, due)
		b.wake(due)
		b.run(true, failure)
	}
	b.wake(21 * sec)
	b.run(true, nil)
	b.wake(81 * sec)
	b.run(true, failure)
	b.wake(83 * sec) // from the start again
	b.run(true, nil)
}

func TestChangeDoesNotWaitForBackoff(t *testing.T) {
	b := start(t)
	b.run(true, errors.New("no"))
	b.idle(1*sec, 2*sec)
	b.change()
	b.run(true, nil)
	b.idle(60*sec, 61*sec)
}

func TestStopsAfterTheRun(t *testing.T) {
	b := start(t)
	<-b.started
	b.stop()
	select {
	case <-b.stopped:
		t.Fatal("returned while running")
	default:
	}
	b.finish <- nil
	<-b.stopped
}

// TestTellsAnErrorOnce: an outage is one line at its beginning and one at its end.
func TestTellsAnErrorOnce(t *testing.T) {
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(2)))
	l := &loop{told: map[string]bool{}}
	refused, timeout := errors.New("refused"), errors.New("timeout")
	for _, err := range []error{nil, refused, refused, timeout, refused, timeout, nil, nil, refused} {
		l.tell(logger, err)
	}
	for i := range 100 {
		l.tell(logger, fmt.Errorf("port %d", i))
	}
	buffer := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
	for text, want := range map[string]int{`err="refused"`: 2, `err="timeout"`: 1, "succeeded again": 1, "err=\"port ": maxTold - 1} {
		if got := strings.Count(buffer, text); got != want {
			t.Errorf("%s: %d times, want %d:\n%s", text, got, want, buffer)
		}
	}
}
