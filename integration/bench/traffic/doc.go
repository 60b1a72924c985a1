// Package traffic measures what it costs to bring a client's traffic to backends: by our
// rules, by kube-proxy's, by proxies, and by nobody. All of them are loaded first, each with a
// client, a node and a backend of its own, and take turns (Interleave); what is compared is
// compared within a turn.
//
//	client ── node ── backend with the addresses of all endpoints
//
// New flows cost processor time (Clock): of the thread that sends, in whose system calls
// packets go all the way, of the server and the proxy, and of the kernel's thread for
// softirqs, all on one processor. Time on the clock would be that of everybody else, too.
// docs/benchmarks/method.md says how each is set.
//
// What this package does not do: it draws no conclusion but whether an aim is met, and writes
// no report.
//
// Invariants, each with the test that fails when it breaks:
//
//   - Each subject brings everything to the backend, and follows as many flows as it should,
//     none once they are forgotten (TestSubjects).
//   - Flows go to all listeners and endpoints (TestDestinations).
//   - Everyone is measured once in a turn, and nobody always first (TestInterleave).
//   - The clock stands still while others run (TestClockStandsStill).
//   - Ratios are paired by turn (TestRatios).
//   - A subject that fails is out of the comparison, and the others go on (TestComparisonGoesOn).
//   - A proxy that cannot hold as many connections as the others is not measured with fewer
//     (TestCanHold).
//   - No signal ends a server (TestNobodyMindsSignals), and none that ends a run leaves
//     temporary directories (TestInterruptRemoves, TestSweep).
package traffic
