package layer2

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
)

// passes runs a filter as the kernel would for a frame of a type.
func passes(t *testing.T, program []bpf.Instruction, packetType uint32, data []byte) bool {
	t.Helper()
	assemble(program)
	program = slices.Clone(program)
	for i, instruction := range program { // which the simulation does not know
		if instruction == (bpf.LoadExtension{Num: bpf.ExtType}) {
			program[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: packetType}
		}
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

func TestFilters(t *testing.T) {
	arps := arpFilter([]netip.Addr{addr4, netip.MustParseAddr("10.1.2.3")})
	ndps := ndpFilter([]netip.Addr{addr6, netip.MustParseAddr("2001:db8:1::5")})
	other4, other6 := netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("2001:db8::1:2:4")
	for _, tt := range []struct {
		name    string
		program []bpf.Instruction
		kind    uint32
		data    []byte
		want    bool
	}{
		{"who has ours", arps, 1, probeFrame(mac1, addr4).data, true},
		{"who has our other", arps, 1, probeFrame(mac1, netip.MustParseAddr("10.1.2.3")).data, true},
		{"who has another", arps, 1, probeFrame(mac1, other4).data, false},
		{"ours is at", arps, 0, answerFrame(mac1, local, message{asks: addr4, sender: mac2, from: other4}).data, true},
		{"another is at", arps, 0, answerFrame(mac1, local, message{asks: other4, sender: mac2, from: netip.MustParseAddr("10.1.2.2")}).data, false},
		{"to another host", arps, 3, probeFrame(mac1, addr4).data, false},
		{"from us", arps, 4, probeFrame(mac1, addr4).data, false},
		{"of token ring", arps, 1, changed(probeFrame(mac1, addr4), 15, 6), false},
		{"of other sizes", arps, 1, changed(probeFrame(mac1, addr4), 19, 16), false},
		{"solicits ours", ndps, 2, probeFrame(mac1, addr6).data, true},
		{"solicits our other", ndps, 2, probeFrame(mac1, netip.MustParseAddr("2001:db8:1::5")).data, true},
		{"solicits another", ndps, 2, probeFrame(mac1, other6).data, false},
		{"solicits another network", ndps, 2, probeFrame(mac1, netip.MustParseAddr("2001:db8:2::5")).data, false},
		{"advertises ours", ndps, 2, announcementFrame(mac1, local, addr6, false).data, true},
		{"advertises to another host", ndps, 3, announcementFrame(mac1, local, addr6, false).data, false},
		{"through a router", ndps, 2, changed(probeFrame(mac1, addr6), 21, 64), false},
		{"of TCP", ndps, 2, changed(probeFrame(mac1, addr6), 20, 6), false},
		{"a redirect", ndps, 2, changed(probeFrame(mac1, addr6), 54, 137), false},
		{"nothing to hear", arpFilter(nil), 1, probeFrame(mac1, addr4).data, false},
	} {
		if got := passes(t, tt.program, tt.kind, tt.data); got != tt.want {
			t.Errorf("%s: passes %v", tt.name, got)
		}
	}
}

// TestFilterOfMany passes all of many addresses, and few others.
func TestFilterOfMany(t *testing.T) {
	var list4, list6 []netip.Addr
	for i := range uint32(5000) {
		a := binary.BigEndian.AppendUint32(nil, 0x0a000000+3*i)
		list4 = append(list4, netip.AddrFrom4([4]byte(a)))
		b := addr6.As16()
		binary.BigEndian.PutUint16(b[6:], uint16(i%20)) // 20 networks
		binary.BigEndian.PutUint32(b[12:], i)
		list6 = append(list6, netip.AddrFrom16(b))
	}
	programs := map[bool][]bpf.Instruction{true: arpFilter(list4), false: ndpFilter(list6)}
	for _, a := range slices.Concat(list4, list6) {
		if !passes(t, programs[a.Is4()], 1, probeFrame(mac1, a).data) {
			t.Fatalf("%s does not pass", a)
		}
	}
	for _, a := range []string{"9.255.255.255", "10.0.58.150", "192.0.2.1", "2001:db8:0:14:0:1:0:5", "2001:db8:0:0:0:2:0:5", "2001:db8::1:0:1389"} {
		a := netip.MustParseAddr(a)
		if passes(t, programs[a.Is4()], 1, probeFrame(mac1, a).data) {
			t.Errorf("%s passes", a)
		}
	}
}

func TestBlocks(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		in := map[netip.Addr]bool{}
		for range 1 + random.IntN(60) {
			in[netip.AddrFrom4([4]byte{192, 0, byte(random.IntN(2)), byte(random.Uint32())})] = true
		}
		var list []netip.Addr
		for a := range in {
			list = append(list, a)
		}
		limit := 1 + random.IntN(10)
		got, ok := blocks(list, limit)
		if !ok || len(got) > limit {
			t.Fatalf("%d blocks, limit %d, ok %v", len(got), limit, ok)
		}
		for a := range in {
			b := a.As4()
			v := binary.BigEndian.Uint32(b[:])
			if !slices.ContainsFunc(got, func(b block) bool { return b.first <= v && v <= b.end }) {
				t.Fatalf("%s is in none of %v", a, got)
			}
		}
		if all, _ := blocks(list, len(list)); !covers(all, in) {
			t.Fatalf("%v cover more than %v", all, in)
		}
	}
	far := []netip.Addr{addr6, netip.MustParseAddr("2001:db8:1::"), netip.MustParseAddr("2001:db8:2::")}
	if got, ok := blocks(far, 2); ok {
		t.Errorf("three networks in two blocks: %v", got)
	}
	if !passes(t, end(nil, false), 0, []byte{0}) {
		t.Error("a filter of too many networks must pass everything")
	}
}

// covers reports whether the blocks have as many addresses as there are.
func covers(list []block, in map[netip.Addr]bool) bool {
	n := 0
	for _, b := range list {
		n += int(b.end-b.first) + 1
	}
	return n == len(in)
}
