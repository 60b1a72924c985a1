package agent

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// lookInterval is how long it goes unseen that somebody flushed our rules. They are in
// place again within two seconds where it takes less than one to program them.
const lookInterval = time.Second

// lookRest is how many times as long as a pass that was asked for in vain the lookout then
// rests: reading 10 000 listeners back from iptables takes most of a second, and a host on
// which others change the built-in chains all the time would do little else.
const lookRest = 10

// longestRest bounds that: a pass may also take long because it waits for a lock.
const longestRest = 15 * time.Second

// lookout has the loop make a pass when others disturbed our rules. It works beside the loop
// and looks only at what costs next to nothing.
type lookout struct {
	disturbed func() bool
	moved     func() // asks for a pass
	clock     clock.PassiveClock

	mu    sync.Mutex // guards everything below
	asked bool       // for a pass that has not ended yet
	rests time.Time  // no look before
}

// pass looks once.
func (l *lookout) pass(context.Context, bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.clock.Now().Before(l.rests) && l.disturbed() {
		l.asked = true
		l.moved()
	}
	return nil
}

// programmed tells how long the loop took to bring the kernel up to date, and whether
// something was disturbed indeed.
func (l *lookout) programmed(took time.Duration, restored bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked && !restored {
		l.rests = l.clock.Now().Add(min(lookRest*took, longestRest))
	}
	l.asked = false
}
