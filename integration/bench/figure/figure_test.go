package figure

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordAndRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "figures.jsonl")
	t.Setenv(File, name)
	want := []Figure{
		{Section: NewFlow, Name: "UDP", Subject: Ours, Listeners: 1, Endpoints: 1, Unit: "ns", Values: []float64{3, 1, 2}, Aim: AtMost(600), Command: "make bench"},
		{Section: ControlPath, Name: "settled", Subject: Ours, Unit: "s", Values: []float64{1}, Note: "once", Command: "make bench"},
	}
	for _, f := range want {
		if err := f.Record(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if err := (Figure{Section: NewFlow, Name: "UDP", Subject: Ours, Command: "make bench"}).Record(); err == nil || !strings.Contains(err.Error(), "no values") {
		t.Errorf("a figure without values: %v", err)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{2}, 2}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 9, 2}, 3},
	} {
		if got := (Figure{Values: test.values}).Median(); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
	}
}

func TestAim(t *testing.T) {
	for _, test := range []struct {
		aim  *Aim
		x    float64
		want bool
	}{
		{nil, 5, true}, {AtMost(5), 5, true}, {AtMost(5), 5.1, false}, {AtLeast(5), 5, true}, {AtLeast(5), 4.9, false},
	} {
		if got := test.aim.Met(test.x); got != test.want {
			t.Errorf("%+v met by %v: %v, want %v", test.aim, test.x, got, test.want)
		}
	}
}
