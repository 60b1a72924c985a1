package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// TestCensusOfWhatIsFound: of nodes that are there before this process nobody knows
// whether they join or whether their agents live.
func TestCensusOfWhatIsFound(t *testing.T) {
	c := newCensus(DefaultConfig(), nil)
	failing := testReport("b")
	failing.Report.Failing = 1
	foreign := testReport("c", "1:x")
	foreign.Report.Version = 99
	booted := testNode("d", false, "10.0.0.4")
	booted.Status.NodeInfo.BootID = "1"
	objects := []any{testNode("a", true, "10.0.0.1"), testNode("b", true, "10.0.0.2"), testNode("c", true, "10.0.0.3"), failing, foreign}
	count := func(at time.Duration, renewals string, more ...any) string {
		fleet := slices.Concat(objects, more)
		for _, name := range []string{"a", "b", "c", "d"} {
			fleet = append(fleet, testLease(name, epoch.Add(time.Duration(strings.Count(renewals, name)))))
		}
		r, _ := c.count(epoch.Add(at), fleetOf(fleet...))
		return strings.Join(describe(r), " ")
	}
	again := testNode("d", true, "10.0.0.4")
	again.Status.NodeInfo.BootID = "2"
	var seen []string
	seen = append(seen,
		count(0, "", booted),
		count(5*time.Second, "a", booted),
		count(10*time.Second, "ab", again), // it booted, so that it joins
		count(40*time.Second, "aabb", again),
		count(41*time.Second, "aabbc", again))
	want := []string{
		"a-* b* c*",
		"a- b* c*",
		"a- b c* d?*",
		"a- b c! d-!",
		"a- b c d-!",
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// ear is an API server that is heard of, or not.
type ear struct {
	heardSince time.Time
	deaf       bool
}

func (e *ear) since() (time.Time, bool) { return e.heardSince, !e.deaf }

// TestCensusWithoutAPI: nobody becomes silent while the API server is out of reach,
// and once it is back everyone has the whole timeout; whoever was silent before that
// still is.
func TestCensusWithoutAPI(t *testing.T) {
	api := &ear{}
	c := newCensus(DefaultConfig(), api)
	c.count(epoch, fleetOf())
	renewals := map[string]int{}
	var seen []string
	count := func(at int, renewed ...string) {
		objects := []any{}
		for _, name := range renewed {
			renewals[name]++
		}
		for i, name := range []string{"a", "b", "c"} {
			objects = append(objects, testNode(name, true, fmt.Sprint("10.0.0.", i+1)), testReport(name, "1:x"), testLease(name, epoch.Add(time.Duration(renewals[name]))))
		}
		r, _ := c.count(epoch.Add(time.Duration(at)*time.Second), fleetOf(objects...))
		seen = append(seen, fmt.Sprintf("%d %v", at, describe(r)))
		if next := r.next.Sub(epoch) / time.Second; int(next) <= at || int(next) > at+40 {
			t.Errorf("at %d it looks again at %d", at, next)
		}
	}
	count(0)
	count(20, "b", "c")
	count(40, "b", "c") // a is silent
	api.deaf = true
	count(80)
	count(139)
	api.deaf, api.heardSince = false, epoch.Add(140*time.Second)
	count(140)
	count(145, "b")
	count(179)
	count(180, "b")
	want := []string{
		"0 [a b c]", "20 [a b c]", "40 [a! b c]", "80 [a! b c]", "139 [a! b c]",
		"140 [a! b c]", "145 [a! b c]", "179 [a! b c]", "180 [a! b c]",
	}
	// The first renewal after so long gives c the whole timeout from then on.
	count(184)
	count(185, "b")
	want = append(want, "184 [a! b c]", "185 [a! b c!]")
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCensusThatSawNothing: when nobody was seen to renew for the timeout and then
// somebody is, it was the sight that was missing. It is back for all of them.
func TestCensusThatSawNothing(t *testing.T) {
	c := newCensus(DefaultConfig(), nil)
	c.count(epoch, fleetOf())
	count := func(at int, a, b, dead int) string {
		objects := []any{}
		for name, n := range map[string]int{"a": a, "b": b, "dead": dead} {
			objects = append(objects, testNode(name, true), testReport(name, "1:x"), testLease(name, epoch.Add(time.Duration(n))))
		}
		r, _ := c.count(epoch.Add(time.Duration(at)*time.Second), fleetOf(objects...))
		return strings.Join(describe(r), " ")
	}
	seen := []string{
		count(0, 0, 0, 0),
		count(30, 1, 1, 0),
		count(39, 2, 2, 0),
		count(41, 2, 2, 0),
		count(90, 2, 2, 0),
		count(91, 3, 2, 0),
		count(110, 4, 2, 0),
		count(131, 5, 2, 0),
	}
	want := []string{"a b dead", "a b dead", "a b dead", "a b dead!", "a! b! dead!", "a b dead!", "a b dead!", "a b! dead!"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// outage lets time pass in which the API server does not answer.
func (b *testbench) outage(e *ear, d time.Duration) {
	b.t.Helper()
	e.deaf = true
	for range 10 {
		b.clock.Step(d / 10)
		b.step()
	}
	e.deaf, e.heardSince = false, b.clock.Now()
}

// TestOutageSilencesNobody: agents could not renew, or nobody could see it. However
// long that is and in whatever order they are back, no status changes.
func TestOutageSilencesNobody(t *testing.T) {
	for name, away := range map[string]time.Duration{"shorter than the timeout": 35 * time.Second, "longer": time.Hour} {
		t.Run(name, func(t *testing.T) {
			b := threeNodes(t)
			api := &ear{}
			b.census.hearing = api
			b.outage(api, away)
			for _, node := range []string{"b", "a", "c"} {
				if changes := b.step(); len(changes) > 0 {
					t.Errorf("before %s is back: %v", node, changes)
				}
				b.clock.Step(12 * time.Second)
				b.renew(node)
			}
			if changes := b.step(); len(changes) > 0 {
				t.Errorf("all are back: %v", changes)
			}
			if got := b.events.take(); len(got) > 0 {
				t.Errorf("events %v", got)
			}
		})
	}
}

// TestRestartCountsEveryNode: that a node has not proven anything does not mean to
// this process that it is new.
func TestRestartCountsEveryNode(t *testing.T) {
	for name, report := range map[string]func(r *v1alpha1.NodeReport){
		"it fails":              func(r *v1alpha1.NodeReport) { r.Report.Committed, r.Report.Failing = nil, 1 },
		"it is not understood":  func(r *v1alpha1.NodeReport) { r.Report.Version = 99 },
		"it is from yesterday":  func(r *v1alpha1.NodeReport) { r.Report.Committed = []string{"1:old"} },
		"it is of another boot": func(r *v1alpha1.NodeReport) { r.Report.BootID = "of yesterday" },
	} {
		t.Run(name, func(t *testing.T) {
			b := threeNodes(t)
			node := testNode("b", true, "10.0.0.2")
			node.Status.NodeInfo.BootID = "of today"
			changed := b.report("b", b.fleet.Reports["b"].Report.Committed...)
			report(changed)
			b.put(node, changed)
			b.after(0)
			b.after(time.Second)
			before := b.programmed("g")
			if !strings.HasPrefix(before, "False/Pending: 2/3 nodes; waiting for b") {
				t.Fatal(before)
			}
			b.restart()
			b.settleAll()
			if got := b.programmed("g"); got != before {
				t.Errorf("after a restart: %s", got)
			}
		})
	}
}

// TestRestartPublishesNoSilentNode: an address that was withdrawn stays away while
// nobody knows, and nothing is told, taken back or told again.
func TestRestartPublishesNoSilentNode(t *testing.T) {
	b := threeNodes(t)
	defer b.writer.close(b.writer.open(&term{}))
	b.clock.Step(30 * time.Second)
	b.renew("a", "c")
	b.step()
	b.clock.Step(10 * time.Second)
	b.settleAll()
	before, addresses := b.programmed("g"), addressesOf(b)
	if !strings.Contains(before, "agent of b,") || len(addresses) != 2 {
		t.Fatal(before, addresses)
	}
	if got := b.events.take(); len(got) != 1 || !strings.HasPrefix(got[0], "b AgentSilent: portway-agent has not renewed Lease agent-b for 40s") {
		t.Errorf("events %v", got)
	}
	b.restart()
	defer b.writer.close(b.writer.open(&term{}))
	for range 10 {
		if changes := b.step(); len(changes) > 0 {
			t.Errorf("%v after the restart: %v", b.clock.Now().Sub(epoch), changes)
		}
		b.clock.Step(10 * time.Second)
		b.renew("a", "c")
	}
	if got := b.events.take(); len(got) > 0 {
		t.Errorf("events %v", got)
	}
	if !b.census.last.members[1].silent {
		t.Error("b is not silent")
	}
	b.renew("b")
	b.settleAll()
	if got := addressesOf(b); len(got) != 3 {
		t.Errorf("b is back: %v", got)
	}
}

// TestSilenceIsToldByWhoLeads: at the time or soon after, and once.
func TestSilenceIsToldByWhoLeads(t *testing.T) {
	for name, test := range map[string]struct {
		takeOver time.Duration
		events   int
	}{
		"the leader":               {0, 1},
		"who leads soon after":     {20 * time.Second, 1},
		"nobody who leads by then": {2 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := threeNodes(t)
			b.clock.Step(30 * time.Second)
			b.renew("a", "c")
			b.step()
			b.clock.Step(10 * time.Second)
			if test.takeOver > 0 {
				b.step()
			}
			for at := time.Duration(0); at < test.takeOver; at += 10 * time.Second {
				b.clock.Step(10 * time.Second)
				b.renew("a", "c")
				b.step()
			}
			defer b.writer.close(b.writer.open(&term{}))
			b.step()
			b.step()
			if got := b.events.take(); len(got) != test.events {
				t.Errorf("events %v", got)
			}
		})
	}
}
