package rules

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
)

// Protocol is an IP protocol number as in the IPv4 protocol and the last IPv6
// next-header field (IANA protocol numbers).
type Protocol uint8

// The protocols a Frontend can have.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String returns the protocol's name as nft prints it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	default:
		return fmt.Sprintf("protocol %d", uint8(p))
	}
}

// FrontendKey is what a packet is matched by: its destination before
// translation. Two Frontends never share a key.
type FrontendKey struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

// String formats the key as "192.0.2.1 tcp 8080".
func (k FrontendKey) String() string {
	return fmt.Sprintf("%s %s %d", k.Addr, k.Protocol, k.Port)
}

// Compare orders keys by address, protocol and port.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Port, o.Port))
}

// Selection says how a new flow picks its endpoint.
type Selection uint8

const (
	// Random draws for every new flow. Right for TCP: one SYN opens one flow.
	Random Selection = iota
	// FlowHash hashes source address and source port, so that two first packets
	// of one flow that race through the nat hook agree. Right for UDP.
	FlowHash
	// ClientHash hashes the source address alone: a client stays with its endpoint,
	// on every node, as long as that endpoint is one of the Frontend's (Service
	// sessionAffinity ClientIP).
	ClientHash
)

// String returns the name used in rule names and dumps.
func (s Selection) String() string {
	switch s {
	case Random:
		return "random"
	case FlowHash:
		return "flow-hash"
	case ClientHash:
		return "client-hash"
	default:
		return fmt.Sprintf("selection %d", uint8(s))
	}
}

// Owner names the API objects a Frontend was made from, for comments, logs and
// results. All names are "namespace/name" but the Listener's, which is the
// listener's own.
type Owner struct {
	Gateway  string // the Gateway whose digest covers this Frontend
	Listener string // listener name; "set-namespace/set-name/listener" for a ListenerSet's
	Route    string // the route that carries the traffic; empty when none is attached
}

// Frontend is one address, protocol and port and where its new flows go.
// Immutable once it is part of a State.
type Frontend struct {
	Owner  Owner
	Select Selection
	// Backends in the order of the route's backendRefs. None, or none with a
	// weight, means that every new flow is refused.
	Backends []Backend
}

// Backend is one backendRef with its share of the new flows.
type Backend struct {
	Ref string // "namespace/service"; for comments and dumps
	// Weight is relative to the other Backends, 0 … MaxWeight.
	Weight uint32
	// Endpoints share the Weight equally. Without endpoints this share of the
	// new flows is refused (Gateway API: "MUST actively reject").
	Endpoints []Endpoint
	// Draining are endpoints that get no new flow but may go on with those they have,
	// in order: they serve, but are terminating or not preferred on this node.
	Draining []netip.AddrPort
	// Lingering are addresses that the Service still lists although they do not serve,
	// in order: no new flow, and no UDP flow goes on, but established TCP connections do
	// until the pod is gone, and what conntrack finds invalid of them must not reach
	// clients.
	Lingering []netip.AddrPort
}

// Endpoint is one address a flow can be translated to.
type Endpoint struct {
	Addr  netip.AddrPort
	Name  string // the pod's name, or empty
	Local bool   // runs on this node, so replies pass it without masquerade
}

// Limits of the Gateway API (v1.6 BackendRef.weight, TCPRouteRule.backendRefs).
const (
	MaxWeight   = 1_000_000
	MaxBackends = 16
)

// shardCount bounds the work of one change: a State of 10 000 Frontends copies
// a map of about 40 of them. A power of two.
const shardCount = 256

// State is everything a node should forward. It is immutable: Apply makes a new
// State that shares all untouched Frontends and shards with the old one, so
// the cost of one change does not depend on the size of the State.
// The zero value forwards nothing. Safe for concurrent use.
type State struct {
	shards    [shardCount]map[FrontendKey]*Frontend
	length    int
	digests   map[string]string
	exclusive []netip.Addr // in order, each once
	partial   bool
}

