// Package conformance runs the conformance suite of the Gateway API against Portway:
// the profiles GATEWAY-TCP and GATEWAY-UDP, with the features that the GatewayClass
// publishes in its status.
//
// The suite is made for implementations of HTTP. Three things make it one of TCP and
// UDP, and nothing else is changed:
//
//   - Base manifests of our own (manifests/base): the suite's namespaces, and servers
//     in them, without Gateways that have HTTP listeners.
//   - Overlays (manifests/tests): files of the suite by the same names with TCP or
//     UDP listeners. Their ports are none that the suite uses.
//   - Skips: the tests that no manifest can bring to TCP or UDP, because their code
//     demands HTTPRoute, host names or Secrets. What they assert for every listener is
//     asserted by tests of our own, package l4.
//
// The suite dials from its own process to the first address in a Gateway's status, and
// to the API server: the test binary runs where both can be reached. Commands
// ./dns and the suite's echo-basic are the servers behind the images of the manifests.
//
// Invariants, each with the test that fails when it breaks:
//
//   - every TCPRoute and UDPRoute test runs, and only tests that name HTTP or TLS are
//     skipped (TestSkips);
//   - an overlay replaces a file that the suite has, on ports apart from the suite's
//     (TestOverlays);
//   - reports/README.md names every skip with its reason (TestReadme).
package conformance
