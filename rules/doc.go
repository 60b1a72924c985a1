// Package rules is the intermediate representation between the decision and
// the kernel: which address, protocol and port of this node is served, and how
// its new flows are shared out over endpoints.
//
//	topology.Forwarder ──► rules.State ──► rules/nftables  (element changes, batches)
//	                                  ├──► rules.Match     (what a packet must experience)
//	                                  └──► State.Keeps     (which flows may go on)
//
// The package decides nothing about the Gateway API and knows nothing about a
// kernel interface; it imports the standard library only. A State says what is
// wanted (intent), never how a backend expresses it.
//
// Invariants, each with the test that fails when it breaks:
//
//   - A State and everything it points to is immutable; States built from one
//     another share what did not change (TestStateApplySharesUntouchedShards).
//   - Changes visits exactly the Frontends that differ (TestChangesVisitsOnlyDifferences).
//   - Exclusive addresses stay through changes of Frontends, and equal ones are one object
//     (TestStateKeepsExclusive), whose changes are told (TestExclusiveChanges). What no Frontend takes of theirs is Unowned, and nothing
//     else is (TestMatchOfExclusive).
//   - A backendRef of weight > 0 never gets nothing, every share and the refused
//     share stay within MaxShareError of the exact value
//     (TestLayoutKeepsEveryShareWithinTheBound).
//   - A share that the Ladder can express exactly is exact
//     (TestLayoutIsExactWhereTheLadderHoldsTheDenominator).
//   - Endpoints of one backendRef get equal shares within one slot
//     (TestLayoutKeepsEveryShareWithinTheBound).
//   - New flows go to Endpoints only (TestLayoutIsOfEndpoints). What is established with
//     Draining ones goes on, and over TCP with Lingering ones, too (TestStateKeepsFlows).
//   - A Layout moves only the slots it must (TestLayoutIsStable). With ClientHash that is
//     the share of the endpoint and less than 2 % more, and the slots do not depend on the
//     past or on the order of endpoints (TestClientsStayWhenAnEndpointComesOrGoes,
//     TestClientTable).
package rules
