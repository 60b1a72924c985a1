package cluster

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// digestsOf returns digests as a decoder would: every one of its own memory.
func digestsOf(n, edited int) []string {
	digests := make([]string, n)
	for i := range digests {
		digests[i] = fmt.Sprintf("1:%016x", i*7919)
		if i == edited {
			digests[i] += "+"
		}
	}
	return digests
}

// TestReportsShareTheirDigests: equal lists are one list; of lists that differ in one
// digest all others are shared.
func TestReportsShareTheirDigests(t *testing.T) {
	var r recentLists
	before, same, edited := r.share(digestsOf(100, -1)), r.share(digestsOf(100, -1)), r.share(digestsOf(100, 50))
	if &before[0] != &same[0] {
		t.Error("equal lists are not shared")
	}
	if !slices.Equal(edited, digestsOf(100, 50)) || !slices.Equal(before, digestsOf(100, -1)) {
		t.Error("a list was changed")
	}
	for i := range edited {
		if shared := unsafe.StringData(edited[i]) == unsafe.StringData(before[i]); shared != (i != 50) {
			t.Errorf("digest %d: shared %t", i, shared)
		}
	}
	if again := r.share(digestsOf(100, -1)); &again[0] != &before[0] {
		t.Error("the list before the edit is forgotten")
	}
	if got := r.share(nil); len(got) > 0 {
		t.Errorf("nothing became %v", got)
	}
}

// BenchmarkReports measures what the reports of 5000 nodes about 1000 Gateways keep,
// with every node at one of a few states of a row of edits.
func BenchmarkReports(b *testing.B) {
	const nodes, gateways = 5000, 1000
	for _, states := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("states=%d", states), func(b *testing.B) {
			heap := func() float64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return float64(m.HeapAlloc) / (1 << 20)
			}
			before := heap()
			reports := make([]Object, nodes)
			for b.Loop() {
				for i := range reports {
					reports[i] = trimmer{statuses: true}.nodeReport(&v1alpha1.NodeReport{Report: v1alpha1.Report{Committed: digestsOf(gateways, i%states)}})
				}
			}
			b.ReportMetric(heap()-before, "heap-MB")
			runtime.KeepAlive(reports)
		})
	}
}
