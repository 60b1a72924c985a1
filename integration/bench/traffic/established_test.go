package traffic

import (
	"errors"
	"fmt"
	"os"
	"regexp"
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
	// held in as many rounds as heldTime has room for, and in one at least.
	held, heldRounds int
	heldTime         time.Duration
}

// establishedPlan has one size: packets of flows that are there pass no rule whose cost depends on it.
func establishedPlan(bench string) established {
	e := established{
		Size: Size{100, 10}, rounds: 11, turns: 48, streams: []int{1, 4}, bytes: 8 << 20, flows: 1000, packets: 1000,
		requests: 5000, rate: 10_000, connections: 64, held: 100_000, heldRounds: 3, heldTime: 3 * time.Minute,
	}
	switch bench {
	case "full":
		e.rounds, e.turns, e.requests, e.heldRounds, e.heldTime = 25, 100, 20_000, 9, 24*time.Hour
	case "quick":
		e.Size, e.rounds, e.turns, e.requests, e.held, e.heldRounds = Size{1, 2}, 5, 16, 2000, 8000, 1
	}
	return e
}

// subjects are those that -subjects names, and what they are compared with.
func (e established) subjects(b *testing.B) []Subject {
	b.Helper()
	match, err := regexp.Compile(*only)
	if err != nil {
		b.Fatal(err)
	}
	return slices.DeleteFunc(slices.Concat(Subjects(), forThroughput()), func(s Subject) bool {
		return !match.MatchString(s.Name) && !slices.Contains(everywhere, s.Name) && s.Name != bare()
	})
}

// bare is the subject that has nothing on the node: what is held with it is the client's and the
// backend's.
func bare() string { return Subjects()[0].Name }

