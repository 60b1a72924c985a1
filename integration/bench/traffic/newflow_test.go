package traffic

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/rules"
)

const (
	newFlowCommand = "BENCH=%s go test -run '^$' -bench NewFlow -benchtime 1x -timeout 0 ./integration/bench/traffic"
	udpName        = "UDP, every packet a new flow"
	busyName       = "UDP, every packet a new flow, to 10 of the listeners"
	addedName      = ": added over one static dnat"
	tcpName        = "TCP connect, 1 byte, close"
	bareName       = "TCP connect, 1 byte, close: client and server in one thread"
)

// only is for who wants to look at some subjects.
var only = flag.String("subjects", "", "measure only subjects whose names match this regular expression, and conntrack only, static dnat and portway")

// newFlow is what a run of the measurement does.
type newFlow struct {
	Plan
	listeners, endpoints []int
	peers                func(Size) bool // sizes at which there are peers
	patient              bool            // those, too, that take the longest to load
}

func newFlowPlan(bench string) newFlow {
	listeners, endpoints := []int{1, 10, 1000, 10_000}, []int{1, 10, 100}
	plan := Plan{Rounds: 15, UDP: Turns{Count: 16, Lead: 400, Flows: 400}, TCP: Turns{Count: 40, Flows: 2 * batch}}
	switch bench {
	case "full":
		return newFlow{plan, listeners, endpoints, func(Size) bool { return true }, true}
	case "quick":
		plan.Rounds, plan.UDP, plan.TCP.Count = 9, Turns{Count: 10, Lead: 200, Flows: 200}, 20
		return newFlow{plan, []int{1, 1000}, []int{1, 10}, func(s Size) bool { return s == Size{1, 1} }, false}
	default:
		return newFlow{plan, listeners, endpoints, func(s Size) bool {
			return slices.Contains([]Size{{1, 1}, {1000, 10}, {10_000, 10}}, s)
		}, false}
	}
}

// addedAims are for what our rules add to one static dnat, in ns.
var addedAims = map[Size]float64{{1, 1}: 600, {1000, 10}: 1100, {10_000, 10}: 1700}

// everywhere are the subjects of all sizes; the others are peers.
var everywhere = []string{ConntrackOnly, StaticDNAT, Ours}

// BenchmarkNewFlow measures what a new flow costs, of each subject at each size. Its own
// time on the clock means nothing: the figures are of the processor's time, see Clock.
func BenchmarkNewFlow(b *testing.B) {
	plan := newFlowPlan(os.Getenv("BENCH"))
	for _, listeners := range plan.listeners {
		for _, endpoints := range plan.endpoints {
			size := Size{listeners, endpoints}
			b.Run(size.String(), func(b *testing.B) {
				for b.Loop() {
					benchmarkNewFlow(b, plan, size)
				}
			})
		}
	}
}

func benchmarkNewFlow(b *testing.B, plan newFlow, size Size) {
	b.Helper()
	clock, closeClock := startClock(b)
	defer closeClock()
	counters, err := OpenCounters(clock.CPU)
	if err != nil {
		fmt.Printf("What the hardware counts for a connection is left out: %v\n", err)
	}
	defer func() {
		if err := counters.Close(); err != nil {
			b.Error(err)
		}
	}()
	subjects := plan.subjects(b, size)
	beside(b, subjects, size, clock, rules.UDP, func(all []*Loaded) {
		r := recorder{b, size, all}
		spread := []int{size.Listeners}
		if size.Listeners > busy && plan.peers(size) {
			spread = append(spread, busy)
		}
		for _, listeners := range spread {
			costs := r.measure(func() (*Costs, error) { return measureUDP(r.all, plan.Plan, clock, listeners) })
			r.udp(costs, listeners == size.Listeners)
		}
	})
	beside(b, subjects, size, clock, rules.TCP, func(all []*Loaded) {
		r := recorder{b, size, all}
		for _, served := range []bool{true, false} {
			costs := r.measure(func() (*Costs, error) { return measureTCP(r.all, plan.Plan, clock, counters, served) })
			r.tcp(costs, served)
		}
	})
}

