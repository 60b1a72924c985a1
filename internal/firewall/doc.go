// Package firewall lets flows that our rules sent on pass the firewalls of others on
// the node, where it may, and names what stops them where it may not.
//
// An accept in one table does not undo a drop in another. Therefore there are two kinds
// of rules of others:
//
//	iptables, legacy and nft     one chain of our own, and one jump to it:
//	  table filter, FORWARD        DOCKER-USER or FORWARD ── -j PORTWAY-FORWARD
//	                               PORTWAY-FORWARD ── -m connmark --mark BIT/BIT -m conntrack --ctstate DNAT -j ACCEPT
//	everything else              a Finding: table, chain, rule and the command that cures
//	  tables of nf_tables,
//	  INPUT and OUTPUT
//
// The chain is there as long as some flow of ours may end in FORWARD without it, and
// only then. The jump stands as late as it helps: what enforces NetworkPolicies or
// blocks clients drops on purpose, and stays in force. INPUT and OUTPUT guard the node itself: to open them is for its owner.
//
// What a rule does is not tried but read: our packets, of which little is known (family,
// protocol, state, that they are translated and carry our bit, where they go), are led
// through the chains. A rule that asks something else may match or not; hence "drops"
// and "may drop". A rule that of what is unknown asks for the client's address only
// stops those whom somebody wants stopped, and is no finding. What is not followed:
// named sets and verdict maps, whose content changes without the rules; answers, which
// pass where what they answer does; families bridge, netdev and arp; hooks other than
// forward, input and output, but for who overwrites the conntrack mark.
//
// Host finds what is in the way besides rules, see there.
//
// # Cost
//
// Every commit to nf_tables moves its generation, our own commits included; when it has
// moved, the handles of rules tell whether any that count are others. iptables-legacy
// has no generation: its tables are read, as the kernel has them, with one system call.
// A program is run only for tables that changed. On one core of the build machine, with
// Docker's rules: 0.05 to 0.2 ms when nothing changed (legacy with 2000 rules 1.1 ms),
// 0.2 to 0.8 ms after a commit elsewhere (12 to 25 ms with 2000 rules in table filter
// of iptables-nft), 3 to 45 ms when such tables changed. Called once a second, that is
// 0.02 % of a core at rest, and a reload is healed within that second.
//
// # Invariants
//
//   - Our flows pass a FORWARD that drops, and nobody else's do
//     (TestPassesAForwardPolicyOfDrop). After a flush or restore they do again with the
//     next Ensure (the same, TestRestoreIsHealed, TestPolicyAloneIsNoticed).
//   - Where FORWARD accepts, nothing is added (TestPolicyAloneIsNoticed), and nobody's
//     table is made by looking (TestAsksForNoTableThatIsNotThere).
//   - Remove leaves others as they were, byte by byte (TestPassesAForwardPolicyOfDrop).
//   - Docker's order is kept, and NetworkPolicies stay in force
//     (TestStandsInDockersChain, TestStandsBehindNetworkPolicies), and blocked clients
//     blocked (TestBlockedClientsStayBlocked).
//   - Who drops is named, the command named helps, and then the finding is gone
//     (TestForeignDropIsNamedAndCured, TestInputIsNamedAndCured,
//     TestTableThatIPTablesRefuses, TestWithoutTools).
//   - What is counted of our flows while they change is what a fresh count finds
//     (TestCensusEndsWhereAFreshOneEnds).
//   - What harms no flow is no finding (TestHarmlessRulesAreNoFinding,
//     TestIPTablesRules).
//   - Who destroys or forges our bit is named (TestMarkDestroyersAreNamed).
//   - Findings do not change with traffic, and fit (TestFindingsAreStable).
//   - Whose port a listener takes is named, in every way there is to publish one, and no
//     table is made by looking (TestPortInUse, TestHostPortIsNamed). At addresses
//     that the host does not have, nobody else did (TestPoolAddressIsNotInUse).
package firewall
