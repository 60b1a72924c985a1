package rules

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	client := netip.MustParseAddrPort("198.51.100.7:40000")
	local := Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Local: true}
	remote := Endpoint{Addr: netip.MustParseAddrPort("10.0.1.1:80")}
	tests := []struct {
		name     string
		backends []Backend
		src      netip.AddrPort
		want     string
	}{
		{"no backend refuses all", nil, client, "refuse 1"},
		{"weights zero refuse all", []Backend{{Weight: 0, Endpoints: []Endpoint{local}}}, client, "refuse 1"},
		{"local keeps the client", []Backend{{Weight: 1, Endpoints: []Endpoint{local}}}, client, "10.0.0.1:80 1"},
		{"remote is masqueraded", []Backend{{Weight: 1, Endpoints: []Endpoint{remote}}}, client, "10.0.1.1:80 1 masquerade"},
		{"hairpin is masqueraded", []Backend{{Weight: 1, Endpoints: []Endpoint{local}}}, netip.MustParseAddrPort("10.0.0.1:4000"), "10.0.0.1:80 1 masquerade"},
		{
			"weights and endpoints, the empty backend's share refused",
			[]Backend{{Weight: 8}, {Weight: 1, Endpoints: []Endpoint{local, remote}}, {Weight: 1, Endpoints: []Endpoint{local}}},
			client, "refuse 4/5, 10.0.0.1:80 3/20, 10.0.1.1:80 1/20 masquerade",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state := NewState(map[FrontendKey]*Frontend{key(8080): {Backends: tt.backends}}, nil)
			d := state.Match(Packet{TCP, tt.src, netip.MustParseAddrPort("192.0.2.1:8080")})
			var got []string
			for _, o := range d.Outcomes {
				s := "refuse " + o.Share.RatString()
				if !o.Refused() {
					s = fmt.Sprintf("%s %s", o.Endpoint, o.Share.RatString())
				}
				if o.Masquerade {
					s += " masquerade"
				}
				got = append(got, s)
			}
			if g := strings.Join(got, ", "); g != tt.want {
				t.Errorf("got %s\nwant %s", g, tt.want)
			}
		})
	}
}

func TestMatchLeavesStrangersAlone(t *testing.T) {
	state := NewState(map[FrontendKey]*Frontend{key(8080): {}}, nil)
	for _, dst := range []string{"192.0.2.1:8081", "192.0.2.2:8080", "[2001:db8::1]:8080"} {
		if d := state.Match(Packet{TCP, netip.AddrPort{}, netip.MustParseAddrPort(dst)}); d.Frontend != nil || d.Outcomes != nil {
			t.Errorf("%s matched %v", dst, d)
		}
	}
	if d := state.Match(Packet{UDP, netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.1:8080")}); d.Frontend != nil {
		t.Error("UDP matched a TCP frontend")
	}
}
