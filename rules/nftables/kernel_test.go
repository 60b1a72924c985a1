package nftables

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portway-dev/portway/rules"
)

// readKernel reads the table back over a connection of its own.
func readKernel(tb testing.TB, c Config) *kernel {
	tb.Helper()
	q, err := openQuery(c)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	k := newKernel()
	if err := (&Programmer{config: c, layout: newLayout(c, everything), query: q}).readBack(k); err != nil {
		tb.Fatal(err)
	}
	return k
}

// checkKernel compares what the kernel holds with what the State wants, whatever
// was there before: slots may be placed in any order that keeps the shares.
func checkKernel(tb testing.TB, c Config, s *rules.State) {
	tb.Helper()
	k := readKernel(tb, c)
	var foreign []string
	for _, o := range k.foreign {
		foreign = append(foreign, o.String())
	}
	if len(foreign)+len(k.chains)+len(k.sets) > 0 {
		tb.Errorf("foreign elements %v, chains %v, sets %v", foreign, k.chains, k.sets)
	}
	held := slices.SortedFunc(maps.Keys(k.exclusive), netip.Addr.Compare)
	if diff := cmp.Diff(s.Exclusive(), held, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		tb.Errorf("exclusive addresses (-want +kernel):\n%s", diff)
	}
	wanted := make(map[member]bool)
	for key, f := range s.All() {
		was := k.programs[key]
		if was == nil {
			tb.Errorf("%s: nothing in the kernel", key)
			continue
		}
		delete(k.programs, key)
		want := compile(key, f, was.previous())
		for _, id := range want.members {
			wanted[id] = true
		}
		if diff := cmp.Diff(programText(want), programText(was)); diff != "" {
			tb.Errorf("%s (-want +kernel):\n%s", key, diff)
		}
	}
	for key, p := range k.programs {
		tb.Errorf("%s: not wanted: %s", key, programText(p))
	}
	for _, r := range k.members.refs {
		if r.held && !wanted[r.member] {
			tb.Errorf("%s: not wanted: %s", r.set, r.key())
		}
		delete(wanted, r.member)
	}
	for id := range wanted {
		tb.Errorf("%s: missing: %s", id.set, id.key())
	}
}

func programText(p *program) string {
	text := fmt.Sprintf("%s drawn %s refused %d %q\n", p.listener, p.drawn, p.refused, p.comment)
	for w, slots := range p.slots {
		for i, slot := range slots {
			if slot.Refused() {
				if !slices.ContainsFunc(slots[i:], func(s rules.Slot) bool { return !s.Refused() }) {
					break // the kernel does not know how many slots there are behind the last
				}
				text += "-\n"
				continue
			}
			text += fmt.Sprintf("%s %s %q\n", width(w).slots(), slot.Endpoint.Addr, slotComment(slot))
		}
	}
	return text
}

// count returns how many elements the kernel lists in a set.
func count(tb testing.TB, c Config, id setID) int {
	tb.Helper()
	q, err := openQuery(c)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = q.Close() }()
	n := 0
	for _, err := range q.elements(id.String()) {
		if err != nil {
			tb.Fatal(err)
		}
		n++
	}
	return n
}

// world makes random States over few keys, so that they meet again and again.
type world struct {
	*rand.Rand
	clients bool // some Frontends with ClientHash, which are large
}

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 0)), false} }

func (w world) state() *rules.State {
	frontends := make(map[rules.FrontendKey]*rules.Frontend)
	for _, addr := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
		for port := range uint16(4) {
			for _, protocol := range []rules.Protocol{rules.TCP, rules.UDP} {
				if w.IntN(3) > 0 {
					k := rules.FrontendKey{Addr: netip.MustParseAddr(addr), Protocol: protocol, Port: 80 + port}
					frontends[k] = w.frontend(k)
				}
			}
		}
	}
	return stateOf(frontends).WithExclusive(w.exclusive())
}

// exclusive are some addresses with Frontends and some without.
func (w world) exclusive() []netip.Addr {
	var out []netip.Addr
	for _, addr := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"} {
		if w.IntN(2) == 0 {
			out = append(out, netip.MustParseAddr(addr))
		}
	}
	return out
}

func (w world) frontend(k rules.FrontendKey) *rules.Frontend {
	f := &rules.Frontend{Owner: owner(fmt.Sprintf("ns/gw-%d", w.IntN(3)), fmt.Sprint(k.Port), "ns/r"+fmt.Sprint(w.IntN(2)))}
	switch {
	case w.clients && w.IntN(12) == 0:
		f.Select = rules.ClientHash
	case k.Protocol == rules.UDP:
		f.Select = rules.FlowHash
	}
	for b := range w.IntN(4) {
		one := rules.Backend{Ref: fmt.Sprintf("ns/svc-%d", b), Weight: [...]uint32{0, 1, 2, 3, 21}[w.IntN(5)]} // 21: many slots
		for e := range 6 {
			if w.IntN(3) > 0 {
				continue
			}
			addr := netip.AddrFrom4([4]byte{10, 0, byte(b), byte(e)})
			if k.Addr.Is6() {
				addr = netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(b), 15: byte(e)})
			}
			one.Endpoints = append(one.Endpoints, rules.Endpoint{Addr: netip.AddrPortFrom(addr, 8080), Name: fmt.Sprintf("pod-%d", e), Local: e%2 == w.IntN(8)%2})
		}
		for _, left := range []*[]netip.AddrPort{&one.Draining, &one.Lingering} {
			if last := len(one.Endpoints) - 1; last >= 0 && w.IntN(2) == 0 {
				*left = append(*left, one.Endpoints[last].Addr)
				one.Endpoints = one.Endpoints[:last]
			}
		}
		f.Backends = append(f.Backends, one)
	}
	return f
}
