// Package controller is the program that tells what the nodes have proven: it
// lets the core decide, assigns addresses of nodes and pools, compares what the nodes report
// with the decision and writes the statuses that differ.
//
//	Next ─► census ─► Resolve ─► assign ─► Build ─► prover ─► Statuses ─► lags ─► plan ─► writer ─► API
//	        who       who may    who has   (when    what is   what is     1 s     what
//	        counts    have what  what      it must) proven    true        slack   differs
//
// A Gateway in mode LoadBalancer also gets a Service, which topology says the content of.
// Beside reading, finalizers and statuses, that is all it needs rights for: to get, create,
// patch and delete Services of its own namespace.
//
// It programs nothing and no traffic depends on it: without a controller, rules
// stand and endpoints are followed, only statuses grow old. Every replica runs
// the same passes; only the leader writes and gives addresses of pools, so that a
// take-over costs one quorum read of the Gateways and one pass.
//
// Invariants, each with the test that fails when it breaks:
//
//   - A second pass over what the first one wrote writes nothing
//     (TestSecondPassWritesNothing).
//   - What it wrote comes back and is evaluated after a rest only, so that it has time to write: a
//     status that somebody else changed is put right two seconds later at most, beside what an
//     evaluation takes; nothing else waits (TestOwnWritesLeaveTimeToWrite).
//   - Conditions and status.parents entries of others stay as they are
//     (TestForeignConditionsStay, TestForeignParentsStay).
//   - lastTransitionTime moves with the status and with nothing else
//     (TestTransitionTimeMovesWithStatus).
//   - A status decided for one generation is not written over another
//     (TestConflictWithNewGenerationIsLeftToTheNextPass).
//   - Whatever a controller left half written, the next one completes
//     (TestNextControllerCompletes).
//   - Clocks of nodes do not matter: only renewals that were seen count
//     (TestCensusIgnoresRemoteClocks).
//   - Programmed is True without proof for at most Config.LagTolerance. For that time
//     its observedGeneration is the one it was proven of, while all other conditions
//     carry the new one: who waits for both, as the API asks, is not told too early
//     (TestLagHoldsTrueForItsToleranceOnly).
//   - What was not seen while the API server was out of reach silences nobody
//     (TestOutageSilencesNobody).
//   - A controller that starts knows no less than the one before: it counts every
//     node and publishes no address that was withdrawn (TestRestartCountsEveryNode,
//     TestRestartPublishesNoSilentNode).
//   - A published address is one that the node's agent serves (TestAddresses).
//   - An address stays while its node is eligible (TestAddressesDoNotChurn), and
//     those that are published are of the nodes, the family and the type that the
//     parameters name (TestAddressesByParameters).
//   - Whatever becomes of a pool or of parameters, a Gateway stays where it is and says
//     so (TestPoolStatuses); a pool forgets no address because Gateways could not be
//     read (TestPoolsForgetNothingWithoutGateways).
//   - No address of a pool is given twice, whoever leads and however late it sees what
//     happened; who has one keeps it; only a leader gives any, and a plan is only written
//     in the term that it was made in (TestNoAddressTwice, TestNewLeaderKnowsWhatWasGiven,
//     TestOnlyLeadersAllocate, TestPlansAreOfOneTerm).
//   - The oldest Gateway gets the lowest free address of the first pool; what is asked for
//     by value is honoured or it is said why not; the same label shares one
//     (TestAllocateLowestFree, TestAllocateRequested, TestAllocateShared).
//   - A pool that is deleted goes with the last Gateway that has an address of it
//     (TestPoolIsHeldWhileInUse).
//   - What nodes found is in the statuses of whom it concerns (TestFindingsReachStatuses).
//   - A Service is as its Gateway wants it, and beyond that as others do
//     (TestServiceIsKeptInStep); one that is not ours is never touched
//     (TestForeignServiceIsNotTouched).
//   - A Service goes only when it was seen without its Gateway for a while, never for want
//     of knowledge (TestServiceGoesWithItsGateway, TestOrphansRipenInSightOnly).
//   - A follower writes nothing (TestHandOver).
package controller
