package netns_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

var protocols = []rules.Protocol{rules.TCP, rules.UDP}

// flows is how many flows a distribution is judged by.
const flows = 1500

func TestGuideBackendsAnswer(t *testing.T) { eachVariant(t, testGuideBackendsAnswer) }

func testGuideBackendsAnswer(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(
		listener{rules.TCP, 8080, []service{{"my-foo-service", 1, []string{"foo-1", "foo-2"}}}},
		listener{rules.TCP, 8090, []service{{"my-bar-service", 1, []string{"bar-1"}}}},
	))
	for _, addr := range nodeAddrs {
		for port, want := range map[uint16]map[string]float64{
			8080: {"foo-1": 1, "foo-2": 1},
			8090: {"bar-1": 1},
			8100: {refused: 1},
		} {
			tally := count(t, f.Client, rules.TCP, netip.AddrPortFrom(addr, port), 200)
			if err := checkShares(tally, want); err != nil {
				t.Errorf("%s port %d: %v", addr, port, err)
			}
			if tally.Unreachable > 0 {
				t.Errorf("%s port %d: refused by ICMP: %s", addr, port, tally)
			}
		}
	}
}

func TestShares(t *testing.T) { eachBackend(t, testShares) }

func testShares(on trial) {
	t, b := on.T, on.backend
	for _, c := range []struct {
		name     string
		services []service
		want     map[string]float64
	}{
		{
			"90 to 10",
			[]service{{"a", 90, []string{"foo-1"}}, {"b", 10, []string{"bar-1"}}},
			map[string]float64{"foo-1": 90, "bar-1": 10},
		},
		{
			"1 to 2 to 3",
			[]service{{"a", 1, []string{"foo-1"}}, {"b", 2, []string{"foo-2"}}, {"c", 3, []string{"bar-1"}}},
			map[string]float64{"foo-1": 1, "foo-2": 2, "bar-1": 3},
		},
		{
			"endpoints of one service are equal",
			[]service{{"a", 7, []string{"foo-1", "foo-2", "bar-1"}}},
			map[string]float64{"foo-1": 1, "foo-2": 1, "bar-1": 1},
		},
		{
			"weights count per service",
			[]service{{"a", 1, []string{"foo-1", "foo-2"}}, {"b", 1, []string{"bar-1"}}},
			map[string]float64{"foo-1": 1, "foo-2": 1, "bar-1": 2},
		},
		{
			"weight 0 gets nothing",
			[]service{{"a", 0, []string{"foo-1"}}, {"b", 5, []string{"foo-2", "bar-1"}}},
			map[string]float64{"foo-2": 1, "bar-1": 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, b, guidePods...)
			f.program(f.serving(listener{rules.TCP, 8080, c.services}, listener{rules.UDP, 8080, c.services}))
			for _, addr := range nodeAddrs {
				for _, protocol := range protocols {
					tally := count(t, f.Client, protocol, netip.AddrPortFrom(addr, 8080), flows)
					if err := checkShares(tally, c.want); err != nil {
						t.Errorf("%s %s: %v", addr, protocol, err)
					}
				}
			}
		})
	}
}

// The share of a backendRef that has no endpoints is refused: over TCP by RST, over
// UDP by silence.
func TestRefusedShare(t *testing.T) { eachBackend(t, testRefusedShare) }

func testRefusedShare(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	services := []service{{"a", 3, []string{"foo-1", "foo-2"}}, {"missing", 1, nil}}
	f.program(f.serving(listener{rules.TCP, 8080, services}, listener{rules.UDP, 8080, services}))
	for _, addr := range nodeAddrs {
		to := netip.AddrPortFrom(addr, 8080)
		tcp := count(t, f.Client, rules.TCP, to, flows)
		if err := checkShares(tcp, map[string]float64{"foo-1": 3, "foo-2": 3, refused: 2}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if tcp.Unreachable != 0 {
			t.Errorf("%s: TCP refused by ICMP, not by RST: %s", addr, tcp)
		}
		udp := count(t, f.Client, rules.UDP, to, 512)
		if err := checkShares(udp, map[string]float64{"foo-1": 3, "foo-2": 3, silent: 2}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestAllRefused(t *testing.T) { eachVariant(t, testAllRefused) }

func testAllRefused(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(
		listener{rules.TCP, 8080, nil},
		listener{rules.TCP, 8081, []service{{"missing", 1, nil}}},
		listener{rules.TCP, 8082, []service{{"a", 0, []string{"foo-1"}}}},
		listener{rules.UDP, 8080, nil},
	))
	for _, addr := range nodeAddrs {
		for port := uint16(8080); port <= 8082; port++ {
			start := time.Now()
			tally := count(t, f.Client, rules.TCP, netip.AddrPortFrom(addr, port), 50)
			if err := checkShares(tally, map[string]float64{refused: 1}); err != nil || tally.Unreachable > 0 {
				t.Errorf("%s port %d: %s, want all refused by RST", addr, port, tally)
			}
			if took := time.Since(start); took > time.Second { // the first retransmission of a lost SYN
				t.Errorf("%s port %d: 50 refusals took %s", addr, port, took)
			}
		}
		tally := count(t, f.Client, rules.UDP, netip.AddrPortFrom(addr, 8080), 10)
		if tally.Answered() > 0 {
			t.Errorf("%s udp: answered: %s", addr, tally)
		}
	}
}

func TestTCPAndUDPOnOnePort(t *testing.T) { eachVariant(t, testTCPAndUDPOnOnePort) }

func testTCPAndUDPOnOnePort(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	f.program(f.serving(
		listener{rules.TCP, 8080, []service{{"a", 1, []string{"foo-1"}}}},
		listener{rules.UDP, 8080, []service{{"b", 1, []string{"bar-1"}}}},
	))
	for _, addr := range nodeAddrs {
		for protocol, want := range map[rules.Protocol]string{rules.TCP: "foo-1", rules.UDP: "bar-1"} {
			tally := count(t, f.Client, protocol, netip.AddrPortFrom(addr, 8080), 30)
			if tally.Answers[want] != 30 {
				t.Errorf("%s %s: %s, want all from %s", addr, protocol, tally, want)
			}
		}
	}
}

// One family without endpoints is refused in that family only.
func TestFamiliesAreSeparate(t *testing.T) { eachVariant(t, testFamiliesAreSeparate) }

func testFamiliesAreSeparate(on trial) {
	t, b := on.T, on.backend
	f := newFixture(t, b, guidePods...)
	both := f.serving(listener{rules.TCP, 8080, []service{{"a", 1, []string{"foo-1"}}}})
	key := rules.FrontendKey{Addr: netns.NodeAddr6, Protocol: rules.TCP, Port: 8080}
	without := *both.Frontend(key)
	without.Backends = []rules.Backend{{Ref: "default/a", Weight: 1}}
	f.program(both.Apply(map[rules.FrontendKey]*rules.Frontend{key: &without}, nil))
	for addr, want := range map[netip.Addr]map[string]float64{
		netns.NodeAddr4: {"foo-1": 1},
		netns.NodeAddr6: {refused: 1},
	} {
		if err := checkShares(count(t, f.Client, rules.TCP, netip.AddrPortFrom(addr, 8080), 30), want); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
