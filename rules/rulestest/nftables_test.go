package rulestest

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
)

// table is one with a listener, of the rules to try and the elements of a map and a set.
const table = `table inet t {
	map to {
		type ipv4_addr . inet_service . mark : ipv4_addr . inet_service
		elements = { %s }
	}

	set refused {
		type ipv4_addr . mark
		flags interval
		counter
		comment "a set, of {odd} words"
		elements = { 192.0.2.1 . 0x00000000-0x00000004 counter packets 1 bytes 40 comment "five, or so" }
	}

	chain served {
		%s
	}

	chain prerouting {
		type nat hook prerouting priority dstnat - 1; policy accept;
		jump served
		drop comment "what returns"
	}

	chain filter-prerouting {
		type filter hook prerouting priority filter; policy accept;
		ct state invalid drop
	}
}
`

const twoSlots = `192.0.2.1 . 80 . 0x00000000 comment "a, b : goto c" : 10.0.0.1 . 8080,
			     192.0.2.1 . 80 . 0x00000002 : 10.0.0.2 . 8080, 192.0.2.1 . 80 . 0x00000003 : 10.0.0.2 . 8080`

func follow(elements, rule string) ([]string, error) {
	parsed, err := ParseNftables(fmt.Sprintf(table, elements, rule))
	if err != nil {
		return nil, err
	}
	p := Packet{Protocol: rules.TCP, State: New, Src: netip.MustParseAddrPort("198.51.100.7:1000"), Dst: netip.MustParseAddrPort("192.0.2.1:80")}
	leaves, err := parsed.Follow(p, "prerouting")
	var out []string
	for _, l := range leaves {
		text := fmt.Sprintf("%s %s %s mark %#x", l.Probability.RatString(), l.Verdict, l.Dst, l.CTMark)
		if l.Hashed != "" {
			text += " by " + l.Hashed
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out, err
}

func TestFollow(t *testing.T) {
	for rule, want := range map[string][]string{
		"accepted":    nil,
		"return":      {"1 DROP 192.0.2.1:80 mark 0x0"},
		"":            {"1 DROP 192.0.2.1:80 mark 0x0"},
		"goto refuse": nil,
		"ct mark set ct mark | 0x4 reject with tcp reset":                                          {"1 REJECT --reject-with tcp-reset 192.0.2.1:80 mark 0x4"},
		"ct mark & 0x00000004 == 0x00000000 drop":                                                  {"1 DROP 192.0.2.1:80 mark 0x0"},
		"meta l4proto udp reject with tcp reset":                                                   {"1 DROP 192.0.2.1:80 mark 0x0"},
		"ip daddr . numgen random mod 20 @refused counter packets 0 bytes 0 reject with tcp reset": {"1/4 REJECT --reject-with tcp-reset 192.0.2.1:80 mark 0x0", "3/4 DROP 192.0.2.1:80 mark 0x0"},
		"dnat ip to ip daddr . th dport . numgen random mod 4 map @to":                             {"1/2 ACCEPT 10.0.0.2:8080 mark 0x0", "1/4 ACCEPT 10.0.0.1:8080 mark 0x0", "1/4 DROP 192.0.2.1:80 mark 0x0"},
		"dnat ip to ip daddr . th dport . jhash ip saddr . th sport mod 1 seed 0x7 map @to":        {"1 ACCEPT 10.0.0.1:8080 mark 0x0 by ip saddr . th sport"},
		"dnat ip to ip daddr . th sport . numgen random mod 4 map @to":                             {"1 DROP 192.0.2.1:80 mark 0x0"},
		"ip6 daddr . th dport vmap @to":                                                            nil,
		"ip daddr @refused drop":                                                                   nil,
		"ip daddr . th dport . numgen random mod 4 @to drop":                                       nil,
		"ip daddr . numgen random mod 4 != @refused drop":                                          nil,
		"ip daddr . numgen inc mod 4 @refused drop":                                                nil,
		"meta l4proto { tcp, udp } drop":                                                           nil,
		"ct state invalid,new drop":                                                                nil,
		"dnat ip to ip daddr . th dport . jhash numgen random mod 2 mod 4 seed 0x7 map @to":        nil,
		"masquerade":  nil,
		"jump served": nil, // in circles
	} {
		got, err := follow(twoSlots, rule)
		if (err != nil) != (want == nil) {
			t.Errorf("%q: %v, %v, want %v", rule, got, err, want)
		} else if diff := cmp.Diff(want, got); err == nil && diff != "" {
			t.Errorf("%q (-want +got):\n%s", rule, diff)
		}
	}
}

// A listing of which something is not understood is an error, and so are two elements for
// one packet.
func TestParseNftables(t *testing.T) {
	for old, other := range map[string]string{
		"flags interval":                 "flags interval, timeout",
		"policy accept":                  "policy drop",
		"priority filter":                "priority security",
		"ipv4_addr . mark":               "mark . ipv4_addr",
		"192.0.2.1 . 0x00000000-":        "2001:db8::1 . 0x00000000-",
		"set refused {":                  "flowtable refused {",
		"0x00000002":                     "0x00000000",
		"10.0.0.2 . 8080":                "10.0.0.2 . 80800",
		`comment "five, or so"`:          "timeout 5s",
		"chain filter-prerouting":        "chain prerouting",
		"table inet t {":                 "table ip t {",
		"0x00000003 : 10.0.0.2 . 8080 }": "0x00000003 : goto served }",
	} {
		text := fmt.Sprintf(table, twoSlots, "drop")
		if _, err := ParseNftables(text); err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(text, old, other, 1)
		if _, err := ParseNftables(changed); err == nil || changed == text {
			t.Errorf("%q instead of %q is understood", other, old)
		}
	}
}

// Values of the usual tables of the distribution.
func TestChiSquareTail(t *testing.T) {
	for _, test := range []struct {
		freedom int
		x       float64
		want    string
	}{{1, 3.841, "0.0500"}, {2, 5.991, "0.0500"}, {3, 11.345, "0.0100"}, {10, 18.307, "0.0500"}, {11, 31.264, "0.0010"}, {0, 0, "1.0000"}} {
		if got := fmt.Sprintf("%.4f", chiSquareTail(test.freedom, test.x)); got != test.want {
			t.Errorf("%g, %d degrees of freedom: %s, want %s", test.x, test.freedom, got, test.want)
		}
	}
}

func TestPlausible(t *testing.T) {
	outcome := func(port uint16) rules.Outcome {
		return rules.Outcome{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)}
	}
	shares := map[rules.Outcome]*big.Rat{outcome(1): big.NewRat(1, 2), outcome(2): big.NewRat(499, 1000), outcome(3): big.NewRat(1, 1000)}
	for _, test := range []struct {
		counts [4]int
		want   bool
	}{
		{[4]int{500, 499, 1, 0}, true},
		{[4]int{530, 470, 0, 0}, true},
		{[4]int{500, 490, 10, 0}, true}, // too few to tell
		{[4]int{650, 350, 0, 0}, false},
		{[4]int{500, 499, 0, 1}, false}, // cannot be
	} {
		counts := make(map[rules.Outcome]int)
		for i, n := range test.counts {
			if n > 0 {
				counts[outcome(uint16(i+1))] = n
			}
		}
		if err := Plausible(counts, shares); (err == nil) != test.want {
			t.Errorf("%v: %v", test.counts, err)
		}
	}
}
