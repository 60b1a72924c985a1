package control

import (
	"fmt"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/integration/bench/figure"
)

// TestAgentAtRest: what an agent that has nothing to do takes, and what it took to get there.
func TestAgentAtRest(t *testing.T) {
	measures(t)
	for _, s := range effort([]site{{10_000, 10}}, []site{{10_000, 10}}, []site{{100, 10}, {1000, 10}, {10_000, 1}, {10_000, 10}}) {
		b := startAgent(t, s)
		loading := b.agent.cpu(t)
		fig := func(name, unit string, value float64, aim *figure.Aim, note string) {
			record(t, figure.Figure{
				Section: figure.ControlPath, Name: name, Listeners: s.listeners, Endpoints: s.endpoints,
				Unit: unit, Values: []float64{value}, Aim: aim, Note: note,
			})
		}
		fig("agent: start to report of all Gateways", "s", b.took.Seconds(), nil, "from an empty kernel")
		fig("agent: CPU of its start", "s", loading.Seconds(), nil, "")
		fig("agent: memory when it has reported", "B", b.agent.memory(t, "VmRSS"), nil, "resident")
		fig("agent: peak memory", "B", b.agent.memory(t, "VmHWM"), figure.AtMost(120e6), "resident, from its start until it has reported")
		for stream, n := range b.api.WatchBytes() {
			if stream == (apisim.Stream{Agent: "portway-agent", Resource: "endpointslices"}) {
				fig("agent: bytes of EndpointSlices that it reads at its start", "B", float64(n), nil, "without TLS")
			}
		}
		restBegan, restSent := time.Now(), watched(b.api, "portway-agent")
		time.Sleep(effort(32*time.Second, 45*time.Second, 45*time.Second)) // after 30 s what loading left behind goes back to the system
		before, began := b.agent.cpu(t), time.Now()
		time.Sleep(effort(13*time.Second, 30*time.Second, 2*time.Minute))
		idle := (b.agent.cpu(t) - before).Seconds() / time.Since(began).Seconds()
		fig("agent: CPU at rest", "cores", idle, figure.AtMost(0.005), "Lease every 10 s, a look at the rules every second, everything every 30 s")
		fig("agent: memory at rest", "B", b.agent.memory(t, "VmRSS"), figure.AtMost(120e6), "resident, 45 s after its report or later")
		fig("agent: watch bandwidth at rest", "B/s", float64(watched(b.api, "portway-agent")-restSent)/time.Since(restBegan).Seconds(), nil,
			"of all its watches together, without TLS; a bookmark a minute for each kind")
		const nodes, changes = 5000, 100
		duration := effort(3*time.Second, 10*time.Second, time.Minute)
		fig(fmt.Sprintf("agent: watch bandwidth, %d nodes renew their Leases", nodes), "B/s", b.bandwidth(t, duration, func(i int) apisim.Object { return lease(i%nodes, 1+i/nodes) }, nodes/10), nil,
			"every 10 s, and nothing else changes: an agent watches no Lease and no Node but its own")
		fig(fmt.Sprintf("agent: watch bandwidth, %d endpoints a second change", changes), "B/s", b.bandwidth(t, duration, func(i int) apisim.Object { return b.replaced(i * 7919 % s.listeners) }, changes), nil,
			"each in another EndpointSlice, which is sent whole")
		b.agent.stop(t)
	}
}

// bandwidth is how many bytes a second the agent is sent while objects change.
func (b *bench) bandwidth(t *testing.T, duration time.Duration, change func(i int) apisim.Object, perSecond int) float64 {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	began, before, done := time.Now(), watched(b.api, "portway-agent"), 0
	for time.Since(began) < duration {
		<-ticker.C
		var objects []apisim.Object
		for due := int(time.Since(began).Seconds() * float64(perSecond)); done < due; done++ {
			objects = append(objects, change(done))
		}
		if err := b.api.Put(objects...); err != nil {
			t.Fatal(err)
		}
	}
	return float64(watched(b.api, "portway-agent")-before) / time.Since(began).Seconds()
}
