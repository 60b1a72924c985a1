package addresses

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustParse(t *testing.T, entries ...string) Set {
	t.Helper()
	set, err := Parse(entries)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestParseRange(t *testing.T) {
	const any = "must be a CIDR, a range or an address"
	tests := map[string]string{ // the error, or "" and then it is written as below
		"192.0.2.0/24":                  "",
		"192.0.2.10-192.0.2.20":         "",
		"192.0.2.7":                     "",
		"2001:db8::/120":                "",
		"2001:db8::5-2001:db8::ff":      "",
		"2001:db8::1":                   "",
		"":                              any,
		"web":                           any,
		"192.0.2.0/33":                  any,
		"192.0.2.0/24-192.0.3.0/24":     any,
		"192.0.2.1-192.0.2.5-192.0.2.9": any,
		"192.0.2.10 - 192.0.2.20":       any,
		"192.0.2.1-":                    any,
		"192.0.2.01":                    any,
		"fe80::1%eth0":                  any,
		"::ffff:192.0.2.1":              any,
		"::ffff:192.0.2.0/120":          any,
		"192.0.2.1/24":                  "write 192.0.2.0/24, or 192.0.2.1 for the one address",
		"2001:db8::1/64":                "write 2001:db8::/64, or 2001:db8::1 for",
		"192.0.2.1-2001:db8::1":         "of the same family",
		"192.0.2.20-192.0.2.10":         "write 192.0.2.10-192.0.2.20",
		"2001:db8::2-2001:db8::1":       "must not end before it begins",
		"0.0.0.0/0":                     "has addresses of no host (0.0.0.0/8)",
		"127.0.0.1":                     "loopback",
		"223.255.255.0-224.0.0.0":       "multicast addresses (224.0.0.0/4)",
		"255.255.255.255":               "broadcast",
		"169.254.1.1":                   "link-local",
		"::/0":                          "unspecified",
		"fe80::/64":                     "link-local",
		"ff02::1":                       "multicast",
	}
	for text, want := range tests {
		r, err := ParseRange(text)
		switch {
		case want == "" && (err != nil || Format(r.From(), r.To()) != text):
			t.Errorf("%s: %v, %v", text, r, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || r.IsValid()):
			t.Errorf("%s: %v, error %v, want %q", text, r, err, want)
		}
	}
}

// TestParseKeepsWhatIsRight: the status of a pool is read so.
func TestParseKeepsWhatIsRight(t *testing.T) {
	set, err := Parse([]string{"192.0.2.1", "nonsense", "192.0.2.2", "more"})
	if err == nil || !strings.HasPrefix(err.Error(), `entry 1: "nonsense" must be`) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"192.0.2.1-192.0.2.2"}, set.Strings()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSet(t *testing.T) {
	tests := []struct {
		entries []string
		avoid   bool
		strings []string
		size    string
		first   []string // the first three of each family
	}{
		{nil, false, nil, "0", nil},
		{[]string{"192.0.2.0/24", "192.0.2.10-192.0.2.20", "192.0.2.7"}, false, []string{"192.0.2.0/24"}, "256", []string{"192.0.2.0", "192.0.2.1", "192.0.2.2"}},
		{[]string{"192.0.2.0/24"}, true, []string{"192.0.2.0/24"}, "254", []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}},
		{[]string{"192.0.1.254-192.0.2.1"}, true, []string{"192.0.1.254-192.0.2.1"}, "2", []string{"192.0.1.254", "192.0.2.1"}},
		{[]string{"192.0.2.0", "192.0.2.255"}, true, []string{"192.0.2.0", "192.0.2.255"}, "0", nil},
		{[]string{"10.0.0.0/8"}, true, []string{"10.0.0.0/8"}, "16646144", []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}},
		{[]string{"2001:db8::/64", "192.0.2.1"}, true, []string{"192.0.2.1", "2001:db8::/64"}, "18446744073709551617", []string{"192.0.2.1", "2001:db8::", "2001:db8::1", "2001:db8::2"}},
		{[]string{"223.255.255.254-223.255.255.255"}, false, []string{"223.255.255.254/31"}, "2", []string{"223.255.255.254", "223.255.255.255"}},
	}
	for _, test := range tests {
		set := mustParse(t, test.entries...)
		if test.avoid {
			set = set.AvoidBuggy()
		}
		if diff := cmp.Diff(test.strings, set.Strings(), cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.entries, diff)
		}
		if got := set.Size().String(); got != test.size {
			t.Errorf("%v: size %s, want %s", test.entries, got, test.size)
		}
		var first []string
		for _, from := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			n := 0
			for addr := range set.From(from) {
				if n++; n > 3 {
					break
				}
				if !set.Contains(addr) {
					t.Errorf("%v does not contain %s, which it yields", test.entries, addr)
				}
				first = append(first, addr.String())
			}
		}
		if diff := cmp.Diff(test.first, first); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.entries, diff)
		}
	}
}

