package netns

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// Load opens connections without a pause, one after the other, until it is
// stopped.
type Load struct {
	stop    chan struct{}
	done    chan struct{}
	stopped sync.Once
	opened  atomic.Int64
	refused atomic.Int64
	tally   Tally // owned by the goroutine until done is closed
	err     error // as tally
}

// StartLoad starts a Load. The caller stops it.
func (n *Namespace) StartLoad(to netip.AddrPort) *Load {
	l := &Load{stop: make(chan struct{}), done: make(chan struct{}), tally: newTally()}
	go func() {
		defer close(l.done)
		l.err = n.watch(&l.tally, func() error {
			for {
				select {
				case <-l.stop:
					return nil
				default:
				}
				l.tally.add(n.ask(to))
				l.refused.Store(int64(l.tally.Refused + l.tally.Silent + len(l.tally.Failed)))
				l.opened.Add(1)
			}
		})
	}()
	return l
}

// Opened is the number of connections tried so far.
func (l *Load) Opened() int64 { return l.opened.Load() }

// Lost is the number of those that nobody answered.
func (l *Load) Lost() int64 { return l.refused.Load() }

// Stop ends the Load and returns what it counted. It may be called again.
func (l *Load) Stop() (Tally, error) {
	l.stopped.Do(func() { close(l.stop) })
	<-l.done
	return l.tally, l.err
}
