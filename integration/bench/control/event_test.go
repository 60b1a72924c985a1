package control

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// events replaces endpoints one after the other, from the given service on, and returns how long each
// took. This process, which is the API server and listens for commits, collects no garbage meanwhile.
func (b *bench) events(t *testing.T, m *monitor, n, from int) []time.Duration {
	t.Helper()
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	took := make([]time.Duration, 0, n)
	for i := range n {
		slice := b.replaced((i*7919 + from) % b.listeners)
		began := time.Now()
		if err := b.api.Put(slice); err != nil {
			t.Fatal(err)
		}
		took = append(took, m.await(t).Sub(began))
		m.await(t)                        // what no longer leads anywhere is deleted in a second commit
		time.Sleep(11 * time.Millisecond) // the loop's own least interval
	}
	return took
}

// TestEventToCommit: one endpoint of a Service is replaced by another in its EndpointSlice,
// with long enough pauses that changes do not meet. The time begins before the API server
// encodes and sends the event and ends when nf_tables has told of the commit, so it is longer
// than what the agent takes. An agent of each size runs, and they take turns.
func TestEventToCommit(t *testing.T) {
	measures(t)
	n := effort(150, 500, 5000)
	type taken struct {
		p50, p99 time.Duration
		work     time.Duration
	}
	sizes := []site{{100, 10}, {10_000, 10}}
	results := map[site][]taken{}
	benches := map[site]*bench{}
	monitors := map[site]*monitor{}
	for _, s := range sizes {
		benches[s] = startAgent(t, s)
		monitors[s] = startMonitor(t, benches[s].lab.Node)
	}
	time.Sleep(5 * time.Second)
	for round := range effort(2, 7, 9) {
		for _, s := range sizes {
			b := benches[s]
			before := b.agent.cpu(t)
			took := b.events(t, monitors[s], n, round)
			results[s] = append(results[s], taken{quantile(took, 0.5), quantile(took, 0.99), (b.agent.cpu(t) - before) / time.Duration(n)})
		}
	}
	for _, s := range sizes {
		var p50, p99, work []time.Duration
		var ratio []float64
		for i, r := range results[s] {
			p50, p99, work = append(p50, r.p50), append(p99, r.p99), append(work, r.work)
			ratio = append(ratio, r.work.Seconds()/results[sizes[0]][i].work.Seconds())
		}
		fig := func(name, unit string, values []float64, aim *figure.Aim, note string) {
			record(t, figure.Figure{
				Section: figure.ControlPath, Name: name, Listeners: s.listeners, Endpoints: s.endpoints,
				Unit: unit, Values: values, Aim: aim, Note: note,
			})
		}
		fig("one endpoint: event to commit, p50", "s", seconds(p50), figure.AtMost(0.001), "from before the API server sends the event until nf_tables has told of the commit")
		fig("one endpoint: event to commit, p99", "s", seconds(p99), figure.AtMost(0.005), "likewise")
		fig("one endpoint: CPU of the agent", "s", seconds(work), nil, "everything that the agent does meanwhile")
		fig("one endpoint: CPU of the agent over that at 1 000 endpoints", "", ratio, figure.AtMost(1.5), "")
	}
}
