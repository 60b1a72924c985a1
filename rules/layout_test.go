package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// backends makes Backends b0, b1, … from weight and endpoint count pairs.
func backends(pairs ...[2]int) []Backend {
	var bs []Backend
	for i, p := range pairs {
		b := Backend{Ref: fmt.Sprintf("ns/b%d", i), Weight: uint32(p[0])}
		for j := range p[1] {
			addr := netip.AddrFrom4([4]byte{10, byte(i), byte(j >> 8), byte(j)})
			b.Endpoints = append(b.Endpoints, Endpoint{Addr: netip.AddrPortFrom(addr, 80), Name: fmt.Sprintf("pod-%d-%d", i, j)})
		}
		bs = append(bs, b)
	}
	return bs
}

func count(slots []Slot) map[holder]int {
	counts := map[holder]int{}
	for _, s := range slots {
		counts[s.holder()]++
	}
	return counts
}

func TestLayoutIsExactWhereTheLadderHoldsTheDenominator(t *testing.T) {
	tests := []struct {
		name     string
		backends []Backend
		sel      Selection
		slots    int
		refused  int    // slots
		draws    uint32 // of DrawRange
	}{
		{"one endpoint", backends([2]int{1, 1}), Random, 1, 0, 0},
		{"17 endpoints", backends([2]int{1, 17}), Random, 17, 0, 0},
		{"1000 endpoints", backends([2]int{1, 1000}), Random, 1000, 0, 0},
		{"90/10", backends([2]int{90, 1}, [2]int{10, 1}), Random, 10, 0, 0},
		{"90/10 over 9 and 3", backends([2]int{90, 9}, [2]int{10, 3}), Random, 30, 0, 0},
		{"1:2:3", backends([2]int{1, 1}, [2]int{2, 1}, [2]int{3, 1}), Random, 6, 0, 0},
		{"80 % refused", backends([2]int{80, 0}, [2]int{20, 1}), Random, 5, 4, 0},
		{"two refused thirds", backends([2]int{1, 0}, [2]int{1, 0}, [2]int{1, 2}), Random, 6, 4, 0},
		{"UDP refuses by draw", backends([2]int{1, 0}, [2]int{2, 4}), FlowHash, 4, 0, DrawRange / 3},
		{"nothing", nil, Random, 0, 0, 0},
		{"all weights zero", backends([2]int{0, 3}), Random, 0, 0, 0},
		{"all refused", backends([2]int{5, 0}), FlowHash, 0, 0, 0},
		{"weight zero takes nothing", backends([2]int{0, 3}, [2]int{7, 2}), Random, 2, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLayout(&Frontend{Select: tt.sel, Backends: tt.backends}, nil)
			if got := count(l.Slots)[holder{}]; len(l.Slots) != tt.slots || got != tt.refused || l.RefusedDraws != tt.draws {
				t.Errorf("%d slots, %d refused, %d draws; want %d, %d, %d", len(l.Slots), got, l.RefusedDraws, tt.slots, tt.refused, tt.draws)
			}
			assertShares(t, &Frontend{Select: tt.sel, Backends: tt.backends}, l, 1e-12)
		})
	}
}

// assertShares checks every bound NewLayout promises against plain arithmetic.
func assertShares(t *testing.T, f *Frontend, l Layout, bound float64) {
	t.Helper()
	total, refused := 0.0, 0.0
	for _, b := range f.Backends {
		total += float64(b.Weight)
		if len(b.Endpoints) == 0 {
			refused += float64(b.Weight)
		}
	}
	if total == 0 || refused == total {
		if len(l.Slots) != 0 {
			t.Fatalf("%d slots where all is refused", len(l.Slots))
		}
		return
	}
	if _, ok := slices.BinarySearch(ladder, len(l.Slots)); !ok {
		t.Fatalf("%d slots are not on the ladder", len(l.Slots))
	}
	counts, n := count(l.Slots), float64(len(l.Slots))
	passed := 1 - float64(l.RefusedDraws)/DrawRange
	if got := 1 - passed + passed*float64(counts[holder{}])/n; math.Abs(got-refused/total) > bound || (refused > 0) != (got > 0) {
		t.Errorf("refused share %.6f, want %.6f ± %g", got, refused/total, bound)
	}
	for _, b := range f.Backends {
		sum, least, most := 0, math.MaxInt, 0
		for _, e := range b.Endpoints {
			c := counts[holder{b.Ref, e.Addr}]
			sum, least, most = sum+c, min(least, c), max(most, c)
		}
		if len(b.Endpoints) == 0 {
			continue
		}
		want := float64(b.Weight) / total
		if got := passed * float64(sum) / n; math.Abs(got-want) > bound {
			t.Errorf("%s: share %.6f, want %.6f ± %g", b.Ref, got, want, bound)
		}
		if (b.Weight > 0) != (sum > 0) {
			t.Errorf("%s: weight %d has %d slots", b.Ref, b.Weight, sum)
		}
		if most-least > 1 {
			t.Errorf("%s: endpoints have %d to %d slots", b.Ref, least, most)
		}
	}
}