func TestSetHas(t *testing.T) {
	four, six := mustParse(t, "192.0.2.255"), mustParse(t, "2001:db8::")
	if !four.HasIPv4() || four.HasIPv6() || !six.HasIPv6() || six.HasIPv4() || four.AvoidBuggy().HasIPv4() || !six.AvoidBuggy().HasIPv6() {
		t.Error("has addresses of the wrong family")
	}
	if !four.Contains(netip.MustParseAddr("::ffff:192.0.2.255")) || four.Contains(netip.Addr{}) || (Set{}).Contains(netip.MustParseAddr("192.0.2.1")) {
		t.Error("mapped, none or empty")
	}
}

func TestOverlap(t *testing.T) {
	tests := []struct {
		a, b []string
		want string
	}{
		{[]string{"192.0.2.0/24"}, []string{"192.0.3.0/24", "2001:db8::/64"}, "none"},
		{[]string{"192.0.2.0/24"}, []string{"192.0.2.200-192.0.3.5"}, "192.0.2.200-192.0.2.255"},
		{[]string{"10.0.0.0/8", "192.0.2.0/24"}, []string{"192.0.2.9"}, "192.0.2.9"},
		{[]string{"2001:db8::/32"}, []string{"2001:db8:1::/48"}, "2001:db8:1::/48"},
		{nil, []string{"192.0.2.9"}, "none"},
	}
	for _, test := range tests {
		a, b := mustParse(t, test.a...).AvoidBuggy(), mustParse(t, test.b...)
		for _, pair := range [][2]Set{{a, b}, {b, a}} {
			got := "none"
			if first, last, found := pair[0].Overlap(pair[1]); found {
				got = Format(first, last)
			}
			if got != test.want {
				t.Errorf("%v and %v: %s, want %s", test.a, test.b, got, test.want)
			}
		}
	}
}

// TestSetAgreesWithAList compares with all addresses written out.
func TestSetAgreesWithAList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	base := netip.MustParseAddr("192.0.2.0").As4()
	at := func(n int) netip.Addr {
		b := base
		b[2] += byte(n >> 8)
		b[3] = byte(n)
		return netip.AddrFrom4(b)
	}
	const space = 1024
	for range 200 {
		in := make([]bool, space)
		var entries []string
		for range random.IntN(5) {
			first := random.IntN(space)
			last := min(space-1, first+random.IntN(300))
			entries = append(entries, at(first).String()+"-"+at(last).String())
			for i := first; i <= last; i++ {
				in[i] = true
			}
		}
		set := mustParse(t, entries...)
		if random.IntN(2) == 1 {
			set = set.AvoidBuggy()
			for i := range in {
				in[i] = in[i] && i%256 != 0 && i%256 != 255
			}
		}
		from, size := random.IntN(space), 0
		var want, got []netip.Addr
		for i, member := range in {
			if member {
				size++
			}
			if member && i >= from {
				want = append(want, at(i))
			}
			if set.Contains(at(i)) != member {
				t.Fatalf("%v contains %s: %t", entries, at(i), !member)
			}
		}
		for addr := range set.From(at(from)) {
			got = append(got, addr)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("%v from %s (-want +got):\n%s", entries, at(from), diff)
		}
		if set.Size().Int64() != int64(size) {
			t.Fatalf("%v: size %s, want %d", entries, set.Size(), size)
		}
		again := mustParse(t, set.Strings()...)
		if diff := cmp.Diff(set.Strings(), again.Strings()); diff != "" {
			t.Fatalf("reads back otherwise (-want +got):\n%s", diff)
		}
	}
}

func BenchmarkFrom(b *testing.B) {
	set, err := Parse([]string{"10.0.0.0/18"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		for range set.AvoidBuggy().From(netip.IPv4Unspecified()) {
			n++
		}
	}
}
