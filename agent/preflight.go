package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// sysctls gives access to kernel settings by their path below /proc/sys.
type sysctls interface {
	Read(path string) ([]byte, error)
	Write(path string, value []byte) error
	// Writable reports whether this process may write it.
	Writable(path string) bool
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
// warnings, each with the command that helps; with set it helps itself, and the
// error is why it could not. Missing rights and kernel parts are found by opening
// the backend.
func preflight(s sysctls, addresses []netip.Addr, set bool) (warnings []string, err error) {
	warn := func(f forwarding, why, option string) {
		warnings = append(warnings, fmt.Sprintf(
			"this host does not forward %s packets, so that endpoints elsewhere cannot be reached%s; run: sysctl -w %s=1%s%s",
			f.family, why, f.name(), option, f.note))
	}
	for _, f := range forwardingFor(addresses) {
		value, unread := s.Read(f.path)
		switch {
		case unread != nil:
			warnings = append(warnings, fmt.Sprintf("cannot tell whether this host forwards %s packets: %v", f.family, unread))
		case !bytes.Equal(bytes.TrimSpace(value), []byte("0")):
		case set:
			if failure := s.Write(f.path, []byte("1")); failure != nil {
				warn(f, fmt.Sprintf(", and --set-sysctls does not help here (%v)", failure), "")
				err = errors.Join(err, fmt.Errorf("set %s=1: %w; run as root, or set it yourself and leave --set-sysctls out", f.name(), failure))
			}
		case s.Writable(f.path):
			warn(f, "", " (or start with --set-sysctls)")
		default:
			warn(f, "", "")
		}
	}
	return warnings, err
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
