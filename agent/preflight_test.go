package agent

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fakeSysctls are settings in memory.
type fakeSysctls struct {
	mu       sync.Mutex // guards values
	values   map[string]string
	readonly bool
}

// set changes a setting as an operator does.
func (s *fakeSysctls) set(path, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[path] = value
}

func (s *fakeSysctls) Read(path string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(value + "\n"), nil
}

func (s *fakeSysctls) Write(path string, value []byte) error {
	if s.readonly {
		return fs.ErrPermission
	}
	s.set(path, string(value))
	return nil
}

func (s *fakeSysctls) Writable(string) bool { return !s.readonly }

func TestPreflight(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	const (
		warn4 = "this host does not forward IPv4 packets, so that endpoints elsewhere cannot be reached; run: sysctl -w net.ipv4.ip_forward=1 (or start with --set-sysctls)"
		warn6 = "this host does not forward IPv6 packets, so that endpoints elsewhere cannot be reached; run: sysctl -w net.ipv6.conf.all.forwarding=1 (or start with --set-sysctls)" +
			"; where the host learns its routes from router advertisements, set accept_ra=2 on that interface, too"
		path4, path6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
	)
	tests := map[string]struct {
		addresses []netip.Addr
		before    map[string]string
		set       bool
		readonly  bool
		warnings  []string
		err       string
		after     map[string]string
	}{
		"on":              {[]netip.Addr{v4, v6}, map[string]string{path4: "1", path6: "1"}, false, false, nil, "", nil},
		"off":             {[]netip.Addr{v4, v6}, map[string]string{path4: "0", path6: "0"}, false, false, []string{warn4, warn6}, "", nil},
		"family not used": {[]netip.Addr{v4}, map[string]string{path4: "1", path6: "0"}, false, false, nil, "", nil},
		"no address yet":  {nil, map[string]string{path4: "1", path6: "0"}, false, false, []string{warn6}, "", nil},
		"set":             {[]netip.Addr{v4, v6}, map[string]string{path4: "0", path6: "1"}, true, false, nil, "", map[string]string{path4: "1", path6: "1"}},
		"off, not ours to set": {
			[]netip.Addr{v4},
			map[string]string{path4: "0"},
			false, true,
			[]string{strings.TrimSuffix(warn4, " (or start with --set-sysctls)")},
			"", nil,
		},
		"cannot set": {
			[]netip.Addr{v4},
			map[string]string{path4: "0"},
			true, true,
			[]string{"this host does not forward IPv4 packets, so that endpoints elsewhere cannot be reached, and --set-sysctls does not help here (permission denied); run: sysctl -w net.ipv4.ip_forward=1"},
			"set net.ipv4.ip_forward=1: permission denied; run as root, or set it yourself and leave --set-sysctls out", nil,
		},
		"no such setting": {
			[]netip.Addr{v6},
			map[string]string{},
			false, false,
			[]string{"cannot tell whether this host forwards IPv6 packets: file does not exist"},
			"", nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &fakeSysctls{values: map[string]string{}, readonly: test.readonly}
			for k, v := range test.before {
				s.values[k] = v
			}
			warnings, err := preflight(s, test.addresses, test.set)
			if diff := cmp.Diff(test.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("error %v, want %q", err, test.err)
			}
			want := test.after
			if want == nil {
				want = test.before
			}
			if diff := cmp.Diff(want, s.values); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUsableAddress(t *testing.T) {
	addr := func(text string, scope, flags int) netlink.Addr {
		return netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(text)}, Scope: scope, Flags: flags}
	}
	tests := map[string]struct {
		addr netlink.Addr
		want bool
	}{
		"IPv4":              {addr("192.0.2.1", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_PERMANENT), true},
		"secondary IPv4":    {addr("192.0.2.2", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_SECONDARY), true},
		"private IPv4":      {addr("10.0.0.1", unix.RT_SCOPE_UNIVERSE, 0), true},
		"IPv6":              {addr("2001:db8::1", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_PERMANENT), true},
		"temporary IPv6":    {addr("2001:db8::2", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_TEMPORARY), false},
		"tentative IPv6":    {addr("2001:db8::3", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_TENTATIVE), false},
		"duplicate IPv6":    {addr("2001:db8::4", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_DADFAILED), false},
		"deprecated IPv6":   {addr("2001:db8::5", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_DEPRECATED), false},
		"loopback":          {addr("127.0.0.1", unix.RT_SCOPE_HOST, 0), false},
		"global loopback":   {addr("127.0.0.2", unix.RT_SCOPE_UNIVERSE, 0), false},
		"link-local":        {addr("fe80::1", unix.RT_SCOPE_LINK, 0), false},
		"global link-local": {addr("169.254.0.1", unix.RT_SCOPE_UNIVERSE, 0), false},
		"nothing":           {netlink.Addr{}, false},
	}
	for name, test := range tests {
		if _, got := usableAddress(test.addr); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestHostAddresses(t *testing.T) {
	addresses, err := hostAddresses()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("no rtnetlink")
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range addresses {
		if a.IsLoopback() || a.IsLinkLocalUnicast() || i > 0 && a.Compare(addresses[i-1]) <= 0 {
			t.Errorf("addresses %v", addresses)
		}
	}
}
