// Package bench measures the whole standalone path in a network namespace: from
// manifests to the kernel, and from one changed EndpointSlice to its committed
// batch. `make bench` runs it and writes docs/benchmarks/README.md.
package bench
