package iptables

import (
	"fmt"
	"slices"
)

// semantics is what iptables cannot do, whatever the kernel.
var semantics = []string{
	"iptables draws for every packet before a UDP flow is known: of two first datagrams of one flow that race, one may be dropped; cure: nftables",
	"iptables has a hash of its own: with session affinity, a client goes to another endpoint by this node than by nodes with nftables; cure: the same backend on all nodes",
	"iptables hashes no more than the first 32 bits of an IPv6 address: with session affinity, all clients of one /32 go to the same endpoint; cure: nftables",
}

// What the rules do without where it is missing, see ability.
const (
	noHash     = "the kernel or iptables has no hash (xt_cluster): with session affinity, clients do not stay with their endpoint; cure: CONFIG_NETFILTER_XT_MATCH_CLUSTER, or nftables"
	noRedirect = "the kernel or iptables has no redirection (xt_REDIRECT): an address from a pool does not answer pings; cure: CONFIG_NETFILTER_XT_TARGET_REDIRECT, or nftables"
	noLocal    = "the kernel or iptables has no address types (xt_addrtype): where an interface of this node has an address from a pool, what listens there is not reached; cure: CONFIG_NETFILTER_XT_MATCH_ADDRTYPE, or nftables"
)

// manyListeners is the number from which a warning is due, and listenerCost is what the
// warning says, measured by BenchmarkProgram with iptables 1.8.9 on Linux 6.18.
const (
	manyListeners = 1000
	listenerCost  = "any change takes 0.15 s (variant nft) or 0.07 s (legacy) at 1 000 of them, and 1.2 s or 0.75 s at 10 000, which take 6 s or 2 s to load, also when others flushed them"
)

// Limitations says, a sentence each, what does not work as it should with iptables or on
// this node, and the cure. Beyond manyListeners Frontends in the last State it warns of
// what they cost.
func (p *Programmer) Limitations() []string {
	out := slices.Clone(p.limits)
	if p.state != nil && p.state.Len() > manyListeners {
		out = append(out, fmt.Sprintf("%d listeners with iptables: %s; cure: nftables", p.state.Len(), listenerCost))
	}
	return out
}
