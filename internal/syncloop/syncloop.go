// Package syncloop runs one function again and again: when something changed,
// after it failed, and from time to time anyway.
//
// It never runs the function twice at once, and however many changes come in
// while it runs, one more run follows.
package syncloop

import (
	"context"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Pass is one run. full asks it to look at everything again, not only at what
// changed: the first run, those after a failure and those of the maximum
// interval. An error leads to another run; the loop logs it, each one once until a
// run succeeds again.
type Pass func(ctx context.Context, full bool) error

// Config says when a Pass runs. The zero value is not useful, start from
// DefaultConfig.
type Config struct {
	// MinInterval is the least time from the start of one run to that of the next.
	// An idle loop runs at once.
	MinInterval time.Duration
	// MaxInterval is the longest time without a full run.
	MaxInterval time.Duration
	// MinBackoff is the delay after the first failure; it doubles with each one
	// that follows, up to MaxBackoff. A change does not wait for it: it may be
	// the cure.
	MinBackoff, MaxBackoff time.Duration
	Clock                  clock.Clock
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		MinInterval: 10 * time.Millisecond,
		MaxInterval: 30 * time.Second,
		MinBackoff:  100 * time.Millisecond,
		MaxBackoff:  15 * time.Second,
		Clock:       clock.RealClock{},
	}
}

// Run runs pass at once, and then on every signal of changed, on failures and at
// the maximum interval, until ctx ends. It returns after the last run has.
func Run(ctx context.Context, config Config, changed <-chan struct{}, pass Pass) {
	l := &loop{config: config, full: true, told: map[string]bool{}}
	for l.wait(ctx, changed) {
		started := config.Clock.Now()
		full := l.full
		err := pass(ctx, full)
		if ctx.Err() != nil {
			return // an error now is that of the shutdown
		}
		l.done(started, full, err)
		l.tell(klog.FromContext(ctx), err)
	}
}

// maxTold bounds the errors that are told: some are never the same twice.
const maxTold = 20

// tell logs what is new: an outage fails every run.
func (l *loop) tell(logger klog.Logger, err error) {
	switch {
	case err == nil && len(l.told) > 0:
		logger.Info("Pass succeeded again")
		clear(l.told)
	case err == nil:
	case l.told[err.Error()] || len(l.told) == maxTold:
		logger.V(4).Info("Pass failed again, trying again", "after", l.backoff, "err", err)
	default:
		l.told[err.Error()] = true
		logger.Error(err, "Pass failed, trying again", "after", l.backoff)
	}
}

// loop is what Run knows between two runs.
type loop struct {
	config  Config
	ran     bool
	started time.Time // of the last run
	fullAt  time.Time // when the next full run is due: interval or retry
	backoff time.Duration
	full    bool            // the next run is a full one
	told    map[string]bool // errors since the last success
}

// done draws the conclusions of a run.
func (l *loop) done(started time.Time, full bool, err error) {
	l.ran, l.started, l.full = true, started, false
	switch {
	case err != nil:
		l.backoff = min(max(l.backoff*2, l.config.MinBackoff), l.config.MaxBackoff)
		l.fullAt = l.config.Clock.Now().Add(l.backoff)
	case full || l.backoff > 0:
		l.backoff = 0
		l.fullAt = started.Add(l.config.MaxInterval)
	}
}

// wait returns when the next run is due; false when ctx ended.
func (l *loop) wait(ctx context.Context, changed <-chan struct{}) bool {
	if !l.ran {
		return ctx.Err() == nil
	}
	timer := l.config.Clock.NewTimer(l.fullAt.Sub(l.config.Clock.Now()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		l.full = true
	case <-changed:
	}
	// A failed run leaves its successor to look at everything.
	l.full = l.full || l.backoff > 0
	rest := l.started.Add(l.config.MinInterval).Sub(l.config.Clock.Now())
	if rest <= 0 {
		return ctx.Err() == nil
	}
	pause := l.config.Clock.NewTimer(rest)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-pause.C():
		return true
	}
}
