// Package apisim is a simulated Kubernetes API server for measurements: it serves the kinds
// that this project's programs and kube-proxy ask for, over HTTPS as a real one does, from
// memory. It has no etcd, no admission, no validation and no authentication.
//
// Like a real one it has one resourceVersion for all kinds, refuses writes that are based on
// an older one, leaves an object as it is that a write does not change, answers lists, watches
// and watches that begin with a list (sendInitialEvents), sends bookmarks, and speaks protobuf
// for the kinds of Kubernetes itself. What clients send and are sent is counted.
//
// Invariants, each with the test that fails when it breaks:
//
//   - An informer sees what is put, changed and deleted, in both encodings and with both ways
//     to list (TestInformers).
//   - A watch goes on where an earlier one ended, or is told that it cannot
//     (TestWatchGoesOn).
//   - Writes behave as at a real API server (TestWrites), and are counted (TestCounts).
package apisim
