package iptables

import "fmt"

// The tables we use, and none other.
const (
	natTable    = "nat"
	filterTable = "filter"
)

var tableNames = [...]string{filterTable, natTable}

// jump is a rule of a built-in chain that leads to one of ours.
type jump struct{ table, from, to string }

func (j jump) rule() string { return "-j " + j.to }

// jumps in the order in which they are to be made: a packet that is to be refused is
// marked in nat and met by filter.
var jumps = [...]jump{
	{filterTable, "INPUT", filterChain},
	{filterTable, "FORWARD", filterChain},
	{filterTable, "OUTPUT", filterChain},
	{natTable, "POSTROUTING", postroutingChain},
	{natTable, "PREROUTING", servicesChain},
	{natTable, "OUTPUT", servicesChain},
}

// place is a chain of ours in a table.
type place struct{ table, chain string }

// bags are the chains without an order, whose rules come and go one by one, but for what
// exclusives tells of.
var bags = [...]place{
	{filterTable, exclusiveChain}, {filterTable, invalidChain}, {natTable, hairpinChain}, {natTable, servicesChain},
}

// ability is what a family has of what the rules can do without.
type ability struct {
	hash     bool // xt_cluster, which ClientHash needs
	redirect bool // xt_REDIRECT, which answers pings
	local    bool // xt_addrtype, which tells whether the node has an address
}

var everything = ability{hash: true, redirect: true, local: true}

// ordered returns the chains of a family that no State changes.
func ordered(c Config, able ability, ipv6 bool) map[place]chain {
	mark := func(bit uint32) string { return fmt.Sprintf("%#[1]x/%#[1]x", bit) }
	return map[place]chain{
		// Packets of established flows, which are nearly all, pay for this chain.
		{filterTable, filterChain}: hashed("portway",
			"-m mark --mark "+mark(c.PacketMark)+" -j "+refuseChain,
			"-m conntrack ! --ctstate ESTABLISHED -j "+unestablishedChain),
		{filterTable, unestablishedChain}: hashed("portway",
			"-m conntrack --ctstate INVALID -j "+invalidChain,
			"-j "+exclusiveChain),
		{filterTable, unownedChain}: hashed("portway: nobody serves this", unowned(able, ipv6)...),
		{natTable, exclusiveChain}:  hashed("portway: pings are answered, all else is refused in filter", exclusive(able, ipv6)...),
		// Only packets that our nat chains marked and did not translate: others may use
		// the bit, and an encapsulated packet keeps the mark of the inner one.
		{filterTable, refuseChain}: hashed("portway: refused, TCP with a reset",
			"-m connmark ! --mark "+mark(c.Mark)+" -j RETURN",
			"-m conntrack --ctstate DNAT -j RETURN",
			"-p tcp -j REJECT --reject-with tcp-reset",
			"-j DROP"),
		// Nobody refuses in nat (xt_REJECT and DROP are not for that table).
		{natTable, refuseChain}: hashed("portway: to be refused in filter",
			"-j MARK --set-xmark "+mark(c.PacketMark),
			"-j ACCEPT"),
		{natTable, postroutingChain}: hashed("portway: flows of ours only",
			"-m connmark ! --mark "+mark(c.Mark)+" -j RETURN",
			"-m conntrack ! --ctstate DNAT -j RETURN",
			"-m mark --mark "+mark(c.PacketMark)+" -j MASQUERADE --random-fully",
			"-j "+hairpinChain),
	}
}
