package main

import (
	"cmp"
	"slices"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// A chart is one plot of the page. It is drawn if there are at least two figures for it.
type chart struct {
	file    string
	title   string
	section string
	first   bool // shown at the top of the page
	// names of the figures: one, whose subjects are compared, or several of Ours.
	names []string
	// listeners and endpoints choose one size for bars; of 0 the chart has lines over all sizes.
	listeners, endpoints int
	bars                 bool
	log                  bool // values of more than two orders
}

// charts in the order of the page.
var charts = []chart{
	{
		file: "new-flow-udp.svg", title: "UDP: processor time of a packet that is a new flow", section: figure.NewFlow, first: true, log: true,
		names: []string{newUDP},
	},
	{
		file: "connection-tcp.svg", title: "TCP: processor time of connect, 1 byte, close; 1 000 listeners × 10 endpoints",
		section: figure.NewFlow, first: true, bars: true, listeners: 1000, endpoints: 10, names: []string{connect},
	},
	{
		file: "new-flow-added.svg", title: "UDP: processor time of a new flow, more than one static dnat takes", section: figure.NewFlow, log: true,
		names: []string{newUDP + ": added over one static dnat"},
	},
	{
		file: "new-flow-tcp.svg", title: "TCP: processor time of connect, 1 byte, close", section: figure.NewFlow, log: true,
		names: []string{connect},
	},
	{
		file: "new-flow-few.svg", title: "UDP: new flows to 10 of the listeners", section: figure.NewFlow, log: true,
		names: []string{newUDP + ", to 10 of the listeners"},
	},
	{
		file: "bulk.svg", title: "TCP bulk, 1 stream; 100 listeners × 10 endpoints", section: figure.Established,
		bars: true, listeners: 100, endpoints: 10, names: []string{bulk + bulkStreams[0]},
	},
	{
		file: "small-packets.svg", title: "UDP packets of 64 bytes, established flows, one processor; 100 listeners × 10 endpoints",
		section: figure.Established, bars: true, listeners: 100, endpoints: 10,
		names: []string{"UDP packets of 64 bytes, established flows, one processor"},
	},
	{ // the p99 of few processors is what else ran on them and on their host: it has a table only
		file: "latency.svg", title: "TCP request and answer, p50; 100 listeners × 10 endpoints", section: figure.Established,
		bars: true, listeners: 100, endpoints: 10, names: []string{"TCP request and answer of 64 bytes, 10000/s on 64 connections: p50"},
	},
	{
		file: "event.svg", title: "One endpoint of many: from event to commit", section: figure.ControlPath, first: true,
		names: []string{eventToCommit + "p50", eventToCommit + "p99"},
	},
	{
		file: "programming.svg", title: "From a State to the last acknowledgement of the kernel", section: figure.Programming, log: true,
		names: []string{
			coldLoad, "restart with rules in place: time", "1000 endpoints changed: time", "100 endpoints changed: time",
			"1 endpoint changed: time", "listener added: time", "nothing to do: time",
		},
	},
}

// A series is a line or the bars of one subject or name.
type series struct {
	name   string
	ours   bool
	points []point
}

type point struct {
	of               figure.Figure
	median, min, max float64
}

// series of the chart; none if it has fewer than two points, or a line fewer than two sizes.
func (c chart) series(all []figure.Figure) []series {
	var out []series
	points := 0
	for _, f := range all {
		if !c.wants(f) {
			continue
		}
		name := f.Subject
		if len(c.names) > 1 || c.bars {
			name = f.Name
		}
		at := slices.IndexFunc(out, func(s series) bool { return s.name == name })
		if at < 0 {
			at = len(out)
			out = append(out, series{name: name, ours: f.Subject == figure.Ours})
		}
		base := scaleOf(f.Unit).base
		out[at].points = append(out[at].points, point{
			of: f, median: f.Median() * base, min: slices.Min(f.Values) * base, max: slices.Max(f.Values) * base,
		})
		points++
	}
	if points < 2 || !c.bars && len(labels(out)) < 2 {
		return nil
	}
	slices.SortStableFunc(out, func(a, b series) int {
		return cmp.Or(
			cmp.Compare(slices.Index(c.names, a.name), slices.Index(c.names, b.name)),
			compareSubjects(a.points[0].of.Subject, b.points[0].of.Subject),
		)
	})
	return out
}

// wants says whether the chart shows the figure.
func (c chart) wants(f figure.Figure) bool {
	switch {
	case f.Section != c.section || !slices.Contains(c.names, f.Name) || !slices.Contains(subjects, f.Subject):
		return false // variants have tables only
	case c.bars:
		return f.Listeners == c.listeners && f.Endpoints == c.endpoints
	}
	return len(c.names) == 1 || f.Subject == figure.Ours
}

// labels are all sizes of the series, smallest first.
func labels(all []series) []string {
	var figures []figure.Figure
	for _, s := range all {
		for _, p := range s.points {
			figures = append(figures, p.of)
		}
	}
	slices.SortFunc(figures, func(a, b figure.Figure) int {
		return cmp.Or(cmp.Compare(a.Listeners, b.Listeners), cmp.Compare(a.Endpoints, b.Endpoints))
	})
	var out []string
	for _, f := range figures {
		if label := size(f); !slices.Contains(out, label) {
			out = append(out, label)
		}
	}
	return out
}
