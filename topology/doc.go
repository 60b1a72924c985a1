// Package topology is the one decision of this project: which routes attach to
// which listeners, what is wrong with what, which addresses and ports a node
// serves and where each new flow goes. Controller, agent and CLI call it;
// nobody else decides anything.
//
//	Snapshot ──Resolve──► Resolution ──Build(Assignments)──► Graph ──Statuses(Reports)──► Statuses
//	                        │   ▲                              │
//	         who may have   ▼   │ who has                      └──Forwarder (node, EndpointSlices)──► rules.State
//	                  whoever assigns addresses
//
// The package is pure: no client, no logger, no clock, no random numbers. It
// does not write statuses, assign addresses or look at endpoints; it never
// fails, since whatever cannot be served is a condition on its object.
//
// What holds of every decision, and the test that says so:
//
//   - The same Snapshot gives the same bytes in every binary, whatever the order
//     of its maps (TestOrderDoesNotMatter), and is left as it was (FuzzBuild).
//   - Every reason there is has an example in testdata, and no other occurs
//     (TestEveryReasonHasAGolden).
//   - A listener that is not valid has no winner; a valid one is served by the
//     oldest of its attached routes; no port of a Gateway is served twice
//     (checkInvariants, in TestGolden and FuzzBuild).
//   - The digest moves with what nodes program and with nothing else
//     (TestDigestMoves); its encoding is a format (TestDigestEncodingIsStable).
//   - A Gateway gets no address that was not offered to it, whatever a tenant writes
//     (TestTenantTakesNothingThatIsNotOffered), and whatever becomes of pools and
//     parameters, it keeps the one that it has (TestNothingIsTakenAway). One is of a pool
//     only if it was given as such (TestRecordDecides).
//   - Nothing that a node needs itself is served at its addresses, in whatever mode
//     (TestNodesKeepTheirPorts), and all nodes serve the same one of two listeners that
//     meet at one place (TestOlderListenerWinsAtTheNode).
//   - Nodes agree on which of them an address may enter at whose traffic needs a local
//     endpoint (TestForwarderServes), and announce what is retained or not accepted, too
//     (TestAnnouncements).
//   - No port of a node is that of two listeners, be it a node port (checkNodes), and the
//     API server takes what a Service is to be like (checkServices, both in TestGolden
//     and FuzzBuild).
//   - An EndpointSlice of the topology differs where a Forwarder would tell, and nowhere
//     else (TestEndpointSliceEqual).
//   - No status outgrows the API's limits, whatever a YAML file holds
//     (TestMoreThanTheAPIAllows, TestLongErrorsAreCut).
//
// Where the Gateway API leaves a choice:
//
//   - Listeners of a Gateway or ListenerSet that is not accepted are not accepted
//     either (reason Invalid). Routes attach to them all the same, and count.
//   - A Gateway of a class of ours that is not accepted is not accepted (reason
//     Invalid), unless it has addresses: then it is served as before. So is one whose
//     own parameters are invalid, or that asks for an address of an unsupported type,
//     although that makes its Accepted False. Valid changes
//     to a class reach its existing Gateways, but move no address.
//   - A route to a ListenerSet that its Gateway does not admit has no matching
//     parent.
//   - In node mode, a port that is also a Service's NodePort belongs to the older of
//     Gateway and Service; the listener that has it all the same is told.
//   - A node port of a Gateway in mode LoadBalancer belongs to the older of two Gateways;
//     the younger one's listener gets another.
//   - A port lost to an older Gateway is PortUnavailable; a port lost inside a
//     Gateway and its ListenerSets is a ProtocolConflict.
package topology
