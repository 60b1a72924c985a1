package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/rules"
)

// sizes are numbers of listeners, each with benchEndpoints endpoints.
var sizes = []int{10, 1000, 10000}

const benchEndpoints = 10

func addr4(base string, i int) netip.Addr {
	a := netip.MustParseAddr(base).As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(i))
	return netip.AddrFrom4(a)
}

func benchKey(i int) rules.FrontendKey {
	return rules.FrontendKey{Addr: addr4("203.0.113.0", i/64), Protocol: rules.TCP, Port: uint16(1000 + i%64)}
}

// benchFrontend has endpoints numbered from first.
func benchFrontend(i, first, endpoints int) *rules.Frontend {
	service := fmt.Sprintf("team-%d/service-%d", i%50, i)
	f := &rules.Frontend{
		Owner:    owner(fmt.Sprintf("team-%d/gateway-%d", i%50, i/64), fmt.Sprintf("listener-%d", i%64), fmt.Sprintf("team-%d/route-%d", i%50, i)),
		Backends: []rules.Backend{{Ref: service, Weight: 1}},
	}
	for e := range endpoints {
		n := first + e
		f.Backends[0].Endpoints = append(f.Backends[0].Endpoints, rules.Endpoint{
			Addr: netip.AddrPortFrom(addr4("10.0.0.0", i*32+n), 8080), Name: fmt.Sprintf("service-%d-7c5ddbdf54-%05d", i, n), Local: n%5 == 0,
		})
	}
	return f
}

func benchState(listeners int) *rules.State {
	frontends := make(map[rules.FrontendKey]*rules.Frontend, listeners)
	for i := range listeners {
		frontends[benchKey(i)] = benchFrontend(i, 0, benchEndpoints)
	}
	return stateOf(frontends)
}

func forSizes(b *testing.B, run func(b *testing.B, listeners int)) {
	b.Helper()
	for _, n := range sizes {
		b.Run(fmt.Sprintf("listeners=%d", n), func(b *testing.B) { run(b, n) })
	}
}

func BenchmarkCompile(b *testing.B) {
	forSizes(b, func(b *testing.B, n int) {
		b.Helper()
		s := benchState(n)
		b.ReportAllocs()
		for b.Loop() {
			for key, f := range s.All() {
				compile(key, f, nil)
			}
		}
	})
}

// The difference of two States of the given size that differ in one Frontend,
// without what the kernel takes.
func BenchmarkDiff(b *testing.B) {
	forSizes(b, func(b *testing.B, n int) {
		b.Helper()
		from := benchState(n)
		to := from.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(0): benchFrontend(0, 1, benchEndpoints)}, nil)
		was := compile(benchKey(0), from.Frontend(benchKey(0)), nil)
		b.ReportAllocs()
		for b.Loop() {
			for _, change := range rules.Changes(from, to) {
				newPlan(change.Key, was, compile(change.Key, change.New, was.previous()))
			}
		}
	})
}

// A cold load, from a State in memory to the last acknowledgement, after which
// the table is removed with the clock stopped.
func BenchmarkLoad(b *testing.B) {
	forSizes(b, func(b *testing.B, n int) {
		b.Helper()
		_, c := inNamespace(b)
		s := benchState(n)
		runtime.GC()
		debug.FreeOSMemory()
		before := rss(b, "VmRSS")
		b.ReportAllocs()
		var spent [2]time.Duration
		for b.Loop() {
			p := newProgrammer(b, c)
			user, system := cpu(b)
			mustProgram(b, p, s)
			b.StopTimer()
			after := [2]time.Duration{}
			after[0], after[1] = cpu(b)
			spent[0] += after[0] - user
			spent[1] += after[1] - system
			if err := p.Cleanup(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(spent[0].Milliseconds())/float64(b.N), "user-ms/op")
		b.ReportMetric(float64(spent[1].Milliseconds())/float64(b.N), "system-ms/op")
		b.ReportMetric(float64(rss(b, "VmHWM"))/1024, "peak-rss-MB")
		b.ReportMetric(float64(before)/1024, "rss-before-MB")
	})
}

// cpu returns the processor time this process has had, which, other than the time
// on the clock, does not depend on what else the machine does.
func cpu(b *testing.B) (user, system time.Duration) {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano()), time.Duration(usage.Stime.Nano())
}

// rss reads a memory figure of this process, in KB.
func rss(b *testing.B, field string) int {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				b.Fatal(err)
			}
			return kb
		}
	}
	b.Fatalf("no %s", field)
	return 0
}

