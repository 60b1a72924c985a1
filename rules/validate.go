package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Validate reports everything in the State that no backend could program. The
// decision never produces such a State; the check guards the kernel against a
// mistake there. The errors are joined, each names its Frontend or address.
func (s *State) Validate() error {
	var errs []error
	for _, key := range s.Keys() {
		if err := Validate(key, s.Frontend(key)); err != nil {
			errs = append(errs, err)
		}
	}
	for _, addr := range s.exclusive {
		errs = append(errs, ValidateExclusive(addr))
	}
	return errors.Join(errs...)
}

// Validate checks one Frontend under its key.
func Validate(key FrontendKey, f *Frontend) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("frontend %s (%s): "+format, append([]any{key, f.Owner.Gateway}, args...)...))
	}
	if !key.Addr.IsValid() || key.Addr.Is4In6() || key.Addr.Zone() != "" || key.Addr.IsUnspecified() {
		bad("address must be one plain IPv4 or IPv6 address")
	}
	if key.Protocol != TCP && key.Protocol != UDP {
		bad("protocol must be tcp or udp")
	}
	if key.Port == 0 {
		bad("port must be 1 to 65535")
	}
	if f.Select > ClientHash {
		bad("unknown %s", f.Select)
	}
	if len(f.Backends) > MaxBackends {
		bad("%d backends, at most %d", len(f.Backends), MaxBackends)
	}
	address := func(ref string, e netip.AddrPort) {
		switch addr := e.Addr(); {
		case !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified():
			bad("backend %s: endpoint %s is not one plain address", ref, e)
		case addr.Is4() != key.Addr.Is4():
			bad("backend %s: endpoint %s is of the other address family", ref, e)
		case e.Port() == 0:
			bad("backend %s: endpoint %s has no port", ref, e)
		}
	}
	for _, b := range f.Backends {
		if b.Weight > MaxWeight {
			bad("backend %s: weight %d, at most %d", b.Ref, b.Weight, MaxWeight)
		}
		for _, e := range b.Endpoints {
			address(b.Ref, e.Addr)
		}
		for _, e := range slices.Concat(b.Draining, b.Lingering) {
			address(b.Ref, e)
		}
	}
	return errors.Join(errs...)
}
