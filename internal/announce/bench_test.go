package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/internal/owner"
)

// BenchmarkFailover takes the time from the end of an owner until another node answers a
// client that asks every 10 ms. Run it with -benchtime 50x.
func BenchmarkFailover(b *testing.B) {
	netns.Require(b)
	b.Run("killed", func(b *testing.B) {
		failover(b, func(n *node) { n.process.Kill() }, func(n *node) {
			n.start(b)
			n.set(b, readyFor(vips(10)))
		})
	})
	// As a node without power, it refuses nothing either.
	b.Run("unplugged", func(b *testing.B) {
		failover(b, func(n *node) {
			run(b, n.lab.Namespace, "ip link set "+n.Name()+" nomaster")
		}, func(n *node) {
			run(b, n.lab.Namespace, "ip link set "+n.Name()+" master lan")
		})
	})
}

func failover(b *testing.B, end, begin func(*node)) {
	b.Helper()
	l := newLab(b)
	all := vips(10)
	l.startAll(b, all)
	client := l.queries(b)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		a := all[i%len(all)]
		victim := l.awaitOwners(b, all)[a]
		b.StartTimer()
		start := time.Now()
		end(victim)
		for {
			macs := client.Query(b.Context(), []layer2.Reach{{Address: a}}, 10*time.Millisecond)[a]
			if slices.ContainsFunc(macs, func(m layer2.MAC) bool { return m != victim.mac }) {
				break
			}
			if time.Since(start) > patience {
				b.Fatalf("nobody answers for %s", a)
			}
		}
		took = append(took, time.Since(start))
		b.StopTimer()
		begin(victim)
		eventually(b, func() string { return "all are members again" }, func() bool {
			for _, n := range l.nodes {
				if last, _ := n.reports(); last.Counters.Members != len(l.nodes) {
					return false
				}
			}
			return true
		})
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds(), "s-p50")
	b.ReportMetric(took[min(len(took)*99/100, len(took)-1)].Seconds(), "s-p99")
	b.ReportMetric(took[len(took)-1].Seconds(), "s-max")
}

// BenchmarkMany has three nodes own IPv4 addresses: what one takes when nothing happens,
// and how long until the addresses of one that is killed are announced by others, the
// first and the last of them. Run it with -benchtime 1x.
func BenchmarkMany(b *testing.B) {
	netns.Require(b)
	for _, count := range []int{10, 5000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			for b.Loop() {
				many(b, addresses(count))
			}
		})
	}
}

func many(b *testing.B, all []netip.Addr) {
	b.Helper()
	l := newLab(b)
	for _, n := range l.nodes {
		n.quiet = true
	}
	l.startAll(b, all)
	victim := l.nodes[0]
	const rest = 30 * time.Second
	time.Sleep(rest / 3) // the last announcements
	before := victim.usage()
	time.Sleep(rest)
	after := victim.usage()
	b.ReportMetric(float64(after.RSS)/(1<<20), "MiB-RSS")
	b.ReportMetric((after.CPU-before.CPU).Seconds()/rest.Seconds()*100, "%-of-a-core")

	killed := time.Now()
	victim.process.Kill()
	l.awaitOwners(b, all)
	var took []time.Duration
	for _, n := range l.running() {
		_, changes := n.reports()
		for _, c := range changes {
			if c.At.After(killed) {
				took = append(took, c.At.Sub(killed))
			}
		}
	}
	slices.Sort(took)
	b.ReportMetric(took[0].Seconds(), "s-first")
	b.ReportMetric(took[len(took)-1].Seconds(), "s-last")
	b.ReportMetric(float64(len(took)), "moved")
}

// BenchmarkDecide is one decision of one of 100 nodes about 5 000 addresses that are owned.
func BenchmarkDecide(b *testing.B) {
	now := time.Unix(1e9, 0)
	all := addresses(5000)
	v := view{now: now, complete: true, records: map[string]*owner.Record{}, statuses: map[netip.Addr]layer2.Status{}}
	for i := range 99 {
		v.alive = append(v.alive, fmt.Sprintf("node-%d", i+1))
	}
	owners := owner.Assign(owner.Input{
		Addresses: all, Nodes: append(slices.Clone(v.alive), "me"),
		Eligible: func(netip.Addr, string) bool { return true },
	})
	for _, node := range v.alive {
		v.records[node] = &owner.Record{Node: node, Settled: true, Prepared: true, Ready: owner.NewSet(all)}
	}
	c := newCourse("me", settleFor)
	want := map[netip.Addr]Address{}
	for _, a := range all {
		want[a] = Address{Ready: true}
		if r := v.records[owners[a].Owner]; r != nil {
			r.Claims = append(r.Claims, owner.Claim{Address: a, Stamp: uint64(now.UnixMilli()), Phase: owner.Answering})
		} else {
			v.statuses[a] = layer2.Status{State: layer2.Answering}
		}
	}
	c.set(want, nil, nil, now)
	c.decide(v)
	v.now = now.Add(ripen)
	c.decide(v)
	if len(c.claims) == 0 || len(c.claims) != len(v.statuses) {
		b.Fatalf("%d claims, want %d", len(c.claims), len(v.statuses))
	}
	for b.Loop() {
		c.decide(v)
	}
}
