package rules

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func key(port uint16) FrontendKey {
	return FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: TCP, Port: port}
}

func manyFrontends(n int) map[FrontendKey]*Frontend {
	frontends := map[FrontendKey]*Frontend{}
	for port := range n {
		frontends[key(uint16(port+1))] = &Frontend{}
	}
	return frontends
}

func TestStateApplySharesUntouchedShards(t *testing.T) {
	old := NewState(manyFrontends(5000), nil)
	changed := &Frontend{Owner: Owner{Listener: "changed"}}
	now := old.Apply(map[FrontendKey]*Frontend{key(7): changed}, nil)

	shared := 0
	for i := range old.shards {
		if SameMap(old.shards[i], now.shards[i]) {
			shared++
		}
	}
	if shared != shardCount-1 {
		t.Errorf("%d of %d shards shared, want all but one", shared, shardCount)
	}
	if old.Frontend(key(7)) == changed || now.Frontend(key(7)) != changed {
		t.Error("Apply must change the new State and leave the old one alone")
	}
}

func TestStateCountsFrontends(t *testing.T) {
	state := NewState(manyFrontends(100), nil)
	state = state.Apply(map[FrontendKey]*Frontend{key(1): nil, key(2): {}, key(200): {}, key(999): nil}, nil)
	if state.Len() != 100 || len(state.Keys()) != 100 {
		t.Errorf("Len %d, %d keys, want 100", state.Len(), len(state.Keys()))
	}
}

func TestStateKeepsDigestsUnlessGiven(t *testing.T) {
	state := NewState(nil, map[string]string{"a/b": "1:x"})
	if got := state.Apply(nil, nil).Digest("a/b"); got != "1:x" {
		t.Errorf("digest %q after Apply without digests", got)
	}
	if got := state.Apply(nil, map[string]string{}).Digest("a/b"); got != "" {
		t.Errorf("digest %q after Apply with none", got)
	}
	if !SameDigests(state, state.Apply(manyFrontends(1), nil)) {
		t.Error("Apply without digests must keep the map itself")
	}
	if SameDigests(state, state.Apply(nil, map[string]string{"a/b": "1:y"})) || SameDigests(nil, state) {
		t.Error("other digests are not the same")
	}
}

func TestStateIsPartialUntilTheNextIsComplete(t *testing.T) {
	state := NewState(manyFrontends(3), map[string]string{"a/b": "1:x"})
	partial := state.AsPartial()
	if state.Partial() || !partial.Partial() || partial.Apply(nil, nil).Partial() {
		t.Error("want only the marked State to be partial")
	}
	if got := Changes(state, partial); len(got) != 0 || partial.Digest("a/b") != "1:x" {
		t.Errorf("the mark changed the content: %v", got)
	}
}

func TestChangesVisitsOnlyDifferences(t *testing.T) {
	old := NewState(manyFrontends(1000), nil)
	a, b := &Frontend{}, &Frontend{}
	now := old.Apply(map[FrontendKey]*Frontend{key(3): a, key(4): nil, key(2000): b}, nil)
	want := []Change{
		{Key: key(3), Old: old.Frontend(key(3)), New: a},
		{Key: key(4), Old: old.Frontend(key(4))},
		{Key: key(2000), New: b},
	}
	byPointer := cmp.Comparer(func(x, y *Frontend) bool { return x == y })
	comparable := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, Changes(old, now), byPointer, comparable); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if got := Changes(now, now); len(got) != 0 {
		t.Errorf("a State differs from itself: %v", got)
	}
	if got := Changes(nil, now); len(got) != now.Len() {
		t.Errorf("%d changes from nothing, want %d", len(got), now.Len())
	}
	if got := Changes(now, nil); len(got) != now.Len() {
		t.Errorf("%d changes to nothing, want %d", len(got), now.Len())
	}
}

func TestValidateNamesTheFrontend(t *testing.T) {
	good := Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:80")}
	tests := []struct {
		name string
		key  FrontendKey
		f    Frontend
		want string
	}{
		{"good", key(80), Frontend{Backends: []Backend{{Endpoints: []Endpoint{good}}}}, ""},
		{"mapped address", FrontendKey{netip.MustParseAddr("::ffff:192.0.2.1"), TCP, 80}, Frontend{}, "plain IPv4 or IPv6"},
		{"no protocol", FrontendKey{netip.MustParseAddr("192.0.2.1"), 0, 80}, Frontend{}, "tcp or udp"},
		{"no port", key(0), Frontend{}, "port must be"},
		{"selection", key(80), Frontend{Select: 9}, "unknown selection 9"},
		{"backends", key(80), Frontend{Backends: make([]Backend, 17)}, "17 backends, at most 16"},
		{"weight", key(80), Frontend{Backends: []Backend{{Ref: "a/b", Weight: MaxWeight + 1}}}, "backend a/b: weight 1000001"},
		{"family", key(80), Frontend{Backends: []Backend{{Endpoints: []Endpoint{{Addr: netip.MustParseAddrPort("[fd00::1]:80")}}}}}, "other address family"},
		{"endpoint port", key(80), Frontend{Backends: []Backend{{Endpoints: []Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:0")}}}}}, "has no port"},
		{"affinity", key(80), Frontend{Select: ClientHash}, ""},
		{"draining family", key(80), Frontend{Backends: []Backend{{Draining: []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:80")}}}}, "other address family"},
		{"draining", key(80), Frontend{Backends: []Backend{{Draining: make([]netip.AddrPort, 1)}}}, "not one plain address"},
		{"lingering", key(80), Frontend{Backends: []Backend{{Lingering: make([]netip.AddrPort, 1)}}}, "not one plain address"},
		{"endpoint", key(80), Frontend{Backends: []Backend{{Endpoints: []Endpoint{{}}}}}, "not one plain address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.f.Owner.Gateway = "ns/gw"
			err := NewState(map[FrontendKey]*Frontend{tt.key: &tt.f}, nil).Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("unexpected %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "ns/gw")):
				t.Errorf("error %v, want one with %q that names ns/gw", err, tt.want)
			}
		})
	}
}

func BenchmarkApplyAndChanges(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			state := NewState(manyFrontends(n), nil)
			for b.Loop() {
				next := state.Apply(map[FrontendKey]*Frontend{key(5): {}}, nil)
				if len(Changes(state, next)) != 1 {
					b.Fatal("want one change")
				}
				state = next
			}
		})
	}
}
