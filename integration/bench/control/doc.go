// Package control measures the control path against a simulated API server (apisim): the
// real agent in a network namespace, the real controller, and what the kernel is told. It
// records figures of the sections programming and control-path.
//
// Its tests take minutes and are skipped unless BENCH is set, to quick (less), full (more) or
// nothing, or BENCH_FIGURES, which names the file that figures go to.
package control
