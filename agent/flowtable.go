package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/internal/flowtable"
)

// How often interfaces are looked for that have appeared: their flows go the long way until then.
const (
	flowtableInterval = 5 * time.Second
	flowtablePause    = time.Second
)

var _ offloader = (*flowtable.Table)(nil)

// offloader has the kernel forward established flows past all chains.
type offloader interface {
	Ensure() (changed bool, err error)
	Remove() error
}

// openFlowtable changes nothing in the kernel.
func openFlowtable(mark uint32, interfaces []string) offloader {
	return flowtable.New(flowtable.Config{Mark: mark, Interfaces: interfaces})
}

// shortcut keeps the flowtable that was asked for, beside the loop, or removes what is left of
// one that no longer is.
type shortcut struct {
	table  offloader
	wanted bool
	moved  func() // the limitation is another

	mu    sync.Mutex // guards limit
	limit string     // why there is none

	removed bool // of the goroutine that runs
}

// pass looks once.
func (s *shortcut) pass(ctx context.Context, _ bool) error {
	if !s.wanted {
		if s.removed {
			return nil
		}
		err := s.table.Remove()
		s.removed = err == nil
		return err
	}
	changed, err := s.table.Ensure()
	if changed {
		klog.FromContext(ctx).Info("Interfaces were added to the flowtable")
	}
	limit := ""
	if unable := (*flowtable.UnableError)(nil); errors.As(err, &unable) {
		limit, err = fmt.Sprintf("--flowtable is of no effect, and flows go the long way: %v", unable), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit != limit {
		s.limit = limit
		s.moved()
	}
	return err
}

// limits tells what the kernel lacks.
func (s *shortcut) limits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit == "" {
		return nil
	}
	return []string{s.limit}
}