// BenchmarkEstablished measures what connections and flows get that are there already, in parts
// that can be asked for by name.
func BenchmarkEstablished(b *testing.B) {
	plan := establishedPlan(os.Getenv("BENCH"))
	clock, err := NewClock()
	if err != nil {
		b.Fatal(err)
	}
	cpu := clock.CPU
	if err := clock.Close(); err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	all, err := loadAll(plan.subjects(b), plan.Size, cpu, func(s Subject, why error) { fmt.Printf("%s is left out: %v\n", s.Name, why) })
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
	// What a part of our rules, or one endpoint, takes is seen in bulk and small, and what a
	// proxy's settings for throughput do in bulk.
	whole := slices.DeleteFunc(slices.Clone(all), func(l *Loaded) bool {
		return strings.HasPrefix(l.Name, Ours+" without ") || l.Name == OneEndpoint ||
			slices.ContainsFunc(forThroughput(), func(s Subject) bool { return s.Name == l.Name })
	})
	for _, part := range []struct {
		name    string
		all     []*Loaded
		measure func(*testing.B, []*Loaded)
	}{
		{"bulk", all, plan.benchmarkBulk},
		{"small", all, plan.benchmarkSmall},
		{"latency", whole, plan.benchmarkLatency},
		{"held", whole, plan.benchmarkHeld},
	} {
		b.Run(part.name, func(b *testing.B) {
			for b.Loop() {
				begin := time.Now()
				part.measure(b, part.all)
				fmt.Printf("%s measured in %s\n", part.name, time.Since(begin).Round(time.Millisecond))
			}
		})
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

// compare records a measure of all that are in.
func (e established) compare(b *testing.B, c *Comparison, name, unit string, s Series, note string) {
	b.Helper()
	for i, l := range c.All {
		if c.In(i) {
			e.record(b, figure.Figure{Name: name, Subject: l.Name, Unit: unit, Values: s.Medians(i), Note: strings.TrimSpace(l.Note + " " + note)})
		}
	}
}

// ratios records those of ours, and of static dnat, which shows what any translation costs, to
// conntrack only. The aim is ours.
func (e established) ratios(b *testing.B, c *Comparison, name string, s Series, aim *figure.Aim) {
	b.Helper()
	by := c.find(ConntrackOnly)
	for subject, aim := range map[string]*figure.Aim{StaticDNAT: nil, Ours: aim} {
		if i := c.find(subject); i >= 0 && by >= 0 {
			e.record(b, figure.Figure{
				Name: name + ": ratio to " + ConntrackOnly, Subject: subject, Values: s.Ratios(i, by), Aim: aim,
				Note: "Of each round the median of the ratios within a turn.",
			})
		}
	}
}

// leftOut says who is out, in lines that the report takes over, and fails for those who should
// not be.
func leftOut(b *testing.B, c *Comparison, name string) {
	b.Helper()
	sentences, failure := c.LeftOut(name)
	for _, s := range sentences {
		fmt.Println(s)
	}
	if failure != nil {
		b.Error(failure)
	}
}

// clockNote is for those who distrust a second that is not of the clock.
const clockNote = "The same transfers by the time on the clock, in which everybody else runs, too."

// benchmarkBulk: how much one processor carries, with client, node and backend on it.
func (e established) benchmarkBulk(b *testing.B, all []*Loaded) {
	b.Helper()
	clock, closeClock := startClock(b)
	defer closeClock()
	for _, streams := range e.streams {
		name := strings.TrimSuffix(fmt.Sprintf(bulkName, streams), "s")
		if streams > 1 {
			name += "s"
		}
		c := NewComparison(all)
		open := make([]*Streams, len(all))
		c.Each(func(i int) (err error) {
			if open[i], err = NewStreams(all[i], streams); err == nil {
				err = open[i].Send(e.bytes) // buffers grow
			}
			return err
		})
		series, err := c.Measure(e.rounds, e.turns, 3, func(i int) ([]float64, error) {
			begin := time.Now()
			took, err := clock.per(e.bytes, all[i].Proxies, open[i].Send)
			return []float64{1e9 / took, took, float64(e.bytes) / time.Since(begin).Seconds()}, err
		})
		if err != nil {
			b.Fatal(err)
		}
		for i, s := range open {
			if s != nil {
				c.Fail(i, errors.Join(s.Close(), all[i].Forget()))
			}
		}
		e.compare(b, c, name, "B/s", series[0], "")
		e.ratios(b, c, name, series[0], figure.AtLeast(0.97))
		e.compare(b, c, name+": processor time per GB", "s", series[1], "")
		e.compare(b, c, name+": on the clock", "B/s", series[2], clockNote)
		e.ratios(b, c, name+": on the clock", series[2], nil)
		leftOut(b, c, name)
	}
}

func (e established) benchmarkSmall(b *testing.B, all []*Loaded) {
	b.Helper()
	clock, closeClock := startClock(b)
	defer closeClock()
	there := slices.DeleteFunc(slices.Clone(all), func(l *Loaded) bool { return l.Proxy })
	c := NewComparison(there)
	senders := make([]*Datagrams, len(there))
	c.Each(func(i int) (err error) {
		senders[i], err = NewEstablished(there[i], e.flows)
		return err
	})
	series, err := c.Measure(e.rounds, e.turns, 1, func(i int) ([]float64, error) {
		took, err := clock.per(e.packets, nil, func(count int) error {
			for ; count > 0; count -= e.flows {
				senders[i].Rewind()
				if err := senders[i].Send(e.flows); err != nil {
					return err
				}
			}
			return nil
		})
		return []float64{1e9 / took}, err
	})
	if err != nil {
		b.Fatal(err)
	}
	c.Each(func(i int) error {
		return errors.Join(there[i].arrived(e.rounds*e.turns*e.packets), there[i].assured(e.flows), there[i].Forget())
	})
	for _, d := range senders {
		if d != nil {
			_ = d.Close() // nothing is pending
		}
	}
	e.compare(b, c, smallName, "1/s", series[0], "")
	e.ratios(b, c, smallName, series[0], nil)
	leftOut(b, c, smallName)
}

func (e established) benchmarkLatency(b *testing.B, all []*Loaded) {
	b.Helper()
	name := fmt.Sprintf(latencyName, e.rate, e.connections)
	c := NewComparison(all)
	open := make([]*Requests, len(all))
	c.Each(func(i int) (err error) {
		open[i], err = NewRequests(all[i], e.connections)
		return err
	})
	percentiles := []struct {
		name     string
		thousand int
	}{{"p50", 500}, {"p99", 990}, {"p999", 999}}
	series, err := c.Measure(e.rounds, 1, len(percentiles), func(i int) ([]float64, error) {
		took, err := open[i].Ask(e.requests, e.rate)
		if err != nil {
			return nil, err
		}
		slices.Sort(took)
		var values []float64
		for _, p := range percentiles {
			values = append(values, took[len(took)*p.thousand/1000].Seconds())
		}
		return values, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for i, r := range open {
		if r != nil {
			c.Fail(i, errors.Join(r.Close(), all[i].Forget()))
		}
	}
	for i, p := range percentiles {
		e.compare(b, c, name+": "+p.name, "s", series[i], "")
	}
	leftOut(b, c, name)
}

func (e established) benchmarkHeld(b *testing.B, all []*Loaded) {
	b.Helper()
	name := fmt.Sprintf(heldName, e.held)
	if err := trackable(e.held); err != nil {
		fmt.Printf("%s: everybody is left out: %v\n", name, err)
		return
	}
	c := NewComparison(all)
	c.Each(func(i int) error { return all[i].canHold(e.held) })
	var answered, each Series
	for begin := time.Now(); len(answered) == 0 || fits(begin, len(answered[0]), e.heldRounds, e.heldTime); {
		round, err := c.Measure(1, 1, 2, func(i int) ([]float64, error) {
			h, err := Hold(all[i], e.held)
			if err == nil && h.Answered != e.held {
				err = fmt.Errorf("%d of %d connections answered", h.Answered, e.held)
			}
			return []float64{float64(h.Answered), float64(h.Memory) / float64(e.held)}, err
		})
		if err != nil {
			b.Fatal(err)
		}
		answered, each = answered.and(round[0]), each.and(round[1])
	}
	note := ""
	switch {
	case e.heldRounds == 1:
		note = "Once: BENCH=" + os.Getenv("BENCH") + " has one round."
	case len(each[0]) == 1:
		note = fmt.Sprintf("Once: there was no time for more in %s.", e.heldTime)
	}
	e.compare(b, c, name+": answered", "", answered, note)
	if base := c.find(bare()); base >= 0 {
		e.memory(b, c, name+": memory of each on the node", note, each, base)
	} else {
		fmt.Printf("%s: memory of each is left out: what client and backend hold is not known without %q\n", name, bare())
	}
	leftOut(b, c, name)
}

// memory records what each subject holds more than one that has nothing on the node, in the same
// round.
func (e established) memory(b *testing.B, c *Comparison, name, note string, s Series, base int) {
	b.Helper()
	note = "Caches of the kernel for followed flows and sockets, and resident memory of proxies; less what client and backend take. " + note
	for i, l := range c.All {
		if i == base || !c.In(i) {
			continue
		}
		var values []float64
		for round, each := range s.Medians(i) {
			values = append(values, each-s[base][round][0])
		}
		e.record(b, figure.Figure{Name: name, Subject: l.Name, Unit: "B", Values: values, Note: strings.TrimSpace(note)})
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
	if err := s.Send(3 * window); err != nil {
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
