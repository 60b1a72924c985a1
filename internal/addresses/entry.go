package addresses

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// EntryError is what is wrong with one entry of a list.
type EntryError struct {
	Index int
	Err   error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %d: %v", e.Index, e.Err) }

func (e *EntryError) Unwrap() error { return e.Err }

// reserved are blocks whose addresses nobody can be reached at from elsewhere.
var reserved = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "addresses of no host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback addresses"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local addresses"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast addresses"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast address"},
	{netip.MustParsePrefix("::/128"), "the unspecified address"},
	{netip.MustParsePrefix("::1/128"), "the loopback address"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped addresses"},
	{netip.MustParsePrefix("fe80::/10"), "link-local addresses"},
	{netip.MustParsePrefix("ff00::/8"), "multicast addresses"},
}

// ParseRange reads a CIDR, a range "first-last" or an address. The error says what
// would be right.
func ParseRange(text string) (netipx.IPRange, error) {
	r, err := parse(text)
	if err != nil {
		return r, err
	}
	for _, block := range reserved {
		if r.Overlaps(netipx.RangeOfPrefix(block.prefix)) {
			return netipx.IPRange{}, fmt.Errorf("%q has %s (%s), which nobody can be reached at; leave them out", text, block.what, block.prefix)
		}
	}
	return r, nil
}

func parse(text string) (r netipx.IPRange, err error) {
	if from, to, isRange := strings.Cut(text, "-"); isRange {
		first, err1 := parseAddr(from)
		last, err2 := parseAddr(to)
		switch {
		case err1 != nil || err2 != nil:
			return r, notARange(text)
		case first.Is4() != last.Is4():
			return r, fmt.Errorf("%q must begin and end with addresses of the same family", text)
		case last.Less(first):
			return r, fmt.Errorf("%q must not end before it begins; write %s-%s", text, last, first)
		}
		return netipx.IPRangeFrom(first, last), nil
	}
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		switch {
		case err != nil || prefix.Addr().Is4In6():
			return r, notARange(text)
		case prefix != prefix.Masked():
			return r, fmt.Errorf("%q must be the first address of the network; write %s, or %s for the one address", text, prefix.Masked(), prefix.Addr())
		}
		return netipx.RangeOfPrefix(prefix), nil
	}
	addr, err := parseAddr(text)
	if err != nil {
		return r, notARange(text)
	}
	return netipx.IPRangeFrom(addr, addr), nil
}

func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err == nil && (addr.Zone() != "" || addr.Is4In6()) {
		return addr, fmt.Errorf("%q has a zone or is IPv4-mapped", text)
	}
	return addr, err
}

func notARange(text string) error {
	return fmt.Errorf("%q must be a CIDR, a range or an address, such as 192.0.2.0/24, 192.0.2.10-192.0.2.20 or 2001:db8::1", text)
}
