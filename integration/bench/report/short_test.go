package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// TestShort: the page begins with medians, of rounds where they are compared, and without a sentence
// that a figure is missing for.
func TestShort(t *testing.T) {
	of := func(section, name, subject, unit string, listeners, endpoints int, values ...float64) figure.Figure {
		return figure.Figure{Section: section, Name: name, Subject: subject, Unit: unit, Listeners: listeners, Endpoints: endpoints, Values: values}
	}
	flow := func(name, subject string, listeners, endpoints int, values ...float64) figure.Figure {
		return of(figure.NewFlow, name, subject, "ns", listeners, endpoints, values...)
	}
	all := []figure.Figure{
		flow(newUDP, figure.Ours, 1, 1, 1000, 2000, 3000), flow(newUDP, noNAT, 1, 1, 900, 1500, 1000), // 100, 500, 2000
		flow(newUDP, figure.Ours, 10_000, 10, 4000, 4000), flow(newUDP, noNAT, 10_000, 10, 1000, 2000),
		flow(newUDP, staticDNAT, 1, 1, 500, 1000, 1500), flow(newUDP, staticDNAT, 10_000, 10, 1000, 1000),
		flow(newUDP+ratioTo+kubeProxyNFT, figure.Ours, 1, 1, 0.9), flow(newUDP+ratioTo+kubeProxyNFT, figure.Ours, 10_000, 10, 0.8),
		flow(connect+ratioTo+conntrackOnly, figure.Ours, 1, 1, 1.06), flow(connect+ratioTo+conntrackOnly, figure.Ours, 10, 1, 1.04, 1.04, 9),
		flow(connect+ratioTo+conntrackOnly+", upper 95 % bound", figure.Ours, 1, 1, 7), flow(connect+ratioTo+conntrackOnly, staticDNAT, 1, 1, 7),
		flow(connect+ratioTo+figure.Ours, "haproxy", 1, 1, 1.8), flow(connect+ratioTo+figure.Ours, "haproxy", 1000, 10, 1.9),
		flow(connect+ratioTo+figure.Ours, "nginx stream", 1, 1, 1.7),
		of(figure.Established, bulk+"1 stream"+ratioTo+conntrackOnly, figure.Ours, "", 100, 10, 0.95),
		of(figure.Established, bulk+"4 streams"+ratioTo+conntrackOnly, figure.Ours, "", 100, 10, 0.94),
		of(figure.ControlPath, eventToCommit+"p50", figure.Ours, "s", 10_000, 10, 0.001),
		of(figure.ControlPath, eventToCommit+"p99", figure.Ours, "s", 10_000, 10, 0.006),
		of(figure.ControlPath, eventToCommit+"p50", figure.Ours, "s", 100, 10, 0.7),
		of(figure.Programming, coldLoad, figure.Ours, "s", 10_000, 10, 0.9),
		of(figure.ControlPath, memoryAtRest, figure.Ours, "B", 10_000, 10, 102e6),
		of(figure.ControlPath, peakMemory, figure.Ours, "B", 10_000, 10, 142e6),
	}
	const (
		udp = "- The packet that is a new UDP flow takes, in processor time, 500 ns more at 1 × 1 and 2.50 µs more at 10 000 × 10 than without NAT and conntrack."
		tcp = "- A TCP connection of one byte takes 1.04 to 1.06 times the processor time that it takes with conntrack only, by the size."
	)
	whole := []string{
		udp + " In all it takes 0.900 and 0.800 times what it takes with kube-proxy nftables, 2.00 and 4.00 times what it takes with one static dnat.",
		tcp + " What a connection takes with portway it takes 1.80 to 1.90 times with haproxy and 1.70 times with nginx stream.",
		"- TCP in bulk carries, in the same processor time, 0.950 (1 stream) and 0.940 (4 streams) times what it carries with conntrack only.",
		"- One changed endpoint of 10 000 × 10 is in the kernel 1.00 ms (p50) or 6.00 ms (p99) after the API server's event.",
		"- On a node without rules all of 10 000 × 10 are in the kernel 900 ms after the decision. An agent with 10 000 × 10 has 102 MB of memory at rest, and 142 MB at its peak.",
	}
	for name, test := range map[string]struct {
		without func(figure.Figure) bool
		want    []string
	}{
		"all":       {func(figure.Figure) bool { return false }, whole},
		"nothing":   {func(figure.Figure) bool { return true }, nil},
		"ours only": {func(f figure.Figure) bool { return f.Subject != figure.Ours }, append([]string{tcp}, whole[2:]...)},
		"no kube-proxy, proxy": {
			func(f figure.Figure) bool { return strings.HasSuffix(f.Name, "nftables") || f.Subject == "haproxy" },
			append([]string{
				udp + " In all it takes 2.00 and 4.00 times what it takes with one static dnat.",
				tcp + " What a connection takes with portway it takes 1.70 times with nginx stream.",
			}, whole[2:]...),
		},
		"a size less": {
			func(f figure.Figure) bool { return f.Listeners == 10_000 },
			[]string{whole[1], whole[2]},
		},
	} {
		r := results{Bench: &run{Figures: slices.DeleteFunc(slices.Clone(all), test.without)}}
		var page strings.Builder
		r.short(&page)
		var got []string
		for _, line := range strings.Split(page.String(), "\n") {
			if strings.HasPrefix(line, "- ") {
				got = append(got, line)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if (page.Len() > 0) != (len(test.want) > 0) {
			t.Errorf("%s: %q", name, page.String())
		}
	}
}

// TestMergeSizes: what was left out at several sizes is one sentence with all of them, smallest first.
func TestMergeSizes(t *testing.T) {
	got := mergeSizes([]string{
		"a is left out: no a", "10000x10: b is left out: no b", "1000x10: b is left out: no b", "1x1: b is left out: no b",
		"1x1: c is left out: no c", "100x10: d is left out: no d", "d is left out: no d", "b is left out: broken",
	})
	want := []string{
		"a is left out: no a", "1 × 1, 1 000 × 10 and 10 000 × 10: b is left out: no b", "1 × 1: c is left out: no c",
		"100 × 10 and elsewhere: d is left out: no d", "b is left out: broken",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sentences (-want +got):\n%s", diff)
	}
}
