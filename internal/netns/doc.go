// Package netns makes networks out of network namespaces, for the traffic tests
// and the demo: namespaces, links between them, addresses, routes, servers in
// them and clients that count who answered.
//
//	                                 ┌── pod foo-1  10.244.1.10
//	client ────────── node ──────────┼── pod foo-2  10.244.1.11
//	198.51.100.10     192.0.2.1      └── pod bar-1  10.244.1.20
//	                    │
//	                    └─ 203.0.113.0/24 ─ far node ── pod far-1  10.244.2.10
//
// Every namespace is anonymous: nothing appears under /run/netns and nothing is
// left when the process ends, however it ends. Main and Isolate first move the
// whole program into namespaces of its own, so that no mistake in a test can
// reach the ruleset or the sysctls of the machine, and so that no root is needed.
//
// What this package does not do: it programs no rules and knows nothing about
// the Gateway API.
//
// Invariants, each with the test that fails when it breaks:
//
//   - A test never runs in the namespace of the machine (TestMainIsolates).
//   - Do returns its thread to where it came from (TestDoReturns).
//   - A sysctl is written in its namespace only (TestSysctlStaysInside).
//   - A command started in a namespace dies with this process
//     (TestStartRunsInside).
//   - A closed server leaves no goroutine (TestServersLeaveNothing).
package netns