// NewState makes a State from scratch. digests holds, per Gateway
// ("namespace/name"), the opaque digest of the configuration this State
// realises. Both maps are copied.
func NewState(frontends map[FrontendKey]*Frontend, digests map[string]string) *State {
	return new(State).Apply(frontends, digests)
}

// Apply returns the State with the given Frontends set, or removed where nil,
// and the given digests in place of the old ones; nil digests keep the old. It is
// complete.
func (s *State) Apply(changes map[FrontendKey]*Frontend, digests map[string]string) *State {
	next := *s
	next.partial = false
	if digests != nil {
		next.digests = maps.Clone(digests)
	}
	var owned [shardCount]bool
	for key, frontend := range changes {
		i := shardOf(key)
		if !owned[i] {
			owned[i] = true
			clone := make(map[FrontendKey]*Frontend, len(next.shards[i])+1)
			maps.Copy(clone, next.shards[i])
			next.shards[i] = clone
		}
		next.length -= len(next.shards[i])
		if frontend == nil {
			delete(next.shards[i], key)
		} else {
			next.shards[i][key] = frontend
		}
		next.length += len(next.shards[i])
	}
	return &next
}

// AsPartial returns the same State marked as one that is known to lack something:
// what its author could not read. A backend that finds Frontends in the kernel
// which no State of its process named keeps them until a State is complete again, and
// until the first complete one also those that a former process made and that the
// State has no endpoint for.
func (s *State) AsPartial() *State {
	partial := *s
	partial.partial = true
	return &partial
}

// Partial reports whether the State is known to lack something.
func (s *State) Partial() bool { return s.partial }

// Len returns the number of Frontends.
func (s *State) Len() int { return s.length }

// Frontend returns the Frontend of a key, nil when there is none.
func (s *State) Frontend(key FrontendKey) *Frontend { return s.shards[shardOf(key)][key] }

// Digests yields the digest of every Gateway, in no order.
func (s *State) Digests() iter.Seq2[string, string] { return maps.All(s.digests) }

// SameDigests reports whether two States have their digests from one and the same
// Apply, which is found out without comparing them. False proves nothing.
func SameDigests(a, b *State) bool {
	return a != nil && b != nil && SameMap(a.digests, b.digests)
}

// Digest returns a Gateway's digest, empty when the State does not know it.
func (s *State) Digest(gateway string) string { return s.digests[gateway] }

// All yields every Frontend in no order.
func (s *State) All() iter.Seq2[FrontendKey, *Frontend] {
	return func(yield func(FrontendKey, *Frontend) bool) {
		for i := range s.shards {
			for key, frontend := range s.shards[i] {
				if !yield(key, frontend) {
					return
				}
			}
		}
	}
}

// Keys returns all keys in order.
func (s *State) Keys() []FrontendKey {
	keys := make([]FrontendKey, 0, s.length)
	for key := range s.All() {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, FrontendKey.Compare)
	return keys
}

// Change is one Frontend that differs between two States. Old is nil for a new
// Frontend, New is nil for one that goes.
type Change struct {
	Key      FrontendKey
	Old, New *Frontend
}

// Changes returns the Frontends that differ by pointer between two States, in
// key order. A nil State is an empty one. Shared shards are passed over, so
// the cost follows the difference and not the size.
func Changes(from, to *State) []Change {
	if from == nil {
		from = &State{}
	}
	if to == nil {
		to = &State{}
	}
	var changes []Change
	for i := range to.shards {
		a, b := from.shards[i], to.shards[i]
		if SameMap(a, b) {
			continue
		}
		for key, old := range a {
			if now := b[key]; now != old {
				changes = append(changes, Change{Key: key, Old: old, New: now})
			}
		}
		for key, now := range b {
			if _, known := a[key]; !known {
				changes = append(changes, Change{Key: key, New: now})
			}
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return a.Key.Compare(b.Key) })
	return changes
}
