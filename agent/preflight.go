package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// sysctls gives access to kernel settings by their path below /proc/sys.
type sysctls interface {
	Read(path string) ([]byte, error)
	Write(path string, value []byte) error
}

// forwarding is the setting that lets a node pass on packets of a family.
type forwarding struct {
	family string
	path   string
	note   string
}

var (
	forwardIPv4 = forwarding{family: "IPv4", path: "net/ipv4/ip_forward"}
	forwardIPv6 = forwarding{
		family: "IPv6", path: "net/ipv6/conf/all/forwarding",
		// ip-sysctl.rst, accept_ra: forwarding turns router advertisements off.
		note: "; where the host learns its routes from router advertisements, set accept_ra=2 on that interface, too",
	}
)

// preflight looks at what the rules need but do not bring along. It returns
// warnings, each with the command that helps; with set it helps itself. Missing
// rights and kernel parts are found by opening the backend.
func preflight(s sysctls, addresses []netip.Addr, set bool) (warnings []string, err error) {
	for _, f := range forwardingFor(addresses) {
		value, err := s.Read(f.path)
		switch {
		case err != nil:
			warnings = append(warnings, fmt.Sprintf("cannot tell whether this host forwards %s packets: %v", f.family, err))
		case !bytes.Equal(bytes.TrimSpace(value), []byte("0")):
		case set:
			if err := s.Write(f.path, []byte("1")); err != nil {
				return warnings, fmt.Errorf("set %s=1: %w; run as root, or set it yourself and leave --set-sysctls out", f.name(), err)
			}
		default:
			warnings = append(warnings, fmt.Sprintf(
				"this host does not forward %s packets, so that endpoints elsewhere cannot be reached; run: sysctl -w %s=1 (or start with --set-sysctls)%s",
				f.family, f.name(), f.note))
		}
	}
	return warnings, nil
}

// forwardingFor returns the settings of the families in use; all of them while
// no address is known.
func forwardingFor(addresses []netip.Addr) []forwarding {
	var needed []forwarding
	if len(addresses) == 0 || slices.ContainsFunc(addresses, netip.Addr.Is4) {
		needed = append(needed, forwardIPv4)
	}
	if len(addresses) == 0 || slices.ContainsFunc(addresses, netip.Addr.Is6) {
		needed = append(needed, forwardIPv6)
	}
	return needed
}

// name is the setting as sysctl(8) names it.
func (f forwarding) name() string { return strings.ReplaceAll(f.path, "/", ".") }
