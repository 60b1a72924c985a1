package controller

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// TestOnlyLeadersAllocate: others know what is published, and give nothing.
func TestOnlyLeadersAllocate(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.9")
	publish(b.gateway("default", "old"), addrs("192.0.2.7"))
	b.gateway("default", "new")
	b.gateway("default", "static", "192.0.2.1")
	a := newAllocator()
	waits := "(" + waitingForLeader + ")"
	follower := map[string]string{"default/old": "192.0.2.7", "default/new": waits, "default/static": waits}
	expect(t, "a follower", follower, lines(a.assign(b.resolve(), nil, true)))
	expect(t, "a leader", map[string]string{"default/old": "192.0.2.7", "default/new": "192.0.2.2", "default/static": "192.0.2.1"}, gives(a, b))
	expect(t, "a follower again", follower, lines(a.assign(b.resolve(), nil, true)))
}

// TestNewLeaderKnowsWhatWasGiven: what the API server holds counts, though what is watched
// does not show it yet.
func TestNewLeaderKnowsWhatWasGiven(t *testing.T) {
	b := newAllocatorBench()
	b.pool("a", "192.0.2.1-192.0.2.9")
	seen := b.gateway("default", "seen")
	now := b.gateway("default", "unseen")
	publish(now, addrs("192.0.2.1"))
	given := seen.DeepCopy()
	b.version++
	given.ResourceVersion = strconv.Itoa(b.version)
	publish(given, addrs("192.0.2.2"))
	delete(b.Gateways, keyOf(now))
	list := func(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error) {
		return &gatewayv1.GatewayList{Items: []gatewayv1.Gateway{*given, *now}}, nil
	}
	term, err := beginTerm(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	b.version = 1
	b.gateway("other", "new") // of the same version as the unseen one, older than the given one
	a := newAllocator()
	term.catchUp(b.Gateways)
	expect(t, "while it is behind", map[string]string{"default/seen": "192.0.2.2", "other/new": "192.0.2.1"}, map[string]string{
		"default/seen": lines(a.assign(b.resolve(), term, true))["default/seen"], "other/new": "192.0.2.1",
	})
	if len(term.before) != 1 {
		t.Errorf("before it has caught up, %d Gateways are remembered, want the one that is newer", len(term.before))
	}
	b.version = 9
	b.gateway("other", "newer")
	term.catchUp(b.Gateways)
	if len(term.before) != 0 {
		t.Errorf("still remembered: %v", term.before)
	}
}

// world is an API server and two controllers that watch it, more or less late.
type world struct {
	*allocatorBench
	r       *rand.Rand
	history []map[types.NamespacedName]*gatewayv1.Gateway
	at      [2]int // of history, what each controller sees
	leader  int
	term    *term
	made    [2]*allocator
}

func (w *world) commit() { w.history = append(w.history, maps.Clone(w.Gateways)) }

// TestNoAddressTwice: two controllers that see things late and take turns, Gateways that
// come and go: at no time do two Gateways have the same address, and none is
// taken away from one that keeps its spec.
func TestNoAddressTwice(t *testing.T) {
	for seed := range uint64(30) {
		w := &world{allocatorBench: newAllocatorBench(), r: rand.New(rand.NewPCG(seed, 7)), made: [2]*allocator{newAllocator(), newAllocator()}}
		w.pool("a", "192.0.2.0/28")
		w.pool("b", "198.51.100.0/28")
		w.commit()
		w.lead(t)
		for range 400 {
			w.step(t)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// lead begins a term of the leader: it reads what there is now.
func (w *world) lead(t *testing.T) {
	t.Helper()
	list := func(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error) {
		out := &gatewayv1.GatewayList{}
		for _, g := range w.Gateways {
			out.Items = append(out.Items, *g)
		}
		return out, nil
	}
	term, err := beginTerm(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	w.term = term
}

func (w *world) step(t *testing.T) {
	t.Helper()
	switch n := w.r.IntN(20); {
	case n < 4:
		w.gateway("default", fmt.Sprint("g", w.r.IntN(24)))
		w.commit()
	case n < 6:
		for key := range w.Gateways {
			delete(w.Gateways, key)
			break
		}
		w.commit()
	case n == 6:
		w.leader = 1 - w.leader
		w.lead(t)
	case n < 10:
		for i := range w.at {
			w.at[i] += w.r.IntN(len(w.history) - w.at[i])
		}
	default:
		w.pass(t)
	}
}

// pass lets both controllers look, and the leader write some of what it wants.
func (w *world) pass(t *testing.T) {
	t.Helper()
	for i := range w.at {
		view := w.Snapshot
		view.Gateways = w.history[w.at[i]]
		resolution := topology.Resolve(view, topology.DefaultConfig())
		if i != w.leader {
			w.made[i].assign(resolution, nil, true)
			continue
		}
		w.term.catchUp(view.Gateways)
		for key, want := range w.made[i].assign(resolution, w.term, true) {
			now := w.Gateways[key]
			if now == nil || now.UID != view.Gateways[key].UID || len(want.Addresses) == 0 || w.r.IntN(3) == 0 {
				continue
			}
			if had := topology.PublishedAddresses(now); len(had) > 0 && !slices.Equal(had, want.Addresses) {
				t.Errorf("Gateway %s has %v and is to get %v", key, had, want.Addresses)
			}
			w.version++
			written := now.DeepCopy()
			written.ResourceVersion = strconv.Itoa(w.version)
			publish(written, want.Addresses)
			w.Gateways[key] = written
			w.commit()
		}
	}
	holders := map[netip.Addr]types.NamespacedName{}
	for key, g := range w.Gateways {
		for _, addr := range topology.PublishedAddresses(g) {
			if other, taken := holders[addr]; taken {
				t.Errorf("Gateways %s and %s both have %s", key, other, addr)
			}
			holders[addr] = key
		}
	}
}

// TestPlansAreOfOneTerm: what was found in a term is not written in the next: somebody
// else may have led meanwhile.
func TestPlansAreOfOneTerm(t *testing.T) {
	b := newTestbench(t)
	plan := func() []*change {
		return []*change{{key: objectKey{kind: "Gateway"}, wants: func(any) bool { return true }}}
	}
	first, second := &term{}, &term{before: map[types.NamespacedName]given{}}
	b.writer.offer(nil, plan())
	b.writer.close(b.writer.open(first))
	q := b.writer.open(second)
	defer b.writer.close(q)
	if n := q.gateways.Len(); n != 0 || len(b.writer.pending) != 0 {
		t.Errorf("begins with %d changes of before", n)
	}
	b.writer.offer(first, plan())
	b.writer.offer(nil, plan())
	if n := q.gateways.Len(); n != 0 {
		t.Errorf("takes %d changes of before", n)
	}
	b.writer.offer(second, plan())
	if n := q.gateways.Len(); n != 1 {
		t.Errorf("takes %d changes of its own, want 1", n)
	}
}
