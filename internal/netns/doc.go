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
// That is a Lab. A Cluster has several nodes with pods on each, either on links of
// their own or on a bridge, and a client outside; there, everybody reaches everybody
// without translation, so that a test sees what translation does.
//
// Of pods on one bridge, some cannot reach each other by their node's address,
// whatever the rules that translate it, kube-proxy's included:
//
//   - Without br_netfilter (bridge-nf-call-iptables=0) the answer of one pod to
//     another is bridged past the node's rules and arrives untranslated. A pod still
//     reaches itself, as that answer goes to the node.
//   - With br_netfilter, but without the bridge port's hairpin mode, a pod does not
//     reach itself: the packet is translated on the bridge and would have to leave
//     by the port it came from.
//   - With both, all works. So it does between links of their own.
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
//   - The far node of a Lab does not know the client (TestLabHidesClientFromFarNode),
//     and in a Cluster everybody knows everybody (TestClusterRoutes).
//   - Rules see what a bridge passes on only where asked (TestBridgedPacketsAreFiltered).
package netns
