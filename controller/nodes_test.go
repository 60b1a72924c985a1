package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
)

// fleetOf makes a Fleet of nodes, leases and reports.
func fleetOf(objects ...any) cluster.Fleet {
	f := cluster.Fleet{Nodes: map[string]*corev1.Node{}, Reports: map[string]*v1alpha1.NodeReport{}, Leases: map[string]*coordinationv1.Lease{}}
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.Node:
			f.Nodes[o.Name] = o
		case *v1alpha1.NodeReport:
			f.Reports[o.Name] = o
		case *coordinationv1.Lease:
			f.Leases[strings.TrimPrefix(o.Name, cluster.AgentLeasePrefix)] = o
		}
	}
	return f
}

// describe reads "a" for a node that counts, "a-" if it has no report, "a?" joining,
// "a!" silent, "a*" if nobody knows whether it is silent.
func describe(r roll) []string {
	texts := []string{}
	for _, m := range r.members {
		text := m.name
		switch {
		case !m.counts:
			text += "?"
		case m.report == nil:
			text += "-"
		}
		if m.silent {
			text += "!"
		}
		if m.unsure() {
			text += "*"
		}
		texts = append(texts, text)
	}
	return texts
}

func TestCensus(t *testing.T) {
	const sec = time.Second
	ready, notReady := testNode("a", true, "10.0.0.1"), testNode("a", false, "10.0.0.1")
	settled := []any{testNode("z", true, "10.0.0.9"), testReport("z", "1:z")}
	type moment struct {
		at    time.Duration
		fleet []any
		want  []string
	}
	// z always counts and is always alive, so that a is not the only one.
	beat := 0
	z := func(objects ...any) []any {
		beat++
		return append(append(objects, settled...), testLease("z", epoch.Add(time.Duration(beat))))
	}
	lease := func(n int) *coordinationv1.Lease { return testLease("a", epoch.Add(time.Duration(n)*time.Hour)) }
	report := testReport("a", "1:x")
	failing := &v1alpha1.NodeReport{ObjectMeta: report.ObjectMeta, Report: v1alpha1.Report{Version: 1, Failing: 2}}
	booted := func(id string) *corev1.Node {
		n := ready.DeepCopy()
		n.Status.NodeInfo.BootID = id
		return n
	}
	reported := func(bootID string) *v1alpha1.NodeReport {
		r := report.DeepCopy()
		r.Report.BootID = bootID
		return r
	}
	tests := map[string][]moment{
		"no agent":  {{0, z(ready), []string{"z"}}},
		"not ready": {{0, z(notReady, lease(1), report), []string{"z"}}},
		"joins with its first commit": {
			{0, z(ready, lease(1)), []string{"a?", "z"}},
			{5 * sec, z(ready, lease(2)), []string{"a?", "z"}},
			{6 * sec, z(ready, lease(2), report), []string{"a", "z"}},
		},
		"joins after the grace": {
			{0, z(ready, lease(1)), []string{"a?", "z"}},
			{30*sec - 1, z(ready, lease(2)), []string{"a?", "z"}},
			{30 * sec, z(ready, lease(2)), []string{"a-", "z"}},
		},
		"a report that nobody understands is no commit": {
			{0, z(ready, lease(1), &v1alpha1.NodeReport{ObjectMeta: report.ObjectMeta, Report: v1alpha1.Report{Version: 99, Committed: []string{"9:x"}}}), []string{"a?", "z"}},
		},
		"only failures are no commit": {
			{0, z(ready, lease(1), failing), []string{"a?", "z"}},
		},
		"nothing to commit is a commit": {{0, z(ready, lease(1), testReport("a")), []string{"a", "z"}}},
		"silent after the timeout, back with a renewal": {
			{0, z(ready, lease(1), report), []string{"a", "z"}},
			{40*sec - 1, z(ready, lease(1), report), []string{"a", "z"}},
			{40 * sec, z(ready, lease(1), report), []string{"a!", "z"}},
			{50 * sec, z(ready, lease(2), report), []string{"a", "z"}},
		},
		"one that flaps and never programs has its grace once": {
			{0, z(ready, lease(1)), []string{"a?", "z"}},
			{20 * sec, z(notReady, lease(2)), []string{"z"}},
			{25 * sec, z(ready, lease(3)), []string{"a?", "z"}},
			{28 * sec, z(notReady, lease(4)), []string{"z"}},
			{35 * sec, z(ready, lease(5)), []string{"a-", "z"}},
		},
		"one that counted does so again at once": {
			{0, z(ready, lease(1), report), []string{"a", "z"}},
			{20 * sec, z(notReady, lease(2), report), []string{"z"}},
			{25 * sec, z(ready, lease(3), failing), []string{"a", "z"}},
		},
		"one that booted joins anew": {
			{0, z(booted("1"), lease(1), reported("1")), []string{"a", "z"}},
			{20 * sec, z(notReady, lease(1), reported("1")), []string{"z"}},
			{50 * sec, z(booted("2"), lease(2), reported("1")), []string{"a?", "z"}},
			{60 * sec, z(booted("2"), lease(3), reported("2")), []string{"a", "z"}},
		},
		"silent while not ready": {
			{0, z(ready, lease(1), report), []string{"a", "z"}},
			{30 * sec, z(notReady, lease(1), report), []string{"z"}},
			{60 * sec, z(ready, lease(1), report), []string{"a!", "z"}},
		},
		"deleted": {
			{0, z(ready, lease(1), report), []string{"a", "z"}},
			{1 * sec, z(lease(1), report), []string{"z"}},
		},
		"a report from before the boot is no commit": {
			{0, z(booted("1"), lease(1), reported("2")), []string{"a?", "z"}},
			{5 * sec, z(booted("2"), lease(1), reported("2")), []string{"a", "z"}},
		},
		"boots unnoticed": {
			{0, z(booted("1"), lease(1), reported("1")), []string{"a", "z"}},
			{5 * sec, z(booted("2"), lease(2), reported("1")), []string{"a-", "z"}},
			{6 * sec, z(booted("2"), lease(3), reported("2")), []string{"a", "z"}},
		},
		"alone while joining": {{0, []any{ready, lease(1)}, []string{"a-"}}},
	}
	for name, moments := range tests {
		t.Run(name, func(t *testing.T) {
			c := newCensus(DefaultConfig(), nil)
			c.count(epoch.Add(-time.Hour), fleetOf())
			for _, m := range moments {
				r, _ := c.count(epoch.Add(m.at), fleetOf(m.fleet...))
				if diff := cmp.Diff(m.want, describe(r)); diff != "" {
					t.Errorf("after %s (-want +got):\n%s", m.at, diff)
				}
			}
		})
	}
}

