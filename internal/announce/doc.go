// Package announce answers for addresses together with the other nodes of a cluster, so
// that for each address one node does, and another when that one is gone.
//
//	Set ──► ready? interfaces? ──► course.decide ──► layer2: answer, announce, probe
//	        records of members ──►      │       └──► members: the own record
//	        what layer 2 has found ──►  └──► Owners, Changes
//
// One decision is taken from what is known at one time (course, without clock or
// network), whenever something has changed. The design, its alternatives and its failure
// modes are in docs/design/0007-layer2.md.
//
// # An address changes hands
//
//	the owner            how                                             others wait
//	is lost              silent, and silent to ARP as well (doubt)       0.8 to 1.8 s, and 0.15 s
//	leaves, is drained,  says so; stops when it hears that the next      0
//	  is not ready         one answers; who is drained goes on where
//	                       no other is ready
//	lost a split         stops when it hears of the older claim          0
//	was none             after 0.5 s, and a probe of 0.5 s               1 s
//	has a conflict       goes on owning it, silent                       until it is over
//
// What this package does not do: it does not know what a pool or a Gateway is, nor whether a
// node should take part; its caller says what this node may own. It moves nothing
// for the sake of balance.
//
// # Invariants
//
//   - After a cold start no node owns more than 1.25 × mean + 1, whether all begin together
//     or not, and whoever waits for others does so for a bounded time (TestColdStart).
//   - An owner that is killed is replaced, its addresses move in the caches of neighbours,
//     no other address moves, and none moves back (TestFailover, TestOwnerDiesAndComesBack).
//   - Whoever leaves stops only when others answer (TestGracefulLeave, TestDrain), and when
//     all are drained they own what they would otherwise (TestAllDrained).
//   - A cluster that was split ends with one owner of each address, the one before the
//     split, and says so once (TestSplitBrainHeals, TestSplitBrain, TestCutOffRestart).
//   - A member that is silent but answers its neighbours keeps its addresses, for as long
//     as it does (TestSilentMember).
//   - Only who is ready owns an address; when nobody is, nobody answers (TestLocalEndpoint,
//     TestNotReady, TestSomeReady).
//   - An address that a stranger has is reported once and announced by nobody until he is
//     gone (TestStranger, TestConflict).
//   - Only members that are missing for longer than a restart takes are named (TestAbsent).
package announce
