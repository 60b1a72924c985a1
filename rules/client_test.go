package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// randomBackends have endpoints at random addresses: the bounds hold whatever they are.
func randomBackends(r *rand.Rand, pairs ...[2]int) []Backend {
	bs := backends(pairs...)
	for i := range bs {
		for j := range bs[i].Endpoints {
			addr := netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
			bs[i].Endpoints[j].Addr = netip.AddrPortFrom(addr, 80)
		}
	}
	return bs
}

func clientTable(bs []Backend) []Slot {
	return NewLayout(&Frontend{Select: ClientHash, Backends: bs}, nil).Slots
}

// without is the backends less one endpoint.
func without(bs []Backend, b, e int) []Backend {
	bs = slices.Clone(bs)
	bs[b].Endpoints = slices.Delete(slices.Clone(bs[b].Endpoints), e, e+1)
	return bs
}

// movedSlots counts the clients, in slots, with another endpoint.
func movedSlots(a, b []Slot) (n int) {
	for i := range a {
		if a[i].holder() != b[i].holder() {
			n++
		}
	}
	return n
}

// To remove an endpoint, and to add it, which is the same change the other way round,
// moves its own clients and few more.
func TestClientsStayWhenAnEndpointComesOrGoes(t *testing.T) {
	const bound = 0.02
	r := rand.New(rand.NewPCG(11, 12))
	worst := 0.0
	check := func(bs []Backend, b, e int, share float64) {
		t.Helper()
		moved := float64(movedSlots(clientTable(bs), clientTable(without(bs, b, e))))/ClientSlots - share
		if worst = max(worst, moved); moved > bound {
			t.Errorf("%d backends, endpoint %d of %d: moved %.2f %% more than its share",
				len(bs), e, len(bs[b].Endpoints), 100*moved)
		}
	}
	for n := 2; n <= 200; n++ {
		for range 1 + 30/n {
			bs := randomBackends(r, [2]int{1, n})
			check(bs, 0, r.IntN(n), 1/float64(n))
		}
	}
	for range 100 { // weights, down to the last endpoint of a backend
		var pairs [][2]int
		total := 0
		for range 2 + r.IntN(4) {
			pair := [2]int{1 + r.IntN(10), 1 + r.IntN(12)}
			total += pair[0]
			pairs = append(pairs, pair)
		}
		bs := randomBackends(r, pairs...)
		b := r.IntN(len(bs))
		check(bs, b, r.IntN(pairs[b][1]), float64(pairs[b][0])/float64(total*pairs[b][1]))
	}
	t.Logf("worst: share + %.2f %%", 100*worst)
}

func TestClientTable(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	extremes := [][][2]int{
		{{1, 1}},
		{{7, 0}, {1, 3}},
		{{MaxWeight, 1}, {1, 1}},
		{{1, 1000}, {MaxWeight, 1}},
		{{1, 5000}},
		append([][2]int{{MaxWeight, 1}}, slices.Repeat([][2]int{{1, 1}}, 15)...),
	}
	for round := range 100 {
		f := randomFrontend(r)
		if round < len(extremes) {
			f.Backends = backends(extremes[round]...)
		}
		f.Select = ClientHash
		l := NewLayout(f, nil)
		total, live, refused := 0.0, 0.0, 0.0
		for _, b := range f.Backends {
			total += float64(b.Weight)
			if len(b.Endpoints) > 0 {
				live += float64(b.Weight)
			}
		}
		if live == 0 {
			if len(l.Slots) > 0 {
				t.Fatalf("round %d: %d slots where all is refused", round, len(l.Slots))
			}
			continue
		}
		counts := count(l.Slots)
		refused = 1 - live/total
		if got := float64(l.RefusedDraws) / DrawRange; len(l.Slots) != ClientSlots || counts[holder{}] > 0 || math.Abs(got-refused) > 1e-7 {
			t.Fatalf("round %d: %d slots, %d empty, %.6f refused by draw, want %.6f", round, len(l.Slots), counts[holder{}], got, refused)
		}
		for _, b := range f.Backends {
			sum, most := 0, 0
			for _, e := range b.Endpoints {
				sum += counts[holder{b.Ref, e.Addr}]
				most = max(most, counts[holder{b.Ref, e.Addr}])
			}
			exact := ClientSlots * float64(b.Weight) / live
			if len(b.Endpoints) > 0 && (math.Abs(float64(sum)-exact) > MaxBackends || (b.Weight > 0) != (sum > 0)) {
				t.Errorf("round %d: %s has %d slots, want %.1f", round, b.Ref, sum, exact)
			}
			if equal := float64(sum) / float64(len(b.Endpoints)); sum > 0 && float64(most) > equal*9/8+1 {
				t.Errorf("round %d: %s has an endpoint with %d slots of %.1f", round, b.Ref, most, equal)
			}
		}
		shuffled := &Frontend{Select: ClientHash, Backends: slices.Clone(f.Backends)}
		for i := range shuffled.Backends {
			es := slices.Clone(shuffled.Backends[i].Endpoints)
			r.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
			shuffled.Backends[i].Endpoints = es
		}
		if n := movedSlots(l.Slots, NewLayout(shuffled, l.Slots[100:]).Slots); n != 0 {
			t.Errorf("round %d: another order and history moved %d slots", round, n)
		}
	}
}

