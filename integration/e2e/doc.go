// Package e2e runs Portway in the lab's Kubernetes (integration/lab): three nodes, two
// address families, the product's programs as deploy/base deploys them, with the
// rights of their own service accounts.
//
//	E2E=1 go test .                   the end-to-end tests; as root
//	go run ./cmd/conformance          the conformance suite, see integration/conformance
//
// Each test uses namespaces and ports of its own, so that one cluster serves all of
// them; those that break the cluster run last. Traffic comes from the lab's client
// outside the cluster.
package e2e
