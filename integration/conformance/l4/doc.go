// Package l4 are tests in the form of the conformance suite's: what the suite asserts
// of HTTP listeners and routes, asserted of TCP and UDP. They run in a suite of their
// own with the base manifests and count in no report.
package l4
