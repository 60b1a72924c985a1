package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/integration/bench/figure"
)

// TestAims: a figure counts for an aim only with its name, size, subject and unit, and whatever aim
// it has brought along; one that is missing is a row; rows that no aim is for are not there.
// The run that measured most is named once, and rows name others.
func TestAims(t *testing.T) {
	at := func(listeners, endpoints int, subject string, values ...float64) figure.Figure {
		return figure.Figure{
			Section: figure.NewFlow, Name: newUDP + ratioTo + "kube-proxy nftables", Subject: subject,
			Listeners: listeners, Endpoints: endpoints, Values: values, Aim: figure.AtMost(100),
		}
	}
	r := results{
		Bench: &run{
			Environment: environment{Date: "2026-11-28", Commit: "abc"},
			Figures:     []figure.Figure{at(1, 1, figure.Ours, 2), at(1000, 10, "haproxy", 1), at(100, 1, figure.Ours, 1)},
		},
		Cluster: &run{
			Environment: environment{Date: "2026-11-23", Commit: "def", Cores: 4, CPU: "EPYC"},
			Figures: []figure.Figure{{
				Section: figure.ControlPath, Name: "EndpointSlice accepted → first packet, p50", Subject: figure.Ours, Unit: "s",
				Values: []float64{1, 1, 1, 1, 1, 0.001, 0.001, 0.001, 0.001},
			}},
		},
	}
	var page strings.Builder
	r.aims(&page)
	var got []string
	for _, line := range strings.Split(page.String(), "\n") {
		if strings.Contains(line, "UDP") && strings.Contains(line, "nftables") || strings.Contains(line, "packet, p50") || strings.HasPrefix(line, "Measured") {
			got = append(got, line)
		}
	}
	want := []string{
		"Measured by make bench, 2026-11-28, abc, unless the row names another run.",
		"| UDP, every packet a new flow: ratio to kube-proxy nftables | 1 × 1 | ≤ 1 | 2.00 |  | once | " +
			"**MISSED** ([why](method.md#udp-every-packet-a-new-flow-ratio-to-kube-proxy-nftables)) |  |",
		"| UDP, every packet a new flow: ratio to kube-proxy nftables | 1 000 × 10 | ≤ 1 |  |  |  | " +
			"not measured ([why](method.md#udp-every-packet-a-new-flow-ratio-to-kube-proxy-nftables-not-measured)) |  |",
		"| UDP, every packet a new flow: ratio to kube-proxy nftables | 10 000 × 10 | ≤ 1 |  |  |  | " +
			"not measured ([why](method.md#udp-every-packet-a-new-flow-ratio-to-kube-proxy-nftables-not-measured)) |  |",
		"| EndpointSlice accepted → first packet, p50 |  | ≤ 50 ms | 1.00 s | 1.00 ms to 1.00 s | 1.00 ms to 1.00 s | not decided | " +
			"make bench-cluster, 2026-11-23, def, 4 × EPYC |",
		"- Not decided: EndpointSlice accepted → first packet, p50. The median of 9 rounds is 1.00 s; the true one may be anywhere from 1.00 ms to 1.00 s, " +
			"and the aim ≤ 50 ms is within.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// TestAimed: no aim is twice there, and those of the published figures are the ones of the list.
func TestAimed(t *testing.T) {
	r, err := read(published)
	if err != nil {
		t.Fatal(err)
	}
	all := aimed()
	for i, want := range all {
		if slices.ContainsFunc(all[:i], func(f figure.Figure) bool {
			return f.Name == want.Name && f.Subject == want.Subject && f.Listeners == want.Listeners && f.Endpoints == want.Endpoints
		}) {
			t.Errorf("%s (%s, %s) is twice there", want.Name, want.Subject, size(want))
		}
		f, run := r.find(want)
		if run == nil {
			continue
		}
		if diff := cmp.Diff(want.Aim, f.Aim); diff != "" {
			t.Errorf("%s (%s, %s): aim of the list and of the measurement (-list +measured):\n%s", want.Name, want.Subject, size(want), diff)
		}
	}
}