// A restart on a loaded table that needs no change.
func BenchmarkAdopt(b *testing.B) {
	forSizes(b, func(b *testing.B, n int) {
		b.Helper()
		_, c := inNamespace(b)
		s := benchState(n)
		mustProgram(b, newProgrammer(b, c), s)
		b.ReportAllocs()
		for b.Loop() {
			if n := mustProgram(b, newProgrammer(b, c), s); n != 0 {
				b.Fatalf("%d operations", n)
			}
		}
	})
}

// One Frontend alternates between two forms on a loaded table.
func benchmarkChange(b *testing.B, a, z *rules.Frontend) {
	b.Helper()
	forSizes(b, func(b *testing.B, n int) {
		b.Helper()
		_, c := inNamespace(b)
		p := newProgrammer(b, c)
		base := benchState(n)
		states := [2]*rules.State{
			base.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(0): a}, nil),
			base.Apply(map[rules.FrontendKey]*rules.Frontend{benchKey(0): z}, nil),
		}
		mustProgram(b, p, states[1])
		b.ReportAllocs()
		var took []time.Duration
		for b.Loop() {
			start := time.Now()
			if _, err := p.Program(b.Context(), states[len(took)&1]); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	})
}

func BenchmarkReplaceEndpoint(b *testing.B) {
	z := benchFrontend(0, 0, benchEndpoints)
	z.Backends[0].Endpoints[3] = benchFrontend(0, benchEndpoints, 1).Backends[0].Endpoints[0]
	benchmarkChange(b, benchFrontend(0, 0, benchEndpoints), z)
}

// Half of the updates add an endpoint, half remove one: the slot count changes.
func BenchmarkAddRemoveEndpoint(b *testing.B) {
	benchmarkChange(b, benchFrontend(0, 0, benchEndpoints+1), benchFrontend(0, 0, benchEndpoints))
}

func BenchmarkAddRemoveListener(b *testing.B) {
	benchmarkChange(b, nil, benchFrontend(0, 0, benchEndpoints))
}

// A pass without anything to do, when others committed since the last one and when
// not: what it costs to look at the rules of all chains.
func BenchmarkNothingToDo(b *testing.B) {
	for _, others := range []bool{false, true} {
		b.Run(fmt.Sprintf("others=%t", others), func(b *testing.B) {
			_, c := inNamespace(b)
			p := newProgrammer(b, c)
			s := benchState(1000)
			mustProgram(b, p, s)
			b.ReportAllocs()
			for b.Loop() {
				if others {
					p.generation = 0 // as if
				}
				if n := mustProgram(b, p, s); n != 0 {
					b.Fatalf("%d operations", n)
				}
			}
		})
	}
}

// What the ladder costs each commit: the kernel walks all chains of all tables.
func BenchmarkReplaceEndpointShortLadder(b *testing.B) {
	full := rungs
	defer setRungs(full)
	setRungs([]int{1, 2, 4, 8, 10, 11, 16})
	BenchmarkReplaceEndpoint(b)
}

func BenchmarkAddRemoveListenerShortLadder(b *testing.B) {
	full := rungs
	defer setRungs(full)
	setRungs([]int{1, 2, 4, 8, 10, 11, 16})
	BenchmarkAddRemoveListener(b)
}

func setRungs(r []int) {
	rungs = r
	rungIndex, chainNames = indexRungs(), nameChains()
	chainIDs = numberChains()
}

// A listener with client affinity comes and goes, or one of its endpoints is replaced.
func clientFrontend(first, endpoints int) *rules.Frontend {
	f := benchFrontend(0, first, endpoints)
	f.Select = rules.ClientHash
	return f
}

func BenchmarkAddRemoveClientListener(b *testing.B) {
	benchmarkChange(b, nil, clientFrontend(0, benchEndpoints))
}

func BenchmarkReplaceEndpointOfClients(b *testing.B) {
	for _, n := range []int{10, 100} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			benchmarkChange(b, clientFrontend(0, n), clientFrontend(1, n))
		})
	}
}

// One of 5000 exclusive addresses comes and goes.
func BenchmarkAddRemoveExclusive(b *testing.B) {
	_, c := inNamespace(b)
	p := newProgrammer(b, c)
	base, all := benchState(1000), benchAddrs(64 * 5000)[:5000]
	states := [2]*rules.State{base.WithExclusive(all), base.WithExclusive(all[1:])}
	mustProgram(b, p, states[1])
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if results, err := p.Program(b.Context(), states[len(took)&1]); err != nil || results.Operations != 1 {
			b.Fatal(results, err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
}
