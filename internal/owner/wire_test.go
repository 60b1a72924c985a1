package owner

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sameRecord compares records by what they say.
var sameRecord = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.AllowUnexported(Set{}, span{}),
}

func TestRecordRoundTrip(t *testing.T) {
	mac := [macSize]byte{2, 0, 0, 0, 0, 1}
	for name, want := range map[string]*Record{
		"empty": {Node: "a"},
		"flags": {Node: "a", Start: 1 << 41, Version: 7, Settled: true, Prepared: true, Draining: true, Leaving: true, MACs: [][macSize]byte{mac, {}}},
		"addresses": {
			Node: "a", Prepared: true,
			Ready: NewSet(append(addresses("192.0.2.0", 300), netip.MustParseAddr("0.0.0.0"),
				netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"),
				netip.MustParseAddr("::"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))),
			Claims: []Claim{
				{netip.MustParseAddr("192.0.2.7"), 1 << 41, Answering},
				{netip.MustParseAddr("192.0.2.9"), 1<<41 - 1000, Conflict},
				{netip.MustParseAddr("2001:db8::1"), 1<<41 + 5, Pending},
				{netip.MustParseAddr("2001:db8:1:2:3:4:5:6"), 0, Answering},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, rest, err := Decode(append(want.Append(nil), "rest"...))
			if err != nil || string(rest) != "rest" {
				t.Fatalf("rest %q, error %v", rest, err)
			}
			if diff := cmp.Diff(want, got, sameRecord...); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := largeRecord(100, 5).Append(nil)
	for n := range whole {
		if _, _, err := Decode(whole[:n]); err == nil {
			t.Fatalf("%d of %d bytes were taken for a record", n, len(whole))
		}
	}
	whole[0]++
	if _, _, err := Decode(whole); !errors.Is(err, ErrVersion) {
		t.Errorf("record of another version: %v", err)
	}
	if _, _, err := Decode((&Record{}).Append(nil)); err == nil {
		t.Error("a record without node was accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add((&Record{Node: "a", MACs: [][macSize]byte{{1}}}).Append(nil))
	f.Add(largeRecord(100, 5).Append(nil))
	v6 := &Record{Node: "b", Ready: NewSet(addresses("2001:db8::", 5)), Claims: []Claim{{netip.MustParseAddr("2001:db8::1"), 1, Conflict}}}
	f.Add(v6.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := Decode(b)
		if err != nil {
			return
		}
		if len(rest) > len(b) || r.Node == "" {
			t.Fatalf("%d bytes left of %d, node %q", len(rest), len(b), r.Node)
		}
		r.Ready.Contains(netip.MustParseAddr("192.0.2.1"))
	})
}

func TestSet(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 100 {
		in := map[netip.Addr]bool{}
		var list []netip.Addr
		for _, a := range slices.Concat(addresses("192.0.2.0", 60), addresses("2001:db8::", 60), addresses("255.255.255.250", 6)) {
			if random.IntN(2) == 0 {
				in[a] = true
				list = append(list, a, a)
			}
		}
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		s := NewSet(list)
		for _, a := range slices.Concat(addresses("192.0.1.250", 80), addresses("2001:db8::", 70), addresses("255.255.255.245", 11), addresses("::", 2)) {
			if s.Contains(a) != in[a] {
				t.Fatalf("Contains(%s) = %v of %v", a, !in[a], list)
			}
		}
	}
}

// largeRecord is ready for every address from 10.0.0.0 on and claims one in every few.
func largeRecord(ready, step int) *Record {
	list := addresses("10.0.0.0", ready)
	r := &Record{Node: "node-1.example.com", Start: 1 << 41, Version: 1000, MACs: [][macSize]byte{{1}}, Ready: NewSet(list)}
	for i := 0; i < len(list); i += step {
		r.Claims = append(r.Claims, Claim{list[i], 1<<41 + uint64(i%7), Answering})
	}
	return r
}

func BenchmarkRecord(b *testing.B) {
	for _, step := range []int{100, 3} {
		r := largeRecord(5000, step)
		coded := r.Append(nil)
		b.Run(fmt.Sprintf("%d-claims/append", len(r.Claims)), func(b *testing.B) {
			for b.Loop() {
				r.Append(nil)
			}
			b.ReportMetric(float64(len(coded)), "bytes")
		})
		b.Run(fmt.Sprintf("%d-claims/decode", len(r.Claims)), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := Decode(coded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
