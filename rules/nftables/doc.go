// Package nftables programs a rules.State into one nf_tables table, over netlink.
//
//	              table inet portway
//
//	prerouting ──┐  nat, dstnat - 1: before kube-proxy, the first nat chain wins
//	output ──────┴─ nat, -101
//	     │ jump
//	  services ─── daddr . l4proto . dport  vmap @listeners4 / @listeners6
//	     │ goto                                                │ no element
//	     │                                          daddr @exclusive4 / @exclusive6
//	     │                                            │ goto       │ no element: not ours
//	     │                                        exclusive        ▼
//	     │          ICMP echo request: redirect ──────┤          accept
//	     │                                            └─ unowned
//	     │                                      an interface has daddr: return
//	     │                                      TCP: reset; UDP: port unreachable; else: drop
//	     ├─ random-N   slot = random mod N
//	     ├─ flow-N     slot = hash(saddr . sport) mod N
//	     ├─ client-N   slot = hash(saddr) mod N, N = rules.ClientSlots
//	     │     └─ ct mark |= bit, dnat to @slots4[daddr . l4proto . dport . slot]
//	     │                          └─ no such slot: goto refuse
//	     ├─ wide-…     the same where N > 32, with @wideslots4
//	     ├─ draw       random in @refused4: goto refuse; else vmap @drawn4 ─► flow-N, client-N
//	     └─ refuse     TCP: reset; UDP: drop
//
//	postrouting ─── nat, srcnat: only flows with our bit that were translated
//	     ├─ client and endpoint are one (@hairpin4)   masquerade
//	     ├─ endpoint on this node (@local4)           keep the client's address
//	     └─ endpoint elsewhere                        masquerade fully-random
//
//	filter-prerouting ──┐  filter: packets of no established flow
//	filter-output ──────┴─ goto unestablished
//	                         ├─ conntrack finds it invalid: jump invalid
//	                         │     └─ saddr . l4proto . sport in @endpoints4: drop
//	                         └─ daddr in @exclusive4: goto unowned, where what is invalid is dropped
//
// Rules are static and everything that changes is an element. There is a chain
// random-N and a chain flow-N for each rung N of rules.Ladder, shared by all
// listeners with N slots and made at start, so that no change of a State adds a
// rule or a chain. A backend's weight is its number of slots, and a share that is
// refused is slots without an element. A hash that met such a slot would refuse the
// same client for ever; therefore listeners that hash draw the refused share first and
// hash over full slots.
//
// What the package does not do: it decides nothing, deletes no conntrack entries
// (flows keep their endpoint until they end), sets no sysctl, and touches no table
// but its own. It does not watch the table: that others deleted it, or rules in it, is
// noticed by the next Program, whether or not that has something to commit, and by
// Disturbed, which looks, at next to no cost, whether there should be one. What they
// do to elements of a table that stays is not, as only a listing of all elements would
// tell (Linux 6.18 tells their number, older ones do not): what they removed comes
// back, and what they added goes, with the next restart, failure or change of rules.
//
// # Order and atomicity
//
// A commit takes effect at once for each lookup, but a packet makes several. In
// between it can only move to a newer generation, so it may have read the old
// listener and then read the new slots; the reverse cannot happen. An update is
// therefore one batch that adds and replaces slots and switches listeners, and a
// later one that deletes what only the old listeners led to. Until then old slots
// beyond the new count lead to endpoints that are still wanted. Where the socket
// buffers are too small for one batch, slots go first and switches behind them.
// A packet that stood still between two lookups for both commits could still find a
// slot gone and be refused; RCU's grace period would close that gap for 8 to 24 ms
// an update (membarrier(2), measured), which is not worth it.
//
// # What is known of the kernel
//
// A batch is proven by its acknowledgements, and nothing is read back in normal
// operation. The first Program of a process replaces the rules of those chains that
// are not as they should be, reads the elements back and then changes only what
// differs. Any failure has the next Program do the same. Frontends that no State of
// the process named go with the first State that is not partial, and until then those
// without an endpoint keep what a former process made of them. A table that
// somebody deleted or replaced is noticed by its handle, or by ENOENT, and made anew
// within the same Program. So are rules, by their fingerprints, which are read only
// when somebody else committed to the namespace, those of the ladder only by a
// Program that has nothing else to do: to read them takes longer than to commit.
//
// A map or set whose declaration changes gets a new name: the kernel refuses to
// change one, and the old is deleted as a leftover.
//
// # Invariants
//
//   - What nft lists is what Render says (TestGolden), for any State (TestRender), with
//     types, in both formats (TestListsInBothFormats).
//   - Every outcome has exactly the share that the Layout says, and that is within the
//     bounds of docs/design/0002 of what State.Match demands: from outside, to the node
//     itself and from it (TestEveryShareIsTheLayouts, TestNobodyGetsNothing), however the
//     State was reached (TestKernelListsWhatStatesDemand).
//   - Every element of a State is in the kernel, at any size (TestEveryElementArrives,
//     TestSmallBuffers, TestSizeIsNotTooSmall), encoded as google/nftables would
//     (TestEncodesAsTheLibrary).
//   - The same State again sends nothing (TestTwiceIsNothing), another one only the
//     difference (TestTouchesOnlyTheDifference).
//   - However a State was reached, the kernel holds what a cold load would make
//     (TestRandomStatesEndAsAColdLoad).
//   - No update refuses or misdirects a flow (TestUpdatesRefuseNothing,
//     TestPacketsInFlightFindAnEndpoint); nor does a restart, which keeps counters
//     (TestRestartRefusesNothingAndKeepsCounters) and touches nothing that is right
//     (TestRestartTouchesNothing).
//   - The kernel draws the shares that the Layout says (TestKernelDrawsTheShares,
//     TestKernelDrawsTheRefusedDatagrams), with each selection, protocol and family
//     (TestKernelDoesAsTheInterpreterSays).
//   - A failure at any batch is mended by the next Program (TestFaultAtAnyBatch),
//     lost acknowledgements are a failure and no refusal (TestLostAnswersAreNoticed,
//     TestSocketErrorIsNoRefusal), and a Frontend that cannot be programmed keeps no
//     other (TestRefusedFrontendBlocksNoOther).
//   - A partial State sweeps nothing it does not know (TestPartialStateKeepsTheUnknown), and
//     after a restart refuses nothing that works (TestPartialStateKeepsWhatWorks).
//   - A listing that the kernel tore by resizing a set is noticed and made again
//     (TestTornListingIsNoticed, TestTornListingIsReadAgain).
//   - What cannot be programmed after the table was read back works as before
//     (TestUnprogrammableFrontendKeepsItsMembers).
//   - A table that others deleted comes back (TestTableDeletedByAStranger), and so do
//     rules of it (TestRulesFlushedByAStranger). A look tells that they have to
//     (TestDisturbedIsWhatConcernsUs, TestDisturbedLeavesTheLadderToProgram). What they or a former version left in
//     ours goes (TestAdoptSweepsLeftovers, TestAdoptRepairsComments); a table of our
//     name that cannot be made ours is replaced (TestTableInTheWayIsReplaced).
//   - A client goes where its hash says, every time and on every node
//     (TestClientsGoWhereTheLayoutSays), but for the refused share, which is drawn
//     (TestClientsAreRefusedByDraw).
//   - What an endpoint sends and conntrack finds invalid goes nowhere, and what others
//     send passes (TestInvalidSegmentsOfEndpointsEndHere,
//     TestInvalidPacketsOfEndpointsAreDropped). So do flows that others translate or mark
//     (TestFlowsOfOthersAreNotMasqueraded).
//   - No address is exclusive before its listeners are there, whatever fails
//     (TestExclusiveComesAfterItsListeners), a partial State takes none away that it does
//     not know (TestPartialStateKeepsExclusive), and one that cannot be exclusive keeps
//     nothing else (TestMisfitIsTold). That nothing of theirs leaves the node is in
//     integration/netns (TestUnownedIsRefused, TestNothingLateLeaves).
//   - A table that a release without exclusive addresses made is upgraded without a
//     refused connection (TestUpgradeRefusesNothing), and so is one with a single map for all
//     slots (TestUpgradeToTwoMapsRefusesNothing).
//   - The mark is the configured one, in whatever chain (TestFlowsCarryTheConfiguredMark).
//   - What the kernel no longer holds is told once (TestResultsNameWhatIsRemoved).
//   - Without the kernel's features or the right to use them, New says in one
//     sentence what is missing (TestProbeSaysWhatIsMissing,
//     TestProbeNamesTheFeatureAndTheKernel), and tries it where it counts
//     (TestProbeTriesInTheHook). Without reject all else works (TestWithoutReject), and
//     without redirection or route lookups (TestWithoutWhatExclusiveLikes).
//   - Cleanup removes our table only (TestCleanupLeavesOthersAlone), and to probe the
//     kernel touches none (TestProbeLeavesOthersAlone) but what a killed probe left
//     (TestWhatAProbeLeftIsRemoved).
package nftables
