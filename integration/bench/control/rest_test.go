package control

import (
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/integration/bench/figure"
)

// TestAgentAtRest: what an agent that has nothing to do takes, and what it took to get there.
func TestAgentAtRest(t *testing.T) {
	measures(t)
	for _, s := range effort([]site{{10_000, 10}}, []site{{100, 10}, {10_000, 10}}, []site{{100, 10}, {1000, 10}, {10_000, 1}, {10_000, 10}}) {
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
		fig("agent: peak memory", "B", b.agent.memory(t, "VmHWM"), nil, "resident")
		for stream, n := range b.api.WatchBytes() {
			if stream == (apisim.Stream{Agent: "portway-agent", Resource: "endpointslices"}) {
				fig("agent: bytes of EndpointSlices that it reads at its start", "B", float64(n), nil, "without TLS")
			}
		}
		time.Sleep(45 * time.Second) // what loading left behind goes back to the system
		before, began := b.agent.cpu(t), time.Now()
		time.Sleep(effort(20*time.Second, 30*time.Second, 2*time.Minute))
		idle := (b.agent.cpu(t) - before).Seconds() / time.Since(began).Seconds()
		fig("agent: CPU at rest", "cores", idle, figure.AtMost(0.005), "Lease every 10 s, a look at the rules every second, everything every 30 s")
		fig("agent: memory at rest", "B", b.agent.memory(t, "VmRSS"), figure.AtMost(120e6), "resident, 45 s after its start")
		b.agent.stop(t)
	}
}
