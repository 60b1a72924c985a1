// Package agent is the program that runs on a node: it takes API objects, lets
// the core decide and keeps the node's kernel equal to the decision.
//
//	Store.Next ─► topology.Build ─► Forwarder.State ─► programmer.Program ─► Reports ─► statuses
//	              (not for slices)                     (only the difference)
//
// Stopping the agent, whatever the way, changes nothing in the kernel. Nothing is
// programmed before all objects were read once.
//
// Invariants, each with the test that fails when it breaks:
//
//   - A change of EndpointSlices alone decides nothing anew
//     (TestPassSliceChangeDoesNotBuild).
//   - A failure to program leaves the old rules, is told in the status and tried
//     again (TestPassReportsProgramErrors).
//   - Preflight changes nothing unless it was asked to (TestPreflight).
package agent
