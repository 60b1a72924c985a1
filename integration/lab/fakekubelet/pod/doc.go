// Package pod runs the pods of one node, as a kubelet does: a worker per pod
// brings what runs in line with what the API server says, and reports it.
//
//	API server ──informer──► Host ──► worker (one per pod) ──► sandbox
//	     ▲                               │    ▲
//	     └────────── status, delete ─────┘    └── exits, probes, changed volumes
//
// What is done: init containers (one after the other), restarts with a shorter
// back-off than upstream's (0, 1, 2, 4 … 30 s), readiness, liveness and startup
// probes (TCP, HTTP, exec), preStop (exec, sleep), grace periods, readiness gates,
// emptyDir, configMap, secret, projected, downwardAPI and hostPath volumes with
// updates by symlink swap, tokens bound to the pod, env with references, dual
// stack, host networks, users and capabilities.
//
// What is not: images, resources and eviction, host ports, sidecar init
// containers, gRPC probes, postStart, ephemeral containers, logs and exec through
// the API server.
package pod