// TestCensusIgnoresRemoteClocks: a clock that is hours off, or runs backwards,
// renews as well as any.
func TestCensusIgnoresRemoteClocks(t *testing.T) {
	for name, remote := range map[string]func(time.Duration) time.Time{
		"five minutes late": func(d time.Duration) time.Time { return epoch.Add(d - 5*time.Minute) },
		"a day early":       func(d time.Duration) time.Time { return epoch.Add(d + 24*time.Hour) },
		"backwards":         func(d time.Duration) time.Time { return epoch.Add(-d) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCensus(DefaultConfig(), nil)
			c.count(epoch, fleetOf())
			node, report := testNode("a", true, "10.0.0.1"), testReport("a", "1:x")
			for at := time.Duration(0); at < 5*time.Minute; at += 10 * time.Second {
				r, _ := c.count(epoch.Add(at), fleetOf(node, report, testLease("a", remote(at))))
				if got := describe(r); !slices.Equal(got, []string{"a"}) {
					t.Fatalf("after %s: %v", at, got)
				}
			}
		})
	}
}

// TestCensusTellsWhenToLookAgain: the roll changes at the time it names, and says
// whether it changed.
func TestCensusTellsWhenToLookAgain(t *testing.T) {
	c := newCensus(DefaultConfig(), nil)
	c.count(epoch, fleetOf())
	fleet := fleetOf(
		testNode("a", true, "10.0.0.1"), testLease("a", epoch), testReport("a", "1:x"),
		testNode("b", true, "10.0.0.2"), testLease("b", epoch),
	)
	var seen []string
	for now := epoch; !now.IsZero(); {
		r, moved := c.count(now, fleet)
		seen = append(seen, fmt.Sprintf("%s %v %t", now.Sub(epoch), describe(r), moved))
		if _, again := c.count(now, fleet); again {
			t.Errorf("moved twice at %s", now.Sub(epoch))
		}
		now = r.next
	}
	want := []string{"0s [a b?] true", "30s [a b-] true", "40s [a! b-!] true"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