// A Service named twice, and an endpoint listed twice.
func TestClientTableTakesTwins(t *testing.T) {
	bs := backends([2]int{1, 3}, [2]int{2, 3})
	bs[1].Ref = bs[0].Ref
	bs[1].Endpoints[1] = bs[1].Endpoints[0]
	for _, slot := range clientTable(bs) {
		if slot.Refused() {
			t.Fatal("an empty slot")
		}
	}
}

// The table decides which client gets which endpoint, on nodes of every version.
func TestClientTableNeverChanges(t *testing.T) {
	counts, sum := map[string]int{}, 0
	for i, slot := range clientTable(backends([2]int{3, 4}, [2]int{1, 2})) {
		counts[slot.Endpoint.Name]++
		sum += i * int(slot.Endpoint.Addr.Addr().As4()[3])
	}
	if got := fmt.Sprint(counts, sum); got != "map[pod-0-0:788 pod-0-1:781 pod-0-2:787 pod-0-3:716 pod-1-0:503 pod-1-1:521] 10262666" {
		t.Errorf("the table is another: %s", got)
	}
}

// Time per table, and for docs/design/0002: the share of an endpoint in parts of the
// equal one (standard deviation, least, most) and, in percentage points, what moves
// beyond the share of an endpoint that goes.
func BenchmarkClientTable(b *testing.B) {
	for _, n := range []int{2, 3, 5, 10, 20, 50, 100, 200, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := rand.New(rand.NewPCG(15, uint64(n)))
			bs := randomBackends(r, [2]int{1, n})
			b.ReportAllocs()
			for b.Loop() {
				clientTable(bs)
			}
			const rounds = 50
			least, most, squares, moved, worst := math.Inf(1), 0.0, 0.0, 0.0, 0.0
			for range rounds {
				bs := randomBackends(r, [2]int{1, n})
				table := clientTable(bs)
				counts := count(table)
				for _, e := range bs[0].Endpoints {
					share := float64(counts[holder{bs[0].Ref, e.Addr}]*n) / ClientSlots
					least, most = min(least, share), max(most, share)
					squares += (share - 1) * (share - 1)
				}
				extra := float64(movedSlots(table, clientTable(without(bs, 0, r.IntN(n)))))/ClientSlots - 1/float64(n)
				moved, worst = moved+extra, max(worst, extra)
			}
			b.ReportMetric(math.Sqrt(squares/float64(rounds*n)), "sd")
			b.ReportMetric(least, "least")
			b.ReportMetric(most, "most")
			b.ReportMetric(100*moved/rounds, "moved-pp")
			b.ReportMetric(100*worst, "worst-pp")
		})
	}
}
