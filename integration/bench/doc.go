// Package bench measures the whole standalone path in a network namespace: from
// manifests to the kernel, and from one changed EndpointSlice to its committed
// batch. hack/bench.sh runs it with the other measurements, which are packages below this
// one, and makes docs/benchmarks of their figures.
package bench
