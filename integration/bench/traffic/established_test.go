package traffic

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/internal/netns"
)

const (
	establishedCommand = "BENCH=%s go test -run '^$' -bench Established -benchtime 1x -timeout 0 ./integration/bench/traffic"
	bulkName           = "TCP bulk, %d streams"
	smallName          = "UDP packets of 64 bytes, established flows, one processor"
	latencyName        = "TCP request and answer of 64 bytes, %d/s on %d connections"
	heldName           = "%d TCP connections held"
)

// established is what a run of the measurement does.
type established struct {
	Size
	rounds  int
	turns   int // of a round, where a turn is short
	streams []int
	bytes   int // over all streams, in a turn
	flows   int
	packets int // of a turn, a multiple of the flows
	// requests a round, at rate a second on connections.
	requests, rate, connections int
	held                        int
}

// establishedPlan has one size: packets of flows that are there pass no rule whose cost depends on it.
func establishedPlan(bench string) established {
	e := established{
		Size: Size{100, 10}, rounds: 11, turns: 3, streams: []int{1, 4}, bytes: 256 << 20, flows: 1000, packets: 20_000,
		requests: 5000, rate: 10_000, connections: 64, held: 100_000,
	}
	switch bench {
	case "full":
		e.rounds, e.turns, e.requests = 25, 5, 20_000
	case "quick":
		e.Size, e.rounds, e.turns, e.requests, e.held = Size{1, 2}, 5, 1, 2000, 10_000
	}
	return e
}

// BenchmarkEstablished measures what connections and flows get that are there already.
func BenchmarkEstablished(b *testing.B) {
	plan := establishedPlan(os.Getenv("BENCH"))
	for b.Loop() {
		clock, err := NewClock()
		if err != nil {
			b.Fatal(err)
		}
		cpu := clock.CPU
		if err := clock.Close(); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		all, err := loadAll(Subjects(), plan.Size, cpu, func(s Subject, why error) { fmt.Printf("%s is left out: %v\n", s.Name, why) })
		if err != nil {
			b.Fatal(err)
		}
		fmt.Printf("loaded in %s\n", time.Since(begin).Round(time.Millisecond))
		defer func() {
			for _, l := range all {
				if err := l.Close(); err != nil {
					b.Error(err)
				}
			}
		}()
		for _, part := range []func(*testing.B, []*Loaded){plan.benchmarkBulk, plan.benchmarkSmall, plan.benchmarkLatency, plan.benchmarkHeld} {
			begin := time.Now()
			part(b, all)
			fmt.Printf("measured in %s\n", time.Since(begin).Round(time.Millisecond))
		}
	}
}

func (e established) record(b *testing.B, f figure.Figure) {
	b.Helper()
	f.Section, f.Listeners, f.Endpoints = figure.Established, e.Listeners, e.Endpoints
	f.Command = strings.TrimPrefix(strings.Replace(establishedCommand, "%s", os.Getenv("BENCH"), 1), "BENCH= ")
	met := ""
	if f.Aim != nil && !f.Aim.Met(f.Median()) {
		met = "  AIM MISSED"
	}
	fmt.Printf("%-72s %-22s %10.4g (%.4g … %.4g) %s%s\n", f.Name, f.Subject, f.Median(), slices.Min(f.Values), slices.Max(f.Values), f.Unit, met)
	if err := f.Record(); err != nil {
		b.Error(err)
	}
}

// compare records values of all, and ours by those of conntrack only if there is an aim for it.
func (e established) compare(b *testing.B, name, unit string, aim *figure.Aim, all []*Loaded, values map[string][]float64) {
	b.Helper()
	for _, l := range all {
		e.record(b, figure.Figure{Name: name, Subject: l.Name, Unit: unit, Values: values[l.Name], Note: l.Note})
	}
	if aim == nil {
		return
	}
	e.record(b, figure.Figure{
		Name: name + ": ratio to " + ConntrackOnly, Subject: Ours, Values: ratios(values[Ours], values[ConntrackOnly]), Aim: aim,
	})
}

// benchmarkBulk: how fast, and how much processor time of client, node and backend together.
func (e established) benchmarkBulk(b *testing.B, all []*Loaded) {
	b.Helper()
	machine, err := NewMachine()
	if err != nil {
		b.Fatal(err)
	}
	for _, streams := range e.streams {
		open := make([]*Streams, len(all))
		for i, l := range all {
			var err error
			if open[i], err = NewStreams(l, streams); err != nil {
				b.Fatal(err)
			}
			if _, err := open[i].Send(e.bytes / streams); err != nil { // windows open
				b.Fatal(fmt.Errorf("%s: %w", l.Name, err))
			}
		}
		speed, cost := map[string][]float64{}, map[string][]float64{}
		for range e.rounds {
			costs := make([][]float64, len(all))
			took, err := Interleave(len(all), e.turns, func(i int) (float64, error) {
				before, err := machine.Now(all[i].Proxies)
				if err != nil {
					return 0, err
				}
				took, err := open[i].Send(e.bytes / streams)
				if err != nil {
					return 0, fmt.Errorf("%s: %w", all[i].Name, err)
				}
				after, err := machine.Now(all[i].Proxies)
				costs[i] = append(costs[i], (after-before).Seconds()/(float64(e.bytes)/1e9))
				return float64(e.bytes) / took.Seconds(), err
			})
			if err != nil {
				b.Fatal(err)
			}
			for i, l := range all {
				speed[l.Name] = append(speed[l.Name], median(took[i]))
				cost[l.Name] = append(cost[l.Name], median(costs[i]))
			}
		}
		for i, l := range all {
			if err := errors.Join(open[i].Close(), l.Forget()); err != nil {
				b.Error(err)
			}
		}
		name := strings.TrimSuffix(fmt.Sprintf(bulkName, streams), "s")
		if streams > 1 {
			name += "s"
		}
		e.compare(b, name, "B/s", figure.AtLeast(0.97), all, speed)
		e.compare(b, name+": processor time per GB", "s", nil, all, cost)
	}
}

