package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestStateKeepsExclusive(t *testing.T) {
	given := addrs("2001:db8::9", "192.0.2.9", "192.0.2.2", "192.0.2.9")
	none := NewState(manyFrontends(3), nil)
	state := none.WithExclusive(given)
	given[0] = netip.Addr{}
	want := addrs("192.0.2.2", "192.0.2.9", "2001:db8::9")
	if diff := cmp.Diff(want, state.Exclusive(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("exclusive (-want +got):\n%s", diff)
	}
	if len(none.Exclusive()) != 0 || none.IsExclusive(want[0]) {
		t.Error("the State it was made from has none")
	}
	for _, same := range []*State{state.Apply(manyFrontends(9), map[string]string{"a/b": "1:x"}), state.AsPartial(), state.WithExclusive(want)} {
		if !sameSlice(state.exclusive, same.exclusive) {
			t.Errorf("%v: not one object with %v", same.Exclusive(), want)
		}
	}
	if state.WithExclusive(want) != state || none.WithExclusive(nil) != none {
		t.Error("equal addresses make no new State")
	}
	if fewer := state.AsPartial().WithExclusive(want[:2]); fewer.IsExclusive(want[2]) || !fewer.Partial() || fewer.Len() != 3 {
		t.Errorf("only %v changes: %v", want[2], fewer.Exclusive())
	}
	if len(Changes(none, state)) > 0 {
		t.Error("no Frontend has changed")
	}
}

func TestExclusiveChanges(t *testing.T) {
	a, b, c, d := "192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"
	of := func(texts ...string) *State { return NewState(nil, nil).WithExclusive(addrs(texts...)) }
	for _, tt := range []struct {
		from, to   *State
		gone, come []netip.Addr
	}{
		{nil, nil, nil, nil},
		{nil, of(b, a), nil, addrs(a, b)},
		{of(b, a), nil, addrs(a, b), nil},
		{of(a, b), of(a, b), nil, nil},
		{of(a, b, d), of(b, c, d), addrs(a), addrs(c)},
		{of(a, d), of(b, c), addrs(a, d), addrs(b, c)},
		{of(c), of(a, b, d), addrs(c), addrs(a, b, d)},
	} {
		gone, come := ExclusiveChanges(tt.from, tt.to)
		if !slices.Equal(gone, tt.gone) || !slices.Equal(come, tt.come) {
			t.Errorf("gone %v, want %v; come %v, want %v", gone, tt.gone, come, tt.come)
		}
	}
}

func TestMatchOfExclusive(t *testing.T) {
	state := NewState(map[FrontendKey]*Frontend{key(80): {}}, nil).WithExclusive(addrs("192.0.2.1", "192.0.2.5", "2001:db8::5"))
	for _, tt := range []struct {
		protocol Protocol
		to       string
		served   bool
		unowned  bool
	}{
		{TCP, "192.0.2.1:80", true, false},
		{UDP, "192.0.2.1:80", false, true},
		{TCP, "192.0.2.1:81", false, true},
		{TCP, "192.0.2.5:80", false, true},
		{TCP, "[::ffff:192.0.2.5]:80", false, true},
		{UDP, "[2001:db8::5]:80", false, true},
		{TCP, "192.0.2.2:80", false, false},
		{UDP, "[2001:db8::1]:80", false, false},
	} {
		d := state.Match(Packet{Protocol: tt.protocol, Dst: netip.MustParseAddrPort(tt.to)})
		refused := len(d.Outcomes) == 1 && d.Outcomes[0].Refused() && d.Outcomes[0].Share.IsInt() && d.Outcomes[0].Share.Sign() == 1
		if (d.Frontend != nil) != tt.served || d.Unowned != tt.unowned || refused != (tt.served || tt.unowned) {
			t.Errorf("%s %s: %+v, want served %t, unowned %t", tt.protocol, tt.to, d, tt.served, tt.unowned)
		}
	}
}

func TestValidateNamesTheExclusiveAddress(t *testing.T) {
	bad := []string{"::ffff:192.0.2.1", "fe80::1%eth0", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1"}
	for _, text := range bad {
		err := NewState(nil, nil).WithExclusive(addrs("192.0.2.1", "2001:db8::1", text)).Validate()
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "2001:db8::1:") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := NewState(nil, nil).WithExclusive([]netip.Addr{{}}).Validate(); err == nil {
		t.Error("no address: no error")
	}
	if err := NewState(nil, nil).WithExclusive(addrs("192.0.2.1", "2001:db8::1")).Validate(); err != nil {
		t.Error(err)
	}
}

func BenchmarkWithExclusive(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := make([]netip.Addr, 0, n)
			for addr := netip.MustParseAddr("10.0.0.1"); len(all) < n; addr = addr.Next() {
				all = append(all, addr)
			}
			state := NewState(nil, nil).WithExclusive(all)
			fewer := slices.Delete(slices.Clone(all), n/2, n/2+1)
			for b.Loop() {
				next := state.WithExclusive(fewer)
				if gone, come := ExclusiveChanges(state, next); len(gone) != 1 || len(come) > 0 {
					b.Fatal(gone, come)
				}
			}
		})
	}
}
