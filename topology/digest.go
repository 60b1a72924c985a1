package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"slices"
)

// digestVersion changes with the encoding below, and with any change of what
// nodes make of the same input, so that an agent of another release never
// proves by accident what it does not serve. What is appended, as node ports are, needs
// no other version: a release that does not know it has no such encoding.
const digestVersion = "1:"

// digestBytes of the hash are kept: a node's report names the digests of 5000
// Gateways in less than 128 KiB, and two configurations of one Gateway still
// differ but for one in 2⁷² cases.
const digestBytes = 9

// digest hashes everything the programming of a node follows from, but for
// endpoints and node addresses: assigned addresses, valid listeners, winners,
// their backendRefs with the policies of their Services, whose edits move no
// generation of a Gateway or route, and node ports, in mode LoadBalancer. The encoding is canonical: numbers are varints, strings
// and lists carry their length, listeners are sorted by protocol and port
// (unique among the valid ones), so that reordering a spec moves nothing.
func (g *Gateway) digest() string {
	if !g.Accepted {
		return ""
	}
	e := make(digestEncoder, 0, 1024)
	e.string(g.Key.String())
	e.bool(g.Assignment.NodeMode)
	e.addresses(g.digestAddresses())

	valid := make([]*Listener, 0, len(g.Listeners))
	for _, listener := range g.Listeners {
		if listener.Valid {
			valid = append(valid, listener)
		}
	}
	slices.SortFunc(valid, func(a, b *Listener) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	e.number(uint64(len(valid)))
	for _, listener := range valid {
		e.listener(listener)
	}
	if g.LoadBalancer != nil {
		e.nodePorts(g.LoadBalancer, valid)
	}
	sum := sha256.Sum256(e)
	return digestVersion + base64.RawURLEncoding.EncodeToString(sum[:digestBytes])
}

// digestAddresses leaves out the addresses of a Gateway in node mode that takes
// all nodes: nodes come and go, and each programs what it has.
func (g *Gateway) digestAddresses() []netip.Addr {
	if g.Assignment.NodeMode && !g.requestsAddresses() {
		return nil
	}
	addrs := slices.Clone(g.boundAddresses())
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

type digestEncoder []byte

func (e *digestEncoder) number(n uint64) { *e = binary.AppendUvarint(*e, n) }

func (e *digestEncoder) string(s string) {
	e.number(uint64(len(s)))
	*e = append(*e, s...)
}

func (e *digestEncoder) bool(b bool) {
	if b {
		e.number(1)
	} else {
		e.number(0)
	}
}

func (e *digestEncoder) addresses(addrs []netip.Addr) {
	e.number(uint64(len(addrs)))
	for _, addr := range addrs {
		e.string(addr.String())
	}
}

func (e *digestEncoder) nodePorts(lb *LoadBalancer, listeners []*Listener) {
	e.bool(lb.hasNodePorts(netip.IPv4Unspecified()))
	e.bool(lb.hasNodePorts(netip.IPv6Unspecified()))
	for _, l := range listeners {
		e.number(uint64(l.nodePort()))
	}
}

func (e *digestEncoder) listener(l *Listener) {
	e.string(string(l.Protocol))
	e.number(uint64(l.Port))
	e.string(string(l.Name))
	e.bool(l.Set != nil)
	if l.Set != nil {
		e.string(l.Set.Key.Namespace)
		e.string(l.Set.Key.Name)
	}
	e.bool(l.Winner != nil)
	if l.Winner != nil {
		e.route(l.Winner)
	}
}

func (e *digestEncoder) route(r *Route) {
	e.string(r.Key.Namespace)
	e.string(r.Key.Name)
	e.number(uint64(len(r.Backends)))
	for _, backend := range r.Backends {
		e.string(backend.Service.Namespace)
		e.string(backend.Service.Name)
		e.number(uint64(uint32(backend.Port)))
		e.string(backend.PortName)
		e.number(uint64(uint32(backend.Weight)))
		e.bool(backend.Valid)
		e.bool(backend.LocalOnly)
		e.bool(backend.ClientAffinity)
	}
}
