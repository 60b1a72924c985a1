// Package topology is the one decision of this project: which routes attach to
// which listeners, what is wrong with what, which addresses and ports a node
// serves and where each new flow goes. Controller, agent and CLI call it;
// nobody else decides anything.
//
//	Snapshot ──Build──► Graph ──Statuses(Reports)──► Statuses
//	                      │
//	                      └──Forwarder (node, EndpointSlices)──► rules.State
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
//   - No status outgrows the API's limits, whatever a YAML file holds
//     (TestMoreThanTheAPIAllows, TestLongErrorsAreCut).
//
// Where the Gateway API leaves a choice:
//
//   - Listeners of a Gateway or ListenerSet that is not accepted are not accepted
//     either (reason Invalid). Routes attach to them all the same, and count.
//   - A Gateway of a class of ours that is not accepted is not accepted (reason
//     Invalid). A change to a class therefore reaches its existing Gateways.
//   - A route to a ListenerSet that its Gateway does not admit has no matching
//     parent.
//   - In node mode, a port that is also a Service's NodePort belongs to the older of
//     Gateway and Service; the listener that has it all the same is told.
//   - A port lost to an older Gateway is PortUnavailable; a port lost inside a
//     Gateway and its ListenerSets is a ProtocolConflict.
package topology
