package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// Names that several aims have in common; the measurements record them.
const (
	newUDP        = "UDP, every packet a new flow"
	connect       = "TCP connect, 1 byte, close"
	bulk          = "TCP bulk, " // before one of bulkStreams
	coldLoad      = "cold load: time"
	peakMemory    = "agent: peak memory"
	memoryAtRest  = "agent: memory at rest"
	eventToCommit = "one endpoint: event to commit, " // before the quantile
)

// Subjects that a sentence or an aim compares ours with.
const (
	noNAT         = "no NAT, no conntrack"
	conntrackOnly = "conntrack only"
	staticDNAT    = "static dnat"
	kubeProxyNFT  = "kube-proxy nftables"
)

var (
	bulkStreams = []string{"1 stream", "4 streams"}
	proxies     = []string{"haproxy", "nginx stream"}
)

// aimed are all figures that have an aim, each with its size and whose it is, in the order of
// the page. An aim is looked up here and not only where it was recorded, so that a figure that
// got lost, or another name, is seen as not measured.
func aimed() []figure.Figure {
	type size struct{ listeners, endpoints int }
	var out []figure.Figure
	section := figure.NewFlow
	want := func(name, subject, unit string, aim *figure.Aim, sizes ...size) {
		for _, s := range sizes {
			out = append(out, figure.Figure{
				Section: section, Name: name, Subject: subject, Unit: unit, Aim: aim, Listeners: s.listeners, Endpoints: s.endpoints,
			})
		}
	}
	least, middle, most := size{1, 1}, size{1000, 10}, size{10_000, 10}
	ours := figure.Ours
	want(newUDP+": added over one static dnat", ours, "ns", figure.AtMost(600), least)
	want(newUDP+": added over one static dnat", ours, "ns", figure.AtMost(1100), middle)
	want(newUDP+": added over one static dnat", ours, "ns", figure.AtMost(1700), most)
	for _, name := range []string{newUDP, connect} {
		want(name+ratioTo+kubeProxyNFT, ours, "", figure.AtMost(1), least, middle, most)
		want(name+ratioTo+"kube-proxy iptables", ours, "", figure.AtMost(1), least, middle)
	}
	for _, listeners := range []int{1, 10, 1000, 10_000} {
		for _, endpoints := range []int{1, 10, 100} {
			want(connect+ratioTo+conntrackOnly+", upper 95 % bound", ours, "", figure.AtMost(1.1), size{listeners, endpoints})
		}
	}
	for _, proxy := range proxies {
		want(connect+ratioTo+figure.Ours, proxy, "", figure.AtLeast(1.7), least, middle, most)
	}
	section = figure.Established
	for _, streams := range bulkStreams {
		want(bulk+streams+ratioTo+conntrackOnly, ours, "", figure.AtLeast(0.97), size{100, 10})
	}
	section = figure.Programming
	want(coldLoad, ours, "s", figure.AtMost(1), most)
	want("1 000 changes per second: lag, largest", ours, "s", figure.AtMost(0.1), most)
	want("1 000 changes per second: CPU of the agent", ours, "cores", figure.AtMost(0.5), most)
	want("1 000 changes per second: flows refused or lost", ours, "", figure.AtMost(0), most)
	section = figure.ControlPath
	want(peakMemory, ours, "B", figure.AtMost(120e6), most)
	want(memoryAtRest, ours, "B", figure.AtMost(120e6), most)
	want("agent: CPU at rest", ours, "cores", figure.AtMost(0.005), most)
	want(eventToCommit+"p50", ours, "s", figure.AtMost(0.001), most)
	want(eventToCommit+"p99", ours, "s", figure.AtMost(0.005), most)
	want("one endpoint: CPU of the agent over that at 1 000 endpoints", ours, "", figure.AtMost(1.5), most)
	// Those of a cluster.
	none := size{}
	want("EndpointSlice accepted → first packet, p50", ours, "s", figure.AtMost(0.05), none)
	want("EndpointSlice accepted → first packet, p99", ours, "s", figure.AtMost(0.2), none)
	want("last node's report → Programmed True, max", ours, "s", figure.AtMost(1), none)
	want("Gateway deleted → the one that waits for its port Accepted, max", ours, "s", figure.AtMost(1), none)
	want("owner of addresses loses power → another node answers at all of them, p99", ours, "s", figure.AtMost(3), none)
	want("cold controller, settled ÷ (statuses ÷ write limit)", ours, "", figure.AtMost(1.1), size{1000, 0}, size{10_000, 0})
	want("cold controller, peak memory", ours, "B", figure.AtMost(300<<20), size{1000, 0}, size{10_000, 0})
	return out
}

