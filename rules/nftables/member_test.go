package nftables

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
)

func TestMembersOf(t *testing.T) {
	f := &rules.Frontend{Backends: []rules.Backend{
		backend("ns/a", 1, local("10.0.0.1:80", ""), endpoint("10.0.1.1:80", "")),
		backend("ns/b", 1, local("10.0.0.1:80", ""), local("10.0.0.1:81", "")), // the same again, and its other port
		backend("ns/no-weight", 0, endpoint("10.0.1.2:80", "")),
		{Ref: "ns/draining", Weight: 1, Draining: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.3:80")}},
		{Ref: "ns/lingering", Weight: 1, Lingering: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.4:80")}},
	}}
	var got []string
	for _, id := range membersOf(key("192.0.2.1 tcp 8080"), f) {
		k := id.key()
		got = append(got, op{set: id.set, key: &k}.String())
	}
	want := []string{
		"add endpoints4 10.0.0.1 tcp 80", "add endpoints4 10.0.0.1 tcp 81", "add endpoints4 10.0.0.3 tcp 80",
		"add endpoints4 10.0.0.4 tcp 80", "add endpoints4 10.0.1.1 tcp 80", "add endpoints4 10.0.1.2 tcp 80",
		"add local4 10.0.0.1", "add hairpin4 10.0.0.1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := membersOf(key("2001:db8::1 udp 53"), &rules.Frontend{Backends: []rules.Backend{backend("ns/a", 1, local("[fd00::1]:53", ""))}}); len(got) != 3 || got[0].set != endpoints6 || got[0].key() != key("fd00::1 udp 53") {
		t.Errorf("IPv6: %v", got)
	}
}

// Two Frontends need one element: it stays until neither does.
func TestMembersAreCounted(t *testing.T) {
	one := memberOf(endpoints4, key("10.0.0.1 tcp 80"))
	needs := func() *program { return &program{members: []member{one}} }
	a, b, c := needs(), needs(), needs()
	m := newMembers()
	ops := m.acquire([]*plan{{now: a}, {now: b}})
	if len(ops) != 1 || ops[0].del {
		t.Fatalf("missing %v, want it once", ops)
	}
	m.note(&ops[0])
	m.release(a)
	if ops := m.unused(); len(ops) != 0 {
		t.Errorf("unused %v, but one needs it", ops)
	}
	if ops := m.acquire([]*plan{{now: c}}); len(ops) != 0 {
		t.Errorf("missing %v, but it is there", ops)
	}
	m.release(b)
	m.release(b) // counted no more
	if ops := m.unused(); len(ops) != 0 {
		t.Errorf("unused %v, but another one needs it", ops)
	}
	m.release(c)
	ops = m.unused()
	if len(ops) != 1 || !ops[0].del {
		t.Fatalf("unused %v, want it", ops)
	}
	m.note(&ops[0])
	checkNoMembers(t, m)

	// What could not be added is asked for again.
	for range 2 {
		a, b := needs(), needs()
		if ops = m.acquire([]*plan{{now: a}, {now: b}}); len(ops) != 1 {
			t.Fatalf("missing %v, want it once", ops)
		}
		m.dismiss(ops)
		m.release(a)
		if again := m.acquire([]*plan{{now: a}}); len(again) != 1 {
			t.Errorf("missing %v after a failure, want it", again)
		} else {
			m.dismiss(again)
		}
		m.release(a)
		m.release(b)
		checkNoMembers(t, m)
	}
}

func checkNoMembers(t *testing.T, m *members) {
	t.Helper()
	if len(m.ids)+len(m.unneeded) > 0 || len(m.free) != len(m.refs) {
		t.Errorf("left: %v, %v, %d of %d numbers", m.ids, m.unneeded, len(m.refs)-len(m.free), len(m.refs))
	}
}
