package owner

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// all makes every node eligible.
func all(netip.Addr, string) bool { return true }

func addresses(first string, n int) []netip.Addr {
	out := make([]netip.Addr, 0, n)
	for a := netip.MustParseAddr(first); len(out) < n; a = a.Next() {
		out = append(out, a)
	}
	return out
}

func nodeNames(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("node-%d", i+1))
	}
	return out
}

func TestAssign(t *testing.T) {
	x := netip.MustParseAddr("192.0.2.1")
	// Of a and b, b has the higher weight for this address.
	if h := hashAddr(x); weight(hashName("a"), h) >= weight(hashName("b"), h) {
		t.Fatal("choose another address")
	}
	for _, tt := range []struct {
		name     string
		nodes    string
		eligible string
		bids     []Bid
		want     Assignment
	}{
		{name: "elected", nodes: "ab", eligible: "ab", want: Assignment{Owner: "b", Elected: true}},
		{name: "elected among who is eligible", nodes: "ab", eligible: "a", want: Assignment{Owner: "a", Elected: true}},
		{name: "elected among members", nodes: "a", eligible: "ab", want: Assignment{Owner: "a", Elected: true}},
		{name: "nobody eligible", nodes: "ab"},
		{name: "nobody there", eligible: "ab"},
		{name: "an owner keeps it", nodes: "ab", eligible: "ab", bids: []Bid{{"a", 5}}, want: Assignment{Owner: "a"}},
		{
			name: "an owner that may not keep it", nodes: "ab", eligible: "b", bids: []Bid{{"a", 5}},
			want: Assignment{Owner: "b", Elected: true},
		},
		{name: "its last owner, and nobody else", nodes: "ab", bids: []Bid{{"a", 5}}},
		{
			name: "the older claim wins", nodes: "ab", eligible: "ab", bids: []Bid{{"b", 6}, {"a", 5}},
			want: Assignment{Owner: "a", Rivals: []string{"b"}},
		},
		{
			name: "as old, the weight decides", nodes: "ab", eligible: "ab", bids: []Bid{{"a", 5}, {"b", 5}},
			want: Assignment{Owner: "b", Rivals: []string{"a"}},
		},
		{
			name: "a claim of who is not eligible is no rival", nodes: "ab", eligible: "b", bids: []Bid{{"a", 5}, {"b", 6}},
			want: Assignment{Owner: "b"},
		},
		{
			name: "all rivals yield", nodes: "abc", eligible: "abc", bids: []Bid{{"c", 9}, {"b", 7}, {"a", 8}},
			want: Assignment{Owner: "b", Rivals: []string{"a", "c"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{
				Addresses: []netip.Addr{x},
				Eligible: func(_ netip.Addr, node string) bool {
					return slices.Contains([]byte(tt.eligible), node[0])
				},
				Bids: map[netip.Addr][]Bid{x: tt.bids},
			}
			for _, n := range tt.nodes {
				in.Nodes = append(in.Nodes, string(n))
			}
			if diff := cmp.Diff(map[netip.Addr]Assignment{x: tt.want}, Assign(in)); diff != "" {
				t.Errorf("assignment (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAssignIsDeterministic(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		in := randomInput(random)
		want := Assign(in)
		random.Shuffle(len(in.Addresses), func(i, j int) {
			in.Addresses[i], in.Addresses[j] = in.Addresses[j], in.Addresses[i]
		})
		random.Shuffle(len(in.Nodes), func(i, j int) { in.Nodes[i], in.Nodes[j] = in.Nodes[j], in.Nodes[i] })
		for _, bids := range in.Bids {
			slices.Reverse(bids)
		}
		if diff := cmp.Diff(want, Assign(in)); diff != "" {
			t.Fatalf("the same in another order (-first +second):\n%s", diff)
		}
	}
}

// randomInput has nodes that are eligible for different shares of the addresses, and
// claims of some of them.
func randomInput(random *rand.Rand) Input {
	in := Input{
		Addresses: addresses("192.0.2.0", random.IntN(300)),
		Nodes:     nodeNames(1 + random.IntN(12)),
		Bids:      map[netip.Addr][]Bid{},
	}
	eligible := map[netip.Addr]map[string]bool{}
	for _, a := range in.Addresses {
		eligible[a] = map[string]bool{}
		few := random.IntN(3) == 0
		for i, node := range in.Nodes {
			eligible[a][node] = !few || (i+int(a.As4()[3]))%4 == 0
			if random.IntN(10) == 0 {
				in.Bids[a] = append(in.Bids[a], Bid{node, random.Uint64N(4)})
			}
		}
	}
	in.Eligible = func(a netip.Addr, node string) bool { return eligible[a][node] }
	return in
}

func loads(owners map[netip.Addr]Assignment) map[string]int {
	out := map[string]int{}
	for _, a := range owners {
		if a.Owner != "" {
			out[a.Owner]++
		}
	}
	return out
}

func TestAssignBoundsLoad(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	t.Run("all eligible", func(t *testing.T) {
		for range 300 {
			n, nodes := random.IntN(1000), 1+random.IntN(100)
			first := netip.AddrFrom4([4]byte{10, byte(random.Uint32()), byte(random.Uint32()), 0})
			in := Input{Addresses: addresses(first.String(), n), Nodes: nodeNames(nodes), Eligible: all}
			got := loads(Assign(in))
			sum := 0
			for node, load := range got {
				sum += load
				if float64(load) > 1.25*float64(n)/float64(nodes)+1 {
					t.Fatalf("%d addresses, %d nodes: %s owns %d, more than 1.25 × mean + 1", n, nodes, node, load)
				}
			}
			if sum != n {
				t.Fatalf("%d of %d addresses have an owner", sum, n)
			}
		}
	})
	t.Run("some eligible", func(t *testing.T) {
		for range 300 {
			in := randomInput(random)
			in.Bids = nil
			owners := Assign(in)
			got := loads(owners)
			open, taking := 0, map[string]bool{}
			for _, a := range in.Addresses {
				before := open
				for _, node := range in.Nodes {
					if in.Eligible(a, node) {
						taking[node], open = true, before+1
					}
				}
				if (owners[a].Owner != "") != (open > before) {
					t.Fatalf("%s: owner %q, eligible: %v", a, owners[a].Owner, open > before)
				}
			}
			bound := Bound(open, len(taking))
			for _, a := range in.Addresses {
				full := owners[a].Owner
				if full == "" || got[full] <= bound {
					continue
				}
				for _, node := range in.Nodes {
					if in.Eligible(a, node) && got[node] < bound {
						t.Fatalf("%s owns %d, more than %d, and %s, which may have %s, owns %d", full, got[full], bound, node, a, got[node])
					}
				}
			}
		}
	})
}

// TestAssignMovesNothing lets nodes go and come: only what was owned by who went gets a
// new owner.
func TestAssignMovesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 30 {
		in := Input{Addresses: addresses("192.0.2.0", 200), Nodes: nodeNames(2 + random.IntN(8)), Eligible: all}
		gone := random.IntN(len(in.Nodes))
		before := Assign(in)
		name := in.Nodes[gone]

		in.Bids = map[netip.Addr][]Bid{}
		for a, assigned := range before {
			if assigned.Owner != name {
				in.Bids[a] = []Bid{{assigned.Owner, 1}}
			}
		}
		in.Nodes = slices.Delete(slices.Clone(in.Nodes), gone, gone+1)
		after := Assign(in)
		for a, assigned := range after {
			was := before[a].Owner
			if was != name && assigned.Owner != was {
				t.Fatalf("%s went and %s moved from %s to %s", name, a, was, assigned.Owner)
			}
			in.Bids[a] = []Bid{{assigned.Owner, 2}}
		}
		in.Nodes = append(in.Nodes, name)
		for a, assigned := range Assign(in) {
			if assigned.Owner != after[a].Owner {
				t.Fatalf("%s came back and %s moved from %s to %s", name, a, after[a].Owner, assigned.Owner)
			}
		}
	}
}

func BenchmarkAssign(b *testing.B) {
	in := Input{Addresses: addresses("10.0.0.0", 5000), Nodes: nodeNames(100), Eligible: all, Bids: map[netip.Addr][]Bid{}}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			Assign(in)
		}
	})
	for a, assigned := range Assign(in) {
		in.Bids[a] = []Bid{{assigned.Owner, 1}}
	}
	b.Run("owned", func(b *testing.B) {
		for b.Loop() {
			Assign(in)
		}
	})
}