func randomFrontend(r *rand.Rand) *Frontend {
	weight := func() int {
		switch r.IntN(5) {
		case 0:
			return r.IntN(3)
		case 1:
			return MaxWeight - r.IntN(3)
		case 2:
			return 1 + r.IntN(100)
		default:
			return r.IntN(MaxWeight + 1)
		}
	}
	endpoints := func() int {
		switch r.IntN(6) {
		case 0:
			return 0
		case 1:
			return 1 + r.IntN(1000)
		default:
			return 1 + r.IntN(20)
		}
	}
	var pairs [][2]int
	for range 1 + r.IntN(MaxBackends) {
		pairs = append(pairs, [2]int{weight(), endpoints()})
	}
	return &Frontend{Select: Selection(r.IntN(2)), Backends: backends(pairs...)}
}

func TestLayoutKeepsEveryShareWithinTheBound(t *testing.T) {
	extremes := [][][2]int{
		{{MaxWeight, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
		{{MaxWeight, 1000}, {1, 1000}, {1, 0}, {1, 1}},
		{{1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}, {1, 1000}},
		{{999_983, 997}, {999_979, 991}, {1, 0}},
		{{1, 0}, {MaxWeight, 1}},
		{{MaxWeight, 0}, {1, 1}},
	}
	for _, pairs := range extremes {
		for _, sel := range []Selection{Random, FlowHash} {
			f := &Frontend{Select: sel, Backends: backends(pairs...)}
			assertShares(t, f, NewLayout(f, nil), MaxShareError)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		f := randomFrontend(r)
		assertShares(t, f, NewLayout(f, nil), MaxShareError)
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
}

func TestLayoutGivesEveryEndpointASlotWhereThereIsRoom(t *testing.T) {
	for n := 1; n <= 1000; n++ {
		l := NewLayout(&Frontend{Backends: backends([2]int{1, n})}, nil)
		counts := count(l.Slots)
		if len(counts) != n {
			t.Fatalf("%d endpoints: %d have a slot", n, len(counts))
		}
		least, most := math.MaxInt, 0
		for _, c := range counts {
			least, most = min(least, c), max(most, c)
		}
		if most > least && least < min(evenEnough, evenLimit/n) {
			t.Errorf("%d endpoints on %d slots: %d to %d slots each", n, len(l.Slots), least, most)
		}
	}
}

func TestLayoutIsStable(t *testing.T) {
	moved := func(a, b []Slot) (n int) {
		for i := range min(len(a), len(b)) {
			if a[i].holder() != b[i].holder() {
				n++
			}
		}
		return n
	}
	f := &Frontend{Backends: backends([2]int{1, 10})}
	before := NewLayout(f, nil)

	replaced := &Frontend{Backends: backends([2]int{1, 10})}
	replaced.Backends[0].Endpoints[3].Addr = netip.MustParseAddrPort("10.9.9.9:80")
	slices.Reverse(replaced.Backends[0].Endpoints)
	if got := moved(before.Slots, NewLayout(replaced, before.Slots).Slots); got != 1 {
		t.Errorf("replacing 1 of 10 endpoints moved %d slots, want 1", got)
	}

	fewer := &Frontend{Backends: backends([2]int{1, 9})}
	after := NewLayout(fewer, before.Slots)
	if got := moved(before.Slots, after.Slots); len(after.Slots) != 9 || got != 0 {
		t.Errorf("removing the last of 10 endpoints left %d slots and moved %d, want 9 and 0", len(after.Slots), got)
	}

	r := rand.New(rand.NewPCG(3, 4))
	previous := []Slot(nil)
	for i := range 500 {
		f := randomFrontend(r)
		l := NewLayout(f, previous)
		assertShares(t, f, l, MaxShareError)
		if again := NewLayout(f, l.Slots); moved(l.Slots, again.Slots) != 0 || len(l.Slots) != len(again.Slots) {
			t.Fatalf("round %d: laying out the same Frontend again moved slots", i)
		}
		previous = l.Slots
	}
}

func TestLadder(t *testing.T) {
	l := Ladder()
	if !slices.IsSorted(l) || len(slices.Compact(slices.Clone(l))) != len(l) {
		t.Error("the ladder must ascend without repeats")
	}
	if l[0] != 1 || l[len(l)-1] != MaxSlots {
		t.Errorf("ladder from %d to %d", l[0], l[len(l)-1])
	}
}

func BenchmarkLayout(b *testing.B) {
	for name, f := range map[string]*Frontend{
		"10":            {Backends: backends([2]int{1, 10})},
		"90-10":         {Backends: backends([2]int{90, 7}, [2]int{10, 3})},
		"16x1000":       {Backends: backends(slices.Repeat([][2]int{{1, 1000}}, 16)...)},
		"prime-weights": {Backends: backends([2]int{999_983, 997}, [2]int{999_979, 991})},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				NewLayout(f, nil)
			}
		})
	}
}

// Whatever drains or lingers, a Backend without Endpoints refuses its share.
func TestLayoutIsOfEndpoints(t *testing.T) {
	left := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.9:80")}
	f := &Frontend{Backends: []Backend{{Ref: "ns/a", Weight: 1, Draining: left, Lingering: left}}}
	if got := NewLayout(f, nil); len(got.Slots) > 0 {
		t.Errorf("%+v, want that all is refused", got)
	}
	f.Backends = append(f.Backends, Backend{Ref: "ns/b", Weight: 1, Endpoints: []Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:80")}}, Lingering: left})
	for _, slot := range NewLayout(f, nil).Slots {
		if !slot.Refused() && slot.Endpoint.Addr == left[0] {
			t.Error("a slot leads to what lingers")
		}
	}
}
