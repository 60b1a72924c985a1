package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
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
//   - TCP that our rules sent to an address that no Service lists any more, if endTCP
//     is set.
//
// It judges by what is committed and, at the same time, by what is about to be: the
// loop goes on while a table is read, and a flow of the newest rules is none of these.
type flowSweeper struct {
	mark    uint32 // of our flows
	endTCP  bool
	sweep   func(context.Context, conntrack.Filter, func(rules.Flow) bool) (int, error)
	metrics *instruments
	fresh   chan struct{} // there may be something to end
	coming  atomic.Pointer[rules.State]

	mu       sync.Mutex   // guards everything below
	previous *rules.State // the last one that was offered whole
	wanted   sweepWork
	repeat   sweepWork // to look for once more with the next full pass
}

// sweepWork is what to look for.
type sweepWork struct {
	state *rules.State // nil: none was committed yet
	// failing are the Gateways whose rules in the kernel are still the old ones.
	failing map[string]bool
	// listed are the addresses of all endpoints, whatever their state; only for TCP.
	listed  map[netip.Addr]bool
	ours    bool // flows that carry our mark
	all     bool // UDP flows without it, too
	removed map[rules.FrontendKey]bool
}

func newFlowSweeper(mark uint32, endTCP bool, metrics *instruments) *flowSweeper {
	return &flowSweeper{mark: mark, endTCP: endTCP, metrics: metrics, fresh: make(chan struct{}, 1)}
}

// announce tells of a State before the kernel gets it.
func (s *flowSweeper) announce(state *rules.State) { s.coming.Store(state) }

// offer hands over what was just committed. What failed is looked at when it no
// longer does, and what was not read is not gone. listed are the addresses of all
// endpoints of all Services.
func (s *flowSweeper) offer(state *rules.State, results rules.Results, listed func() map[netip.Addr]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.wanted
	w.remove(results.Removed)
	if !state.Partial() && (len(results.Errors) == 0 || len(results.Committed) > 0) {
		s.compare(state, results)
		if s.endTCP && w.ours {
			w.listed = listed()
		}
	}
	if w.some() {
		signal(s.fresh)
	}
}

// compare finds out what to look for after a change.
func (s *flowSweeper) compare(state *rules.State, results rules.Results) {
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
	for _, change := range rules.Changes(s.previous, state) {
		switch {
		case change.New == nil || change.Key.Protocol != rules.UDP && !s.endTCP:
		case change.Old == nil:
			w.ours, w.all = true, w.all || change.Key.Protocol == rules.UDP
		default:
			w.ours = w.ours || loses(change.Old, change.New)
		}
	}
	w.state, w.failing, s.previous = state, failing, state
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

// reachable are the endpoints that flows of a Frontend may have, those of TCP at least.
func reachable(f *rules.Frontend) map[netip.AddrPort]bool {
	reachable := map[netip.AddrPort]bool{}
	for i := range f.Backends {
		for _, e := range f.Backends[i].Endpoints {
			reachable[e.Addr] = true
		}
		for _, addr := range slices.Concat(f.Backends[i].Draining, f.Backends[i].Lingering) {
			reachable[addr] = true
		}
	}
	return reachable
}

func (w *sweepWork) some() bool { return w.ours || w.all || len(w.removed) > 0 }

// add looks for what the other one does, too.
func (w *sweepWork) add(other sweepWork) {
	w.ours, w.all = w.ours || other.ours, w.all || other.all
	w.remove(slices.Collect(maps.Keys(other.removed)))
}

// pass does what there is to do. The full one after that does it once more: a packet
// that was on its way while the rules changed may have made a flow of the old ones.
func (s *flowSweeper) pass(ctx context.Context, full bool) error {
	work := s.take(full)
	if !work.some() {
		return nil
	}
	if err := s.do(ctx, &work); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wanted.add(work)
		return fmt.Errorf("end flows to endpoints that are gone: %w", err)
	}
	return nil
}

func (s *flowSweeper) take(full bool) sweepWork {
	s.mu.Lock()
	defer s.mu.Unlock()
	repeat := s.repeat
	if full {
		s.repeat = sweepWork{}
	}
	s.repeat.add(s.wanted)
	work := s.wanted
	s.wanted = sweepWork{state: work.state, failing: work.failing, listed: work.listed}
	if full {
		work.removed = maps.Clone(work.removed)
		work.add(repeat)
	}
	return work
}

func (s *flowSweeper) do(ctx context.Context, work *sweepWork) error {
	var errs []error
	ended := map[rules.Protocol]int{}
	run := func(f conntrack.Filter, stale func(rules.Flow) bool) {
		n, err := s.sweep(ctx, f, stale)
		ended[f.Protocol] += n
		errs = append(errs, err)
	}
	ours := conntrack.Filter{Protocol: rules.UDP, Mark: s.mark, MarkMask: s.mark}
	run(ours, func(f rules.Flow) bool { return s.orphaned(work, f) || s.strays(work, f) })
	if work.all {
		// A process of the node that got the client's datagrams until now may answer
		// while its flow ends, and so begin one in the other direction: the client's next
		// ones would be its answers.
		clients := map[netip.AddrPort]bool{}
		run(conntrack.Filter{Protocol: rules.UDP}, func(f rules.Flow) bool {
			stray := s.strays(work, f)
			if stray && f.Endpoint == f.Dst {
				clients[f.Src] = true
			}
			return stray
		})
		if len(clients) > 0 {
			run(conntrack.Filter{Protocol: rules.UDP}, func(f rules.Flow) bool {
				return f.Endpoint == f.Dst && clients[f.Dst] && work.state.Frontend(keyAtAddr(rules.UDP, f.Src)) != nil
			})
		}
	}
	if s.endTCP && work.ours {
		ours.Protocol = rules.TCP
		run(ours, func(f rules.Flow) bool { return s.strays(work, f) && !work.listed[f.Endpoint.Addr()] })
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
func (s *flowSweeper) strays(w *sweepWork, f rules.Flow) bool {
	if w.state == nil {
		return false
	}
	frontend := w.state.Frontend(keyOf(f))
	if frontend == nil || w.failing[frontend.Owner.Gateway] || w.state.Keeps(f) {
		return false
	}
	coming := s.coming.Load()
	return coming == nil || !coming.Keeps(f)
}

// orphaned reports whether the Frontend of a flow of ours was removed, and nobody has
// it again.
func (s *flowSweeper) orphaned(w *sweepWork, f rules.Flow) bool {
	key := keyOf(f)
	for _, state := range []*rules.State{w.state, s.coming.Load()} {
		if state != nil && state.Frontend(key) != nil {
			return false
		}
	}
	return w.removed[key]
}

func keyOf(f rules.Flow) rules.FrontendKey { return keyAtAddr(f.Protocol, f.Dst) }

func keyAtAddr(protocol rules.Protocol, at netip.AddrPort) rules.FrontendKey {
	return rules.FrontendKey{Addr: at.Addr(), Protocol: protocol, Port: at.Port()}
}
