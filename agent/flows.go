package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/internal/conntrack"
	"github.com/portway-dev/portway/rules"
)

// How often flows are looked at: at most, and once more after what was ended.
const (
	flowPause    = 100 * time.Millisecond
	flowInterval = 30 * time.Second
)

// flowSweeper ends flows that go on to where the State no longer leads. The kernel
// decides once per flow, and a UDP client that never pauses would keep its first
// endpoint, or the lack of one, for ever (kubernetes#66651). It works beside the
// loop: a large table must not hold up an endpoint change.
//
// A flow is ended only if it is one of these:
//
//   - UDP to a Frontend, whose endpoint is neither among the Frontend's nor draining;
//   - UDP to a Frontend that was not there before: from before our rules, so that it
//     is translated to nothing, or by somebody else;
//   - UDP that our rules sent on from a Frontend that was removed;
//   - TCP that our rules sent to such an endpoint, if endTCP is set.
type flowSweeper struct {
	mark    uint32 // of our flows
	endTCP  bool
	sweep   func(context.Context, conntrack.Filter, func(rules.Flow) bool) (int, error)
	metrics *instruments
	fresh   chan struct{} // there may be something to end

	mu       sync.Mutex   // guards everything below
	previous *rules.State // the last one offered
	wanted   sweepWork
	again    bool // the next full pass has to look once more
}

// sweepWork is what to look for.
type sweepWork struct {
	state *rules.State
	// failing are the Gateways whose rules in the kernel are still the old ones.
	failing map[string]bool
	ours    bool // flows that carry our mark
	all     bool // UDP flows without it, too
	removed map[rules.FrontendKey]bool
}

func newFlowSweeper(mark uint32, endTCP bool, metrics *instruments) *flowSweeper {
	return &flowSweeper{mark: mark, endTCP: endTCP, metrics: metrics, fresh: make(chan struct{}, 1)}
}

// offer hands over what was just committed. What failed is looked at when it no
// longer does.
func (s *flowSweeper) offer(state *rules.State, results rules.Results) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.wanted
	failing := make(map[string]bool, len(results.Errors))
	for gateway := range results.Errors {
		failing[gateway] = true
	}
	for gateway := range w.failing {
		if !failing[gateway] { // what became of its flows meanwhile nobody looked at
			w.ours, w.all = true, true
		}
	}
	w.state, w.failing = state, failing
	w.remove(results.Removed)
	for _, change := range rules.Changes(s.previous, state) {
		switch {
		case change.New == nil || change.Key.Protocol != rules.UDP && !s.endTCP:
		case change.Old == nil:
			w.ours, w.all = true, w.all || change.Key.Protocol == rules.UDP
		default:
			w.ours = w.ours || loses(change.Old, change.New)
		}
	}
	s.previous = state
	if w.some() {
		signal(s.fresh)
	}
}

// remove notes UDP Frontends that are gone.
func (w *sweepWork) remove(keys []rules.FrontendKey) {
	for _, key := range keys {
		if key.Protocol != rules.UDP {
			continue
		}
		if w.removed == nil {
			w.removed = map[rules.FrontendKey]bool{}
		}
		w.removed[key] = true
	}
}

// loses reports whether flows that old allows are not allowed any more.
func loses(old, now *rules.Frontend) bool {
	kept := reachable(now)
	for addr := range reachable(old) {
		if !kept[addr] {
			return true
		}
	}
	return false
}

// reachable are the endpoints that flows of a Frontend may have.
func reachable(f *rules.Frontend) map[netip.AddrPort]bool {
	reachable := map[netip.AddrPort]bool{}
	for i := range f.Backends {
		for _, e := range f.Backends[i].Endpoints {
			reachable[e.Addr] = true
		}
		for _, addr := range f.Backends[i].Draining {
			reachable[addr] = true
		}
	}
	return reachable
}

func (w *sweepWork) some() bool { return w.ours || w.all || len(w.removed) > 0 }

// pass does what there is to do. The full one after that looks once more: a packet
// that was on its way while the rules changed may have made a flow of the old ones.
func (s *flowSweeper) pass(ctx context.Context, full bool) error {
	work := s.take(full)
	if !work.some() {
		return nil
	}
	if err := s.do(ctx, work); err != nil {
		s.giveBack(work)
		return fmt.Errorf("end flows to endpoints that are gone: %w", err)
	}
	return nil
}

func (s *flowSweeper) take(full bool) sweepWork {
	s.mu.Lock()
	defer s.mu.Unlock()
	work := s.wanted
	if full {
		work.ours, s.again = work.ours || s.again, false
	} else {
		s.again = s.again || work.some()
	}
	s.wanted = sweepWork{state: work.state, failing: work.failing}
	return work
}

func (s *flowSweeper) giveBack(work sweepWork) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted.ours, s.wanted.all = s.wanted.ours || work.ours, s.wanted.all || work.all
	s.wanted.remove(slices.Collect(maps.Keys(work.removed)))
}

func (s *flowSweeper) do(ctx context.Context, work sweepWork) error {
	var errs []error
	ended := map[rules.Protocol]int{}
	run := func(f conntrack.Filter, stale func(rules.Flow) bool) {
		n, err := s.sweep(ctx, f, stale)
		ended[f.Protocol] += n
		errs = append(errs, err)
	}
	run(conntrack.Filter{Protocol: rules.UDP, Mark: s.mark, MarkMask: s.mark}, func(f rules.Flow) bool {
		return work.removed[keyOf(f)] && work.state.Frontend(keyOf(f)) == nil || work.strays(f)
	})
	if work.all {
		run(conntrack.Filter{Protocol: rules.UDP}, work.strays)
	}
	if s.endTCP {
		run(conntrack.Filter{Protocol: rules.TCP, Mark: s.mark, MarkMask: s.mark}, work.strays)
	}
	for protocol, n := range ended {
		s.metrics.flowsEnded.WithLabelValues(protocol.String()).Add(float64(n))
		if n > 0 {
			klog.FromContext(ctx).Info("Ended flows whose endpoint or listener is gone, or that predate the rules", "protocol", protocol, "flows", n)
		}
	}
	klog.FromContext(ctx).V(2).Info("Looked at flows", "all", work.all, "removed", len(work.removed))
	return errors.Join(errs...)
}

// strays reports whether a flow to a Frontend leads where it no longer may.
func (w *sweepWork) strays(f rules.Flow) bool {
	frontend := w.state.Frontend(keyOf(f))
	return frontend != nil && !w.failing[frontend.Owner.Gateway] && !w.state.Keeps(f)
}

func keyOf(f rules.Flow) rules.FrontendKey {
	return rules.FrontendKey{Addr: f.Dst.Addr(), Protocol: f.Protocol, Port: f.Dst.Port()}
}
