package rules

import (
	"net/netip"
	"testing"
)

func TestStateKeepsFlows(t *testing.T) {
	at := netip.MustParseAddrPort
	dns := FrontendKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: UDP, Port: 53}
	empty := FrontendKey{Addr: dns.Addr, Protocol: UDP, Port: 54}
	dns6 := FrontendKey{Addr: netip.MustParseAddr("2001:db8::1"), Protocol: UDP, Port: 53}
	web := FrontendKey{Addr: dns.Addr, Protocol: TCP, Port: 80}
	state := NewState(map[FrontendKey]*Frontend{
		dns: {Select: FlowHash, Backends: []Backend{
			{Ref: "ns/a", Weight: 1, Endpoints: []Endpoint{{Addr: at("10.0.0.1:53")}}, Draining: []netip.AddrPort{at("10.0.0.2:53")}, Lingering: []netip.AddrPort{at("10.0.0.4:53")}},
			{Ref: "ns/b", Endpoints: []Endpoint{{Addr: at("10.0.0.3:53")}}},
			{Ref: "ns/c", Weight: 1},
		}},
		empty: {Select: FlowHash, Backends: []Backend{{Ref: "ns/c", Weight: 1}}},
		web:   {Backends: []Backend{{Weight: 1, Lingering: []netip.AddrPort{at("10.0.0.4:80")}}}},
		dns6:  {Select: FlowHash, Backends: []Backend{{Weight: 1, Endpoints: []Endpoint{{Addr: at("[fd00::1]:53")}}}}},
	}, nil)
	tests := []struct {
		name          string
		protocol      Protocol
		dst, endpoint string
		want          bool
	}{
		{"an endpoint", UDP, "192.0.2.1:53", "10.0.0.1:53", true},
		{"a draining endpoint", UDP, "192.0.2.1:53", "10.0.0.2:53", true},
		{"a lingering endpoint", UDP, "192.0.2.1:53", "10.0.0.4:53", false},
		{"a lingering endpoint of TCP", TCP, "192.0.2.1:80", "10.0.0.4:80", true},
		{"an endpoint of TCP that is gone", TCP, "192.0.2.1:80", "10.0.0.5:80", false},
		{"a backend of weight 0", UDP, "192.0.2.1:53", "10.0.0.3:53", true},
		{"written as IPv6", UDP, "[::ffff:192.0.2.1]:53", "[::ffff:10.0.0.1]:53", true},
		{"IPv6", UDP, "[2001:db8::1]:53", "[fd00::1]:53", true},
		{"an endpoint that is gone", UDP, "192.0.2.1:53", "10.0.0.9:53", false},
		{"its address with another port", UDP, "192.0.2.1:53", "10.0.0.1:54", false},
		{"older than the rules", UDP, "192.0.2.1:53", "192.0.2.1:53", false},
		{"nothing known of replies", UDP, "192.0.2.1:53", "", false},
		{"no endpoint is left", UDP, "192.0.2.1:54", "10.0.0.1:53", false},
		{"another port is not ours", UDP, "192.0.2.1:55", "10.0.0.9:53", true},
		{"another protocol is not ours", TCP, "192.0.2.1:53", "10.0.0.9:53", true},
		{"another address is not ours", UDP, "192.0.2.2:53", "10.0.0.9:53", true},
		{"straight to an endpoint is not ours", UDP, "10.0.0.1:53", "10.0.0.1:53", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := Flow{Protocol: tt.protocol, Src: at("198.51.100.7:40000"), Dst: at(tt.dst)}
			if tt.endpoint != "" {
				f.Endpoint = at(tt.endpoint)
			}
			if got := state.Keeps(f); got != tt.want {
				t.Errorf("keeps %t, want %t", got, tt.want)
			}
		})
	}
}
