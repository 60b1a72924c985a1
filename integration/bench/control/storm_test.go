package control

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/internal/netns"
)

const (
	changesPerSecond = 1000
	stormTick        = 5 * time.Millisecond
	markEvery        = 10 // ticks
	serveEvery       = 20 // ticks
)

// TestChangesPerSecond changes one endpoint a millisecond, each of another Service, while a
// client opens connections to a listener whose endpoints change as well, ten times a second.
func TestChangesPerSecond(t *testing.T) {
	measures(t)
	s := site{effort(1000, 10_000, 10_000), 10}
	b := startAgent(t, s, netns.PodSpec{Name: "a", Number: 2}, netns.PodSpec{Name: "b", Number: 3}, netns.PodSpec{Name: "c", Number: 4})
	if err := b.lab.Serve(8080); err != nil {
		t.Fatal(err)
	}
	m := startMonitor(t, b.lab.Node)
	pods := b.lab.Pods
	m.mark(pods[0].Addr4)
	if err := b.api.Put(b.served(pods[0], pods[1])); err != nil {
		t.Fatal(err)
	}
	until(t, "the served endpoints are committed", 10*time.Second, func() bool { _, missing := m.lagging(); return missing == 0 })
	time.Sleep(3 * time.Second)

	client := startClient(b.lab, b.listener(0))
	duration := effort(10*time.Second, time.Minute, time.Minute)
	kernel := settledKernel(t, kernelObjects)
	messages := b.agent.messages(t, b.lab.Node)
	m.drain()
	cpu, began, seen, read := b.agent.cpu(t), time.Now(), len(m.lags), watched(b.api, "portway-agent")
	sent := b.storm(t, m, duration)
	took := time.Since(began)
	cores, batches, read := (b.agent.cpu(t)-cpu).Seconds()/took.Seconds(), len(m.commits), watched(b.api, "portway-agent")-read
	for direction, n := range b.agent.messages(t, b.lab.Node) {
		messages[direction] = n - messages[direction]
	}
	time.Sleep(time.Second)
	kernel = settledKernel(t, kernelObjects) - kernel
	tally, err := client.stop()
	if err != nil {
		t.Fatal(err)
	}
	lags, missing := m.lagging()
	lags = lags[seen:]
	if missing > 0 || len(lags) == 0 {
		t.Errorf("%d of %d marked changes were never committed", missing, missing+len(lags))
	}
	t.Logf("%d changes in %s; %d connections: %s", sent, took, tally.Total(), tally)

	fig := func(name, unit string, value float64, aim *figure.Aim, note string) {
		record(t, figure.Figure{
			Section: figure.Programming, Name: name, Listeners: s.listeners, Endpoints: s.endpoints, Unit: unit, Values: []float64{value}, Aim: aim, Note: note,
		})
	}
	how := fmt.Sprintf("each of another Service, for %s", duration)
	fig("1 000 changes per second: done", "1/s", float64(sent)/took.Seconds(), nil, how)
	fig("1 000 changes per second: lag, p50", "s", quantile(lags, 0.5).Seconds(), nil, "from before the API server sends the event until nf_tables has told of the commit")
	fig("1 000 changes per second: lag, largest", "s", quantile(lags, 1).Seconds(), figure.AtMost(0.1), fmt.Sprintf("of %d changes that were followed", len(lags)))
	fig("1 000 changes per second: CPU of the agent", "cores", cores, figure.AtMost(0.5), how)
	fig("1 000 changes per second: memory of the agent", "B", b.agent.memory(t, "VmRSS"), nil, "resident, at the end")
	fig("1 000 changes per second: kernel memory", "B", kernel, nil, "by which "+kernelParts+" have grown a second after the end, connections included")
	fig("1 000 changes per second: batches committed", "1/s", float64(batches)/took.Seconds(), nil, "by nf_tables; what no longer leads anywhere is deleted in one of its own")
	for direction, n := range messages {
		fig("1 000 changes per second: netlink messages "+direction, "1/s", n/took.Seconds(), nil, "by its metrics, those that begin and end batches and acknowledgements included")
	}
	fig("1 000 changes per second: watch bandwidth of the agent", "B/s", float64(read)/took.Seconds(), nil, "EndpointSlices, each of which is sent whole, without TLS")
	fig("1 000 changes per second: flows refused or lost", "", float64(tally.Total()-tally.Answered()), figure.AtMost(0), fmt.Sprintf("of %d, to a listener whose endpoints change ten times a second", tally.Total()))
}

// storm sends changes and returns how many.
func (b *bench) storm(t *testing.T, m *monitor, duration time.Duration) (sent int) {
	t.Helper()
	pods := b.lab.Pods
	ticker := time.NewTicker(stormTick)
	defer ticker.Stop()
	began := time.Now()
	for tick := 1; time.Since(began) < duration; tick++ {
		<-ticker.C
		var changes []apisim.Object
		for due := int(time.Since(began).Seconds() * changesPerSecond); sent < due; sent++ {
			slice := b.slice(1+(sent*7919)%(b.listeners-1), 0)
			addr := netip.AddrFrom4([4]byte{11, byte(sent >> 16), byte(sent >> 8), byte(sent)})
			slice.Endpoints[0].Addresses[0] = addr.String()
			slice.Endpoints[0].TargetRef.Name += fmt.Sprint("-", sent)
			changes = append(changes, slice)
			if tick%markEvery == 0 && sent == due-1 {
				m.mark(addr)
			}
		}
		if tick%serveEvery == 0 {
			changes = append(changes, b.served(pods[0], pods[1+tick/serveEvery%2]))
		}
		if err := b.api.Put(changes...); err != nil {
			t.Fatal(err)
		}
	}
	return sent
}

// served is the EndpointSlice of the first Service, with endpoints that answer.
func (b *bench) served(pods ...*netns.Pod) *discoveryv1.EndpointSlice {
	slice := b.slice(0, 0)
	slice.Endpoints = nil
	for _, pod := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{pod.Addr4.String()}, NodeName: ptr.To(nodeName)})
	}
	return slice
}

// client opens connections, a few hundred a second, until it is stopped.
type client struct {
	end   chan struct{}
	ended chan struct{}
	tally netns.Tally
	err   error
}

func startClient(lab *netns.Lab, to netip.AddrPort) *client {
	c := &client{end: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		for {
			select {
			case <-c.end:
				return
			case <-time.After(20 * time.Millisecond):
			}
			tally, err := lab.Client.CountTCP(to, 10)
			c.tally.Refused += tally.Refused
			c.tally.Silent += tally.Silent + tally.Resent // a SYN that was lost
			c.tally.Failed = append(c.tally.Failed, tally.Failed...)
			if c.tally.Answers == nil {
				c.tally.Answers = map[string]int{}
			}
			for name, n := range tally.Answers {
				c.tally.Answers[name] += n
			}
			if c.err = err; err != nil {
				return
			}
		}
	}()
	return c
}

func (c *client) stop() (netns.Tally, error) {
	close(c.end)
	<-c.ended
	return c.tally, c.err
}