// beside has a function measure the subjects, loaded for a protocol.
func beside(b *testing.B, subjects []Subject, size Size, clock *Clock, protocol rules.Protocol, measure func([]*Loaded)) {
	b.Helper()
	if protocol == rules.UDP {
		subjects = slices.DeleteFunc(slices.Clone(subjects), func(s Subject) bool { return s.Proxy })
	}
	begin := time.Now()
	all, err := loadAll(subjects, size, clock.CPU, func(s Subject, why error) { fmt.Printf("%s: %s is left out: %v\n", size, s.Name, why) }, protocol)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		for _, l := range all {
			if err := l.Close(); err != nil {
				b.Error(err)
			}
		}
	}()
	loaded := time.Since(begin)
	begin = time.Now()
	measure(all)
	fmt.Printf("%s %s: loaded in %s, measured in %s\n", size, protocol, loaded.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

// measure measures again without whom it fails for, which fails in the end; those that all are
// compared with cannot be done without.
func (r *recorder) measure(once func() (*Costs, error)) *Costs {
	r.Helper()
	for {
		costs, err := once()
		if err == nil {
			return costs
		}
		failed := (*failure)(nil)
		if !errors.As(err, &failed) || slices.Contains(everywhere, failed.subject) {
			r.Fatal(err)
		}
		r.Errorf("%s: %s is left out: %v", r.size, failed.subject, failed.err)
		r.all = slices.DeleteFunc(slices.Clone(r.all), func(l *Loaded) bool { return l.Name == failed.subject })
	}
}

// slow is who loads the longest: for 10 000 Services with 10 endpoints each its
// iptables-restore had not ended after more than two minutes of processor time.
const slow = "kube-proxy iptables"

// subjects are those to measure at a size.
func (plan newFlow) subjects(b *testing.B, size Size) []Subject {
	b.Helper()
	match, err := regexp.Compile(*only)
	if err != nil {
		b.Fatal(err)
	}
	var out []Subject
	for _, s := range Subjects() {
		switch {
		case slices.Contains(everywhere, s.Name):
		case !plan.peers(size) || !match.MatchString(s.Name):
			continue
		case s.One && size == Size{1, 1}:
			continue // is what all are
		case s.Name == slow && size.Listeners > 1000 && !plan.patient:
			fmt.Printf("%s at %s is left out: it needs too long to write its rules; BENCH=full waits\n", s.Name, size)
			continue
		}
		out = append(out, s)
	}
	return out
}

// recorder makes figures of costs.
type recorder struct {
	*testing.B
	size Size
	all  []*Loaded
}

func (r *recorder) record(name, subject, unit, note string, aim *figure.Aim, values ...float64) {
	r.Helper()
	f := figure.Figure{
		Section: figure.NewFlow, Name: name, Subject: subject, Listeners: r.size.Listeners, Endpoints: r.size.Endpoints,
		Unit: unit, Values: values, Aim: aim, Note: note,
		Command: strings.Replace(newFlowCommand, "%s", os.Getenv("BENCH"), 1),
	}
	met := ""
	switch {
	case aim == nil:
	case aim.Met(f.Median()):
		met = "  aim met"
	default:
		met = "  AIM MISSED"
	}
	fmt.Printf("%-8s %-72s %-22s %10.4g (%.4g … %.4g) %s%s\n", r.size, name, subject, f.Median(), slices.Min(values), slices.Max(values), unit, met)
	if err := f.Record(); err != nil {
		r.Error(err)
	}
}

// busy is a number of listeners that get all new flows.
const busy = 10

// busyNote says what to learn from it.
const busyNote = "The tables are as large as the size says, and what is looked up in them fits into the processor's caches: what it takes less than flows to all of the listeners is the memory's time."

// udp records the costs, what each adds to one static dnat, and ours by that of a
// kube-proxy: below 1 where ours is the cheaper one. The aims are those of flows to all
// listeners.
func (r *recorder) udp(c *Costs, toAll bool) {
	name, note := udpName, ""
	if !toAll {
		name, note = busyName, busyNote
	}
	for _, l := range r.all {
		r.record(name, l.Name, "ns", strings.TrimSpace(l.Note+" "+note), nil, c.Of[l.Name]...)
	}
	for _, l := range r.all {
		added := c.Over[[2]string{l.Name, StaticDNAT}]
		if l.Routed || len(added) == 0 {
			continue
		}
		var aim *figure.Aim
		if most, ok := addedAims[r.size]; ok && toAll && l.Name == Ours {
			aim = figure.AtMost(most)
		}
		r.record(name+addedName, l.Name, "ns", note, aim, added...)
		if l.Peer {
			r.record(name+": ratio to "+l.Name, Ours, "", note, figure.AtMost(1), c.Per[[2]string{Ours, l.Name}]...)
		}
	}
}

// bareNote is for those who compare the two ways to measure connections.
const bareNote = "16 at a time, and none of client and server ever waits: the least there is beside the node's own work, so that ratios are as far from 1 as can be."

// tcp records the costs, and those of ours and the proxies by those of what they are
// compared with. The aims are those of connections between processes.
func (r *recorder) tcp(c *Costs, served bool) {
	name, note := tcpName, ""
	if !served {
		name, note = bareName, bareNote
	}
	aim := func(a *figure.Aim) *figure.Aim {
		if served {
			return a
		}
		return nil
	}
	for _, l := range r.all {
		r.record(name, l.Name, "ns", strings.TrimSpace(l.Note+" "+note), nil, c.Of[l.Name]...)
	}
	for event, by := range c.Events {
		for _, l := range r.all {
			r.record(name+": "+event, l.Name, "", "Counted on the one processor that all is done on.", nil, by[l.Name]...)
		}
	}
	r.bases(name, note, c, aim)
	for _, l := range r.all {
		switch {
		case l.Proxy:
			r.record(name+": ratio to portway", l.Name, "", note, aim(figure.AtLeast(1.7)), c.Per[[2]string{l.Name, Ours}]...)
		case l.Peer:
			r.record(name+": ratio to "+l.Name, Ours, "", note, aim(figure.AtMost(1)), c.Per[[2]string{Ours, l.Name}]...)
		}
	}
}

// bases records what translation costs over conntrack only. The aim is for connections to the
// same endpoints; static dnat has one, so that it is to be compared with one.
func (r *recorder) bases(name, note string, c *Costs, aim func(*figure.Aim) *figure.Aim) {
	for _, base := range []string{ConntrackOnly, OneEndpoint} {
		for _, subject := range []string{StaticDNAT, Ours, Offloaded} {
			ratios := c.Per[[2]string{subject, base}]
			if len(ratios) == 0 {
				continue
			}
			r.record(name+": ratio to "+base, subject, "", note, nil, ratios...)
			var most *figure.Aim
			if subject == Ours && base == ConntrackOnly {
				most = aim(figure.AtMost(1.10))
			}
			r.record(name+": ratio to "+base+", upper 95 % bound", subject, "",
				"Of the mean of the paired rounds, by Student's t.", most, upper(ratios))
		}
	}
}
