package controller

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// health is progress: passes end. Safe for concurrent use.
type health struct {
	clock   clock.PassiveClock
	overdue time.Duration

	mu   sync.Mutex // guards last
	last time.Time  // when the last pass ended; zero before the first
}

// newHealth: a loop runs once in an interval at least; four without an end are too
// many.
func newHealth(c clock.PassiveClock, interval time.Duration) *health {
	return &health{clock: c, overdue: 4 * interval}
}

func (h *health) passed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = h.clock.Now()
}

// live returns why the process should be restarted. Waiting for an API server is no
// reason.
func (h *health) live() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since := h.clock.Since(h.last); !h.last.IsZero() && since > h.overdue {
		return fmt.Errorf("no pass has ended for %s", since.Round(time.Second))
	}
	return nil
}

// ready returns why this replica could not take over.
func (h *health) ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.IsZero() {
		return errors.New("objects are still being read")
	}
	return nil
}

// check answers a probe.
func check(probe func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := probe(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the client's loss
	})
}
