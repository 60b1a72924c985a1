// Package layout is the address plan of the lab. Every place is a network
// namespace, and all of them hang on one bridge in the lab's own:
//
//	machine   172.30.0.1     fd30::1      API server; routes to every pod
//	outside   172.30.0.2     fd30::2      a client that is no part of the cluster
//	node I    172.30.0.1I    fd30::1I     pods 10.244.I.0/24, fd24:0:0:I::/64
//
// Pods hang on their node by a veth of their own with a host route, nodes reach
// each other's pods by static routes (host-gw); there is no overlay and no NAT.
package layout

import (
	"fmt"
	"net/netip"
	"strings"
)

const (
	// MaxNodes is set by the last octet of the nodes' addresses.
	MaxNodes = 200

	// Bits4 is the length of the network of machine, outside and nodes.
	Bits4 = 24
	// Bits6 is that of the same in IPv6.
	Bits6 = 64

	servicesV4, servicesV6 = "10.96.0.0/16", "fd96::/112"
	podsV4, podsV6         = "10.244.0.0/16", "fd24::/48"
)

// Families are the address families of a lab.
type Families string

// What a lab may have.
const (
	IPv4 Families = "IPv4"
	IPv6 Families = "IPv6"
	Dual Families = "dual stack" // IPv4 first
)

// pick returns those of the two that are of the families.
func pick[T any](f Families, v4, v6 T) []T {
	switch f {
	case IPv6:
		return []T{v6}
	case Dual:
		return []T{v4, v6}
	default:
		return []T{v4}
	}
}

// Pair is the two addresses of one place.
type Pair struct{ V4, V6 netip.Addr }

// Machine is where the API server and the controllers are.
func Machine() Pair { return pair(1) }

// Outside is the client outside the cluster.
func Outside() Pair { return pair(2) }

// Node is node I, counted from 1.
func Node(i int) Pair { return pair(10 + i) }

// NodeName is the name of node I.
func NodeName(i int) string { return fmt.Sprintf("node%d", i) }

func pair(n int) Pair {
	return Pair{
		V4: netip.AddrFrom4([4]byte{172, 30, 0, byte(n)}),
		V6: netip.MustParseAddr(fmt.Sprintf("fd30::%d", n)),
	}
}

// List returns the addresses in use.
func (p Pair) List(f Families) []netip.Addr { return pick(f, p.V4, p.V6) }

// PodRanges are the pod addresses of node I.
func PodRanges(i int, f Families) []netip.Prefix {
	return pick(f, netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd24:0:0:%d::/64", i)))
}

// Pods is the value of --cluster-cidr.
func Pods(f Families) string { return strings.Join(pick(f, podsV4, podsV6), ",") }

// Services is the value of --service-cluster-ip-range.
func Services(f Families) string { return strings.Join(pick(f, servicesV4, servicesV6), ",") }

// DNS is the address that pods are told to ask for names. Nothing answers there unless
// somebody makes a Service that does.
func DNS(f Families) netip.Addr {
	addr := ServiceAddresses(f)[0]
	for range 9 {
		addr = addr.Next()
	}
	return addr
}

// ServiceAddresses are the first addresses of the service ranges, of which the Service
// "kubernetes" has that of the first family.
func ServiceAddresses(f Families) []netip.Addr {
	var first []netip.Addr
	for _, s := range pick(f, servicesV4, servicesV6) {
		first = append(first, netip.MustParsePrefix(s).Addr().Next())
	}
	return first
}
