package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/integration/bench/figure"
)

func TestInterval(t *testing.T) {
	if estimated([]float64{1, 2, 3, 4, 5}).bounded {
		t.Error("five rounds have an interval")
	}
	// Of nine the second and the eighth: (9 over 0, 1) are 10 of 512 on each side, 96 %.
	e := estimated([]float64{9, 8, 7, 6, 5, 4, 3, 2, 1})
	if want := (estimate{5, 2, 8, true}); e != want {
		t.Errorf("estimate of nine rounds is %+v, want %+v", e, want)
	}
	if got, want := e.inverse(), (estimate{1. / 5, 1. / 8, 1. / 2, true}); got != want {
		t.Errorf("its inverse is %+v, want %+v", got, want)
	}
}

// TestOneEstimator: what a table says of a subject beside ours is the ratio that was recorded turn by turn,
// whichever way round, and the quotient of rounds only without one and only of the same rounds.
func TestOneEstimator(t *testing.T) {
	const name = "TCP"
	of := func(name, subject, command string, values ...float64) figure.Figure {
		return figure.Figure{Section: figure.NewFlow, Name: name, Subject: subject, Unit: "ns", Values: values, Command: command}
	}
	r := &run{Figures: []figure.Figure{
		of(name, figure.Ours, "make", 10, 10, 20),
		of(name, "nginx stream", "make", 17, 17, 34),
		of(name+ratioTo+figure.Ours, "nginx stream", "make", 1.6, 1.72, 1.8),
		of(name, "conntrack only", "make", 5, 5, 5),
		of(name+ratioTo+"conntrack only", figure.Ours, "make", 1.25, 1.25, 1.25),
		of(name, "static dnat", "make", 5, 10, 10),
		of(name, "haproxy", "make", 5, 10),
		of(name, "kube-proxy iptables", "make other", 5, 10, 10),
	}}
	type answer struct {
		Median      float64
		ByRound, OK bool
	}
	got := map[string]answer{}
	for _, f := range r.Figures {
		if f.Name == name {
			e, byRound, ok := r.besideOurs(f)
			got[f.Subject] = answer{e.median, byRound, ok}
		}
	}
	want := map[string]answer{
		figure.Ours:           {},
		"nginx stream":        {1.72, false, true},
		"conntrack only":      {0.8, false, true},
		"static dnat":         {0.5, true, true},
		"haproxy":             {}, // a round is missing
		"kube-proxy iptables": {}, // another run
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("beside ours (-want +got):\n%s", diff)
	}
}

func TestJudge(t *testing.T) {
	nine := []float64{9, 8, 7, 6, 5, 4, 3, 2, 1} // 2 to 8
	for _, test := range []struct {
		name   string
		values []float64
		aim    *figure.Aim
		want   verdict
	}{
		{"no aim", nine, nil, unasked},
		{"no values", nil, figure.AtMost(1), unmeasured},
		{"all below", nine, figure.AtMost(8), met},
		{"median below", nine, figure.AtMost(7.9), undecided},
		{"median above", nine, figure.AtMost(2), undecided},
		{"all above", nine, figure.AtMost(1.9), missed},
		{"all above the least", nine, figure.AtLeast(2), met},
		{"some above the least", nine, figure.AtLeast(8), undecided},
		{"none above the least", nine, figure.AtLeast(8.1), missed},
		{"wider than the aim", nine, &figure.Aim{Min: new(float64(4)), Max: new(float64(6))}, undecided},
		{"few", []float64{1, 2, 9}, figure.AtMost(2), met},
		{"few above", []float64{1, 2, 9}, figure.AtMost(1.9), missed},
		{"an upper 95 % bound", nine, figure.AtMost(5), met},
		{"an upper 95 % bound", nine, figure.AtMost(4.9), missed},
	} {
		if got := judge(figure.Figure{Name: test.name, Values: test.values}, test.aim); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// TestNear: a value is told from its aim by as many digits as that takes.
func TestNear(t *testing.T) {
	for _, test := range []struct {
		x    float64
		unit string
		aim  *figure.Aim
		want string
	}{
		{1.104, "", figure.AtMost(1.1), "1.104"},
		{1.0996, "", figure.AtMost(1.1), "1.0996"},
		{1.1, "", figure.AtMost(1.1), "1.10"},
		{1.11, "", figure.AtMost(1.1), "1.11"},
		{1.104, "", nil, "1.10"},
		{0.9698, "", figure.AtLeast(0.97), "0.9698"},
		{600.3, "ns", figure.AtMost(600), "600.3 ns"},
		{1100.4, "ns", figure.AtMost(1100), "1.1004 µs"},
		{0.9996, "s", figure.AtMost(1), "999.6 ms"},
		{119.97e6, "B", figure.AtMost(120e6), "119.97 MB"},
		{0, "", figure.AtMost(0), "0"},
	} {
		if got := near(test.x, test.unit, test.aim); got != test.want {
			t.Errorf("%v %s beside %s is written %q, want %q", test.x, test.unit, aim(test.aim, test.unit), got, test.want)
		}
	}
}
