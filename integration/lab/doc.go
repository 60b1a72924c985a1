// Package lab is a real Kubernetes on one machine for the end-to-end tests: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler as upstream released
// them, nodes that are network, mount and process namespaces with a small fake
// kubelet in each, and pods that are processes in namespaces of their own.
//
//	 lab's namespaces (mount, net, pid, uts, ipc); nothing of the machine is touched
//	┌──────────────────────────────────────────────────────────────────────────────┐
//	│ machine 172.30.0.1: etcd  kube-apiserver  controller-manager  scheduler      │
//	│ ────┬──────────────┬──────────────────────┬───────────────────────┬── br0    │
//	│  outside .2     node1 .11              node2 .12               node3 .13     │
//	│                 ├ fakekubelet          ├ fakekubelet           └ …           │
//	│                 ├ pod 10.244.1.2       └ pod 10.244.2.2                      │
//	│                 └ pod (host network)                                         │
//	└──────────────────────────────────────────────────────────────────────────────┘
//
// Everything dies with the lab's first process. The program needs root, util-linux
// (nsenter) and the Go module proxy; it downloads no binaries. What is built is
// kept in ${PORTWAY_LAB_CACHE:-~/.cache/portway-lab}, the lab itself and its logs
// in ${PORTWAY_LAB_DIR:-$PORTWAY_LAB_CACHE/run}; two labs with different
// directories do not see each other.
//
// What it does not prove: images and limits, a real network card, a kernel per
// node. There is no cluster DNS. ClusterIPs and NodePorts work with Options.KubeProxy
// only; pods reach the API server without it.
//
// Invariants, each with the test that fails when it breaks (without a name in TestLab):
//
//   - a pod's addresses are reachable from every node (reach);
//   - a pod has the rights of its service account, no more (rights);
//   - a changed ConfigMap reaches the files of a running pod (configmap);
//   - a crashed node is NotReady, and Ready after its boot (crash);
//   - a node whose wire is cut is NotReady, and Ready with its wire (disconnect);
//   - a new node joins and gets its pods (join);
//   - a container that ends is started again (restart);
//   - the pods run on while there is no API server (apiserver);
//   - nothing of a deleted pod is left (delete);
//   - kube-proxy's rules of either mode are there when a node is up, and those of the
//     other mode gone (TestKubeProxy).
package lab