func (e established) benchmarkSmall(b *testing.B, all []*Loaded) {
	b.Helper()
	clock, closeClock := startClock(b)
	defer closeClock()
	var there []*Loaded
	var senders []*Datagrams
	for _, l := range all {
		if l.Proxy {
			continue
		}
		d, err := NewEstablished(l, e.flows)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = d.Close() }() // nothing is pending
		there, senders = append(there, l), append(senders, d)
	}
	rate := map[string][]float64{}
	for range e.rounds {
		took, err := Interleave(len(there), e.turns, func(i int) (float64, error) {
			return clock.per(e.packets, nil, func(count int) error {
				for ; count > 0; count -= e.flows {
					senders[i].Rewind()
					if err := senders[i].Send(e.flows); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			b.Fatal(err)
		}
		for i, l := range there {
			rate[l.Name] = append(rate[l.Name], 1e9/median(took[i]))
		}
	}
	for _, l := range there {
		want := e.rounds * e.turns * e.packets
		if err := errors.Join(l.arrived(want), l.assured(e.flows), l.Forget()); err != nil {
			b.Errorf("%s: %v", l.Name, err)
		}
	}
	e.compare(b, smallName, "1/s", nil, there, rate)
}

func (e established) benchmarkLatency(b *testing.B, all []*Loaded) {
	b.Helper()
	open := make([]*Requests, len(all))
	for i, l := range all {
		var err error
		if open[i], err = NewRequests(l, e.connections); err != nil {
			b.Fatal(err)
		}
		defer func() {
			if err := errors.Join(open[i].Close(), l.Forget()); err != nil {
				b.Error(err)
			}
		}()
	}
	percentiles := []struct {
		name     string
		thousand int
	}{{"p50", 500}, {"p99", 990}, {"p999", 999}}
	values := map[string]map[string][]float64{}
	for _, p := range percentiles {
		values[p.name] = map[string][]float64{}
	}
	for range e.rounds {
		_, err := Interleave(len(all), 1, func(i int) (float64, error) {
			took, err := open[i].Ask(e.requests, e.rate)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", all[i].Name, err)
			}
			slices.Sort(took)
			for _, p := range percentiles {
				values[p.name][all[i].Name] = append(values[p.name][all[i].Name], took[len(took)*p.thousand/1000].Seconds())
			}
			return 0, nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, p := range percentiles {
		e.compare(b, fmt.Sprintf(latencyName, e.rate, e.connections)+": "+p.name, "s", nil, all, values[p.name])
	}
}

func (e established) benchmarkHeld(b *testing.B, all []*Loaded) {
	b.Helper()
	if err := trackable(e.held); err != nil {
		fmt.Printf("What holds %d connections is left out: %v\n", e.held, err)
		return
	}
	name := fmt.Sprintf(heldName, e.held)
	base := 0.0
	for i, l := range all {
		count, note := e.held, l.Note
		if l.Proxy && l.Most < count {
			count = l.Most / batch * batch
			note += fmt.Sprintf(" It holds %d connections: two files each are as many as one process may have open here.", count)
		}
		h, err := Hold(l, count)
		if err != nil {
			b.Errorf("hold connections: %v", err)
			continue
		}
		e.record(b, figure.Figure{Name: name + ": answered", Subject: l.Name, Values: []float64{float64(h.Answered)}, Note: note})
		each := float64(h.Memory) / float64(count)
		if i == 0 {
			base = each
			continue
		}
		e.record(b, figure.Figure{
			Name: name + ": memory of each on the node", Subject: l.Name, Unit: "B", Values: []float64{each - base},
			Note: "Caches of the kernel for followed flows and sockets, and resident memory of proxies; less what client and backend take.",
		})
	}
}

// TestEstablished: what the measurement does, once and little of it.
func TestEstablished(t *testing.T) {
	netns.Require(t)
	for _, subject := range Subjects() {
		if strings.HasPrefix(subject.Name, "kube-proxy") {
			continue
		}
		t.Run(subject.Name, func(t *testing.T) { testEstablished(t, subject) })
	}
}

func testEstablished(t *testing.T, subject Subject) {
	t.Helper()
	l, err := subject.Load(Size{Listeners: 3, Endpoints: 2}, 0)
	if missing := (*Unavailable)(nil); errors.As(err, &missing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := NewStreams(l, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(3 * chunk); err != nil {
		t.Error(err)
	}
	r, err := NewRequests(l, 4)
	if err != nil {
		t.Fatal(err)
	}
	if took, err := r.Ask(50, 1000); err != nil || len(took) != 50 {
		t.Errorf("%d of 50 requests were answered: %v", len(took), err)
	}
	if err := errors.Join(s.Close(), r.Close(), l.Forget()); err != nil {
		t.Error(err)
	}
	h, err := Hold(l, 4*batch)
	if err != nil || h.Answered != 4*batch {
		t.Errorf("%d of %d connections that were held answered: %v", h.Answered, 4*batch, err)
	}
	if subject.Proxy {
		return
	}
	const flows = 200
	d, err := NewEstablished(l, flows)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d.Rewind()
		if err := d.Send(flows); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(l.arrived(2*flows), l.assured(flows), d.Close()); err != nil {
		t.Error(err)
	}
}

func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}
