// Package iptables programs a rules.State for nodes without nf_tables, or whose rules are
// all iptables'. It forwards what package rules/nftables forwards, with the differences
// that Limitations names, and slower: its cost is that of the whole State.
//
//	nat PREROUTING ──┐ jump, first
//	nat OUTPUT ──────┴─ PORTWAY-SERVICES   one rule for 256 ports of an address, and behind
//	                        │              those one for 256 addresses if any is exclusive;
//	                        │              none: not ours, returns
//	                        ├─ jump PORTWAY-AT-<hash of the ports>, one rule a listener: goto
//	                        │  PORTWAY-<hash of the listener>
//	                        │     ├─ conntrack mark |= bit
//	                        │     ├─ refused share, drawn: goto PORTWAY-REFUSE ─ packet mark |= bit, accept
//	                        │     ├─ endpoints on this node, each drawn: DNAT
//	                        │     ├─ packet mark |= bit
//	                        │     └─ endpoints elsewhere, each drawn but for the last: DNAT
//	                        └─ goto PORTWAY-EX-<hash of the addresses>, one rule an address: goto
//	                           PORTWAY-EXCLUSIVE
//	                              ├─ an interface of the node has it: returns
//	                              ├─ ICMP echo request: REDIRECT
//	                              └─ accept, for filter to refuse
//
//	nat POSTROUTING ─ PORTWAY-POSTROUTING  only flows with our bit that were translated
//	                        ├─ with the packet mark: masquerade (the endpoint is elsewhere)
//	                        └─ PORTWAY-HAIRPIN  client and endpoint are one: masquerade
//
//	filter INPUT ────┐
//	filter FORWARD ──┼─ PORTWAY-FILTER
//	filter OUTPUT ───┘      ├─ with the packet mark, not translated: PORTWAY-REFUSE
//	                        │            TCP: reset; UDP: drop
//	                        └─ not ESTABLISHED: PORTWAY-UNESTABLISHED
//	                                     ├─ INVALID: PORTWAY-INVALID  from an endpoint: drop
//	                                     └─ PORTWAY-EXCLUSIVE ─ PORTWAY-EX-<hash>  as in nat
//	                                            └─ PORTWAY-UNOWNED  an interface has it: returns
//	                                               INVALID: drop; TCP: reset; UDP: port unreachable; else: drop
//
// Shares need no slots: each rule of a listener's chain takes its part of what those
// before it left over, as a multiple of 2⁻³¹ (xt_statistic), so that a share is within
// 2⁻³² for each rule before it of exact, and a weight above 0 never gets nothing.
// A listener with client affinity has the slots of its rules.Layout instead, and leads to
// them by three digits of a hash of the client's address, through 1 + 16 + 256 chains. Of an
// IPv6 address xt_cluster hashes the first 32 bits only (it divides NF_CT_TUPLE_L3SIZE, which
// counts words, by their size; Linux 6.18): all clients of one /32 go to one endpoint.
//
// nat cannot refuse (REJECT and DROP are not for that table); therefore the packet is
// marked there and refused in filter. The same bit of the packet mark says that a flow is
// to be masqueraded, as a packet that is translated is not refused: of all that may copy or
// set that bit, only the first packet of a flow of ours counts.
//
// What the package does not do: it decides nothing, deletes no conntrack entries, sets no
// sysctl, makes no place for our flows in others' filters, and touches no chain but its
// own, the built-in chains' jumps to them, and rules that lead to a chain of ours that
// goes. It does not use ipset or mangle. It does not watch the kernel: somebody has to ask
// Disturbed, which looks.
//
// A new flow of anybody passes one rule for each neighbourhood of exclusive addresses in nat,
// and so does each packet of a flow that nobody answers in filter. ACCEPT keeps rules behind
// us in the same table from translating what is to be refused, but not the nf_tables chains
// of others.
//
// # Order and atomicity
//
// The kernel takes a table at once, in both variants, and a packet meets one generation
// of it. An update is one iptables-restore --noflush a family: what listeners rely on in
// filter, then all of nat, then the rules for exclusive addresses and what nothing leads to
// any more. Jumps from built-in chains come last; one that others have put rules in front
// of is moved there again at once.
//
// # What is known of the kernel
//
// Every Program reads our chains, two iptables-save a family, and writes what differs; so
// restarts, failures and strangers' changes take the same path. A chain with an order is
// known by a hash of its rules in the comment of the first one, and by its length, because
// versions of iptables print rules differently; the rules of PORTWAY-SERVICES, -AT-, -HAIRPIN,
// -INVALID, -EX- and -EXCLUSIVE in filter, which have no order, come and go one by one. Those of
// PORTWAY-SERVICES for listeners are inserted in front, those for exclusive addresses
// appended; that others moved one of these is not noticed. How a chain with an order is
// printed is learned when it is first read after it was written: a rule that others replaced
// before that, or before a restart, is not noticed.
//
// To read 1000 listeners takes 0.1 s. Disturbed therefore tells whether to: by the
// generation of nf_tables, or the size of the tables of xtables, and where that moved, as it
// does with every change of anybody, by the handles of our chains and the number of rules in
// them and in the built-in ones. No program is run for that. It takes 0.3 ms of a core
// for both families when nobody changed rules; when somebody did, 1 ms with 100 listeners, 4 ms
// (variant nft) or 9 ms (legacy) with 1000, and 50 or 85 ms with 10 000. It says so, too, after
// a Program of ours that left other numbers, until one has read them: nobody else may have
// come between.
//
// With nf_tables, iptables cannot read a table nat or filter of family ip that others
// wrote to with nft (it calls that incompatible): then nothing is programmed.
//
// # Invariants
//
//   - What iptables-save prints is the same in both variants (TestGolden).
//   - The same State again writes nothing (TestTwiceIsNothing), nor does a restart
//     (TestRestartTouchesNothing); another one writes the difference
//     (TestTouchesOnlyTheDifference), in as many commands whatever its size
//     (TestCommandsDoNotGrow).
//   - However a State was reached, the kernel holds what a cold load would make
//     (TestRandomStatesEndAsAColdLoad).
//   - Every outcome has the share that State.Match demands (TestEveryShareIsExact), and
//     the kernel draws it (TestKernelDrawsTheShares), with each selection, protocol and
//     family (TestKernelDoesAsTheInterpreterSays).
//   - What is refused gets a reset or no answer, without ICMP (TestAllIsRefused).
//   - An endpoint sees the client, unless it is elsewhere or the client itself
//     (TestMasquerade).
//   - No update and no restart refuses a connection (TestUpdatesRefuseNothing), nor does
//     the upgrade from a release without exclusive addresses (TestUpgradeRefusesNothing).
//   - What nobody serves of an exclusive address is refused, in whatever state conntrack
//     has it (TestEveryShareIsExact, TestLatePacketsToExclusiveAddresses), but its listeners
//     come first (TestListenersComeFirst). A partial State takes no address away that it does
//     not know (TestPartialStateKeepsExclusive), what others did is mended
//     (TestExclusiveIsHealed), and one that cannot be exclusive keeps nothing else
//     (TestMisfitIsTold). Without REDIRECT or address types all else works
//     (TestWithoutWhatExclusiveLikes).
//   - What others flush, delete, add or put in front of our jumps is mended, and a look
//     tells that it has to be (TestStrangersFlushIsHealed); so is a rule that they replaced
//     (TestReplacedRuleIsMended). What they do to rules of their own is no disturbance
//     (TestDisturbedIsWhatConcernsUs), nor is a failure of ours (TestFailureIsNoDisturbance).
//   - A mark that they set refuses nothing (TestMarkOfOthersRefusesNothing).
//   - A Frontend that cannot be programmed keeps no other (TestRefusedFrontendBlocksNoOther)
//     and its own rules (TestInvalidFrontendKeepsItsRules), a failure is told and mended
//     (TestFailureIsToldAndMended), also that of a deletion (TestUndeletableChainIsTold),
//     and a partial State sweeps nothing that it does not know
//     (TestPartialStateKeepsTheUnknown) and after a restart refuses nothing that works
//     (TestPartialStateKeepsWhatWorks).
//   - The node's variant is found (TestDetect); what is left in the other one goes
//     (TestOtherVariantIsSwept).
//   - Cleanup removes ours only, and to probe leaves nothing (TestCleanupLeavesOthersAlone).
//     It ends no connection where others' rules need conntrack, as kube-proxy's do
//     (TestCleanupKeepsWhatIsEstablished).
//   - Without the commands or the kernel's features New says what is missing
//     (TestUnableSaysWhatIsMissing), and without the right to use them, or the lock of
//     iptables-legacy, that (TestMissingRightIsTold, TestLockIsTold).
//   - A client stays with its endpoint (TestClientsStay).
//   - A change of backends under traffic refuses nothing and leaves nothing behind
//     (TestSwitchOfBackendsRefusesNothing).
//   - What Render says is what the kernel holds (TestRender).
package iptables