// find returns the figure that an aim is for, and the run that measured it; without values
// nobody has.
func (r results) find(want figure.Figure) (figure.Figure, *run) {
	for _, run := range r.runs() {
		for _, f := range run.Figures {
			if f.Section == want.Section && f.Name == want.Name && f.Subject == want.Subject &&
				f.Listeners == want.Listeners && f.Endpoints == want.Endpoints && f.Unit == want.Unit {
				return f, run
			}
		}
	}
	return want, nil
}

// aims writes what became of every aim, and a sentence for each that the rounds do not decide.
func (r results) aims(w io.Writer) {
	var rows [][]string
	var open []string
	most := r.most()
	other := func(run *run) string {
		if run == most {
			return ""
		}
		return r.of(run)
	}
	for _, want := range aimed() {
		f, run := r.find(want)
		name := f.Name
		if f.Subject != figure.Ours {
			name += ", " + f.Subject
		}
		v := judge(f, want.Aim)
		if v == unmeasured {
			rows = append(rows, []string{name, size(f), aim(want.Aim, f.Unit), "", "", "", v.write(f.Name), ""})
			continue
		}
		median, interval := near(f.Median(), f.Unit, want.Aim), estimated(f.Values).interval(f.Unit, want.Aim)
		rows = append(rows, []string{
			name, size(f), aim(want.Aim, f.Unit), median, interval, spread(f.Values, f.Unit), v.write(f.Name), other(run),
		})
		if v == undecided {
			at := ""
			if s := size(f); s != "" {
				at = " at " + s
			}
			open = append(open, fmt.Sprintf(
				"- Not decided: %s%s. The median of %d rounds is %s; the true one may be anywhere from %s, and the aim %s is within.",
				name, at, len(f.Values), median, interval, aim(want.Aim, f.Unit),
			))
		}
	}
	fmt.Fprint(w, "## Aims\n\n")
	if most != nil {
		unless := ""
		if slices.ContainsFunc(rows, func(row []string) bool { return row[len(row)-1] != "" }) {
			unless = ", unless the row names another run"
		}
		fmt.Fprintf(w, "Measured by %s%s.\n\n", r.of(most), unless)
	}
	table(w, []string{"figure", "listeners × endpoints", "aim", "median", "95 %", "min to max", "verdict", "run"}, rows)
	for _, sentence := range open {
		fmt.Fprintln(w, sentence)
	}
	if len(open) > 0 {
		fmt.Fprintln(w)
	}
}

// most returns the run that measured most of what has an aim; nil: none has any.
func (r results) most() *run {
	measured := map[*run]int{}
	for _, want := range aimed() {
		if _, run := r.find(want); run != nil {
			measured[run]++
		}
	}
	var most *run
	for _, run := range r.runs() {
		if measured[run] > measured[most] {
			most = run
		}
	}
	return most
}

// of says which run it is: figures of two are of two trees or machines.
func (r results) of(run *run) string {
	e := run.Environment
	if run == r.Cluster {
		return fmt.Sprintf("make bench-cluster, %s, %s, %d × %s", e.Date, e.Commit, e.Cores, e.CPU)
	}
	return fmt.Sprintf("make bench, %s, %s", e.Date, e.Commit)
}
