package main

import (
	"math/big"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

var (
	service = rules.FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: rules.TCP, Port: 80}
	syn     = rules.Packet{
		Protocol: rules.TCP,
		Src:      netip.MustParseAddrPort("198.51.100.10:40000"), Dst: netip.MustParseAddrPort("192.0.2.1:80"),
	}
)

// serving is a State of one listener with these endpoints and a refused share.
func serving(endpoints ...rules.Endpoint) *rules.State {
	return rules.NewState(map[rules.FrontendKey]*rules.Frontend{service: {
		Owner:    rules.Owner{Gateway: "default/gw", Listener: "web"},
		Backends: []rules.Backend{{Ref: "default/web", Weight: 2, Endpoints: endpoints}, {Ref: "default/gone", Weight: 1}},
	}}, nil)
}

func rendered(t *testing.T, state *rules.State) string {
	t.Helper()
	text, err := nftables.RenderBrief(state, nftables.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestDraw(t *testing.T) {
	here := rules.Endpoint{Addr: netip.MustParseAddrPort("10.244.1.10:8080"), Name: "web-0", Local: true}
	away := rules.Endpoint{Addr: netip.MustParseAddrPort("10.244.2.10:8080"), Name: "web-1"}
	state := serving(here, away)
	text := rendered(t, state)
	table, err := newListing(text, text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := table.draw(state, syn, false)
	if err != nil {
		t.Fatal(err)
	}
	const want = `198.51.100.10 ──► 192.0.2.1 tcp 80   (default/gw/web)
 │
 ├─ prerouting     type nat hook prerouting priority dstnat - 1
 ├─ services       @listeners4 [ 192.0.2.1 . tcp . 80 ]
 └─ random-3       @slots4 [ 192.0.2.1 . tcp . 80 . numgen random mod 3 ]
     ├─ slot 0  ──► 10.244.1.10:8080                          default/web web-0  33.33 %  @local4: it sees 198.51.100.10
     ├─ slot 1  ──► 10.244.2.10:8080                          default/web web-1  33.33 %  masquerade: it sees this node
     └─ slot 2  no element ──► refuse: reject with tcp reset                     33.33 %
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, reference := range map[string]*rules.State{
		"an endpoint too many": serving(here),
		"an endpoint too few":  serving(here, away, rules.Endpoint{Addr: netip.MustParseAddrPort("10.244.1.12:8080")}),
		"masquerade":           serving(here, rules.Endpoint{Addr: away.Addr, Local: true}),
		"no listener":          {},
	} {
		if text, err := table.draw(reference, syn, false); err == nil {
			t.Errorf("%s: no error, but\n%s", name, text)
		}
	}
}

func TestListing(t *testing.T) {
	state := serving(rules.Endpoint{Addr: netip.MustParseAddrPort("10.244.1.10:8080")}, rules.Endpoint{Addr: netip.MustParseAddrPort("10.244.1.11:8080")})
	text := rendered(t, state)
	table, err := newListing(text, text)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	first := table.text(shown)
	if strings.Contains(first, "slots6 {") || !strings.Contains(first, "chain random-3 {") {
		t.Errorf("empty sets are shown, or chains in use are not:\n%s", first)
	}
	if second := table.text(shown); strings.Contains(second, "chain ") || !strings.Contains(second, "# as above: refuse, draw, random-3, unowned, exclusive, services, ") || !strings.Contains(second, "map slots4 {") {
		t.Errorf("the second time:\n%s", second)
	}
	for _, other := range []string{"", strings.Replace(text, "10.244.1.11 .", "10.244.1.12 .", 1), strings.Replace(text, "tcp reset", "icmp", 1)} {
		if _, err := newListing(other, text); err == nil {
			t.Error("a listing other than the rendered one is no error")
		}
	}
}

func TestPercent(t *testing.T) {
	for want, share := range map[string]*big.Rat{
		"100 %": big.NewRat(1, 1), "50 %": big.NewRat(1, 2), "12.5 %": big.NewRat(1, 8), "33.33 %": big.NewRat(1, 3), "0.01 %": big.NewRat(1, 10_000),
	} {
		if got := percent(share); got != want {
			t.Errorf("%s is %q, want %q", share, got, want)
		}
	}
}
