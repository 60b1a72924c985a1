package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// short writes what to read first: a few sentences of medians. A sentence that a figure is missing for is
// left out.
func (r results) short(w io.Writer) {
	if r.Bench == nil {
		return
	}
	var points []string
	for _, say := range []func(*run) []string{(*run).shortUDP, (*run).shortTCP, (*run).shortBulk, (*run).shortChange, (*run).shortLoad} {
		if sentences := say(r.Bench); len(sentences) > 0 {
			points = append(points, "- "+strings.Join(sentences, " "))
		}
	}
	if len(points) == 0 {
		return
	}
	fmt.Fprintf(w, "## In short\n\nMedians, on %d × %s; sizes are listeners × endpoints of each.\n\n%s\n\n",
		r.Bench.Environment.Cores, r.Bench.Environment.CPU, strings.Join(points, "\n"))
}

// figure returns one that was recorded, and whether it was.
func (r *run) figure(section, name, subject string, listeners, endpoints int) (figure.Figure, bool) {
	at := slices.IndexFunc(r.Figures, func(f figure.Figure) bool {
		return f.Section == section && f.Name == name && f.Subject == subject && f.Listeners == listeners && f.Endpoints == endpoints
	})
	if at < 0 {
		return figure.Figure{}, false
	}
	return r.Figures[at], true
}

// shortUDP says what a new flow takes, at the least and the largest size.
func (r *run) shortUDP() []string {
	var more, nft, static []string
	for _, at := range []figure.Figure{{Listeners: 1, Endpoints: 1}, {Listeners: 10_000, Endpoints: 10}} {
		ours, _ := r.figure(figure.NewFlow, newUDP, figure.Ours, at.Listeners, at.Endpoints)
		if f, ok := r.figure(figure.NewFlow, newUDP, noNAT, at.Listeners, at.Endpoints); ok && sameRounds(f, ours) {
			added := figure.Figure{}
			for i, x := range ours.Values {
				added.Values = append(added.Values, x-f.Values[i])
			}
			more = append(more, in(added.Median(), f.Unit)+" more at "+size(at))
		}
		if f, ok := r.figure(figure.NewFlow, newUDP+ratioTo+kubeProxyNFT, figure.Ours, at.Listeners, at.Endpoints); ok {
			nft = append(nft, digits(f.Median(), 3))
		}
		if f, ok := r.figure(figure.NewFlow, newUDP, staticDNAT, at.Listeners, at.Endpoints); ok {
			if e, _, ok := r.besideOurs(f); ok {
				static = append(static, digits(e.inverse().median, 3))
			}
		}
	}
	if len(more) < 2 {
		return nil
	}
	out := []string{"The packet that is a new UDP flow takes, in processor time, " + enumerate(more) + " than without NAT and conntrack."}
	var all []string
	if len(nft) == len(more) {
		all = append(all, enumerate(nft)+" times what it takes with "+kubeProxyNFT)
	}
	if len(static) == len(more) {
		all = append(all, enumerate(static)+" times what it takes with one "+staticDNAT)
	}
	if len(all) > 0 {
		out = append(out, "In all it takes "+strings.Join(all, ", ")+".")
	}
	return out
}

// medians returns the smallest and the largest median of a subject's figures over the sizes, and
// whether there is any.
func (r *run) medians(section, name, subject string) (string, bool) {
	var all []float64
	for _, f := range r.Figures {
		if f.Section == section && f.Name == name && f.Subject == subject {
			all = append(all, f.Median())
		}
	}
	if len(all) == 0 {
		return "", false
	}
	low, high := digits(slices.Min(all), 3), digits(slices.Max(all), 3)
	if low == high {
		return low, true
	}
	return low + " to " + high, true
}

func (r *run) shortTCP() []string {
	var out, others []string
	if times, ok := r.medians(figure.NewFlow, connect+ratioTo+conntrackOnly, figure.Ours); ok {
		out = append(out, "A TCP connection of one byte takes "+times+" times the processor time that it takes with "+conntrackOnly+", by the size.")
	}
	for _, proxy := range proxies {
		if times, ok := r.medians(figure.NewFlow, connect+ratioTo+figure.Ours, proxy); ok {
			others = append(others, times+" times with "+proxy)
		}
	}
	if len(others) > 0 {
		out = append(out, "What a connection takes with "+figure.Ours+" it takes "+enumerate(others)+".")
	}
	return out
}

func (r *run) shortBulk() []string {
	var shares []string
	for _, streams := range bulkStreams {
		if share, ok := r.medians(figure.Established, bulk+streams+ratioTo+conntrackOnly, figure.Ours); ok {
			shares = append(shares, share+" ("+streams+")")
		}
	}
	if len(shares) == 0 {
		return nil
	}
	return []string{"TCP in bulk carries, in the same processor time, " + enumerate(shares) + " times what it carries with " + conntrackOnly + "."}
}

func (r *run) shortChange() []string {
	p50, ok := r.figure(figure.ControlPath, eventToCommit+"p50", figure.Ours, 10_000, 10)
	p99, also := r.figure(figure.ControlPath, eventToCommit+"p99", figure.Ours, 10_000, 10)
	if !ok || !also {
		return nil
	}
	return []string{fmt.Sprintf("One changed endpoint of %s is in the kernel %s (p50) or %s (p99) after the API server's event.",
		size(p50), in(p50.Median(), p50.Unit), in(p99.Median(), p99.Unit))}
}

func (r *run) shortLoad() []string {
	var out []string
	if f, ok := r.figure(figure.Programming, coldLoad, figure.Ours, 10_000, 10); ok {
		out = append(out, fmt.Sprintf("On a node without rules all of %s are in the kernel %s after the decision.", size(f), in(f.Median(), f.Unit)))
	}
	rest, ok := r.figure(figure.ControlPath, memoryAtRest, figure.Ours, 10_000, 10)
	if peak, also := r.figure(figure.ControlPath, peakMemory, figure.Ours, 10_000, 10); ok && also {
		out = append(out, fmt.Sprintf("An agent with %s has %s of memory at rest, and %s at its peak.", size(rest), in(rest.Median(), rest.Unit), in(peak.Median(), peak.Unit)))
	}
	return out
}
