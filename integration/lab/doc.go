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
// That is the small level. On the full level (Options.Full) a node runs containerd and
// upstream's kubelet, pods are containers of runc in networks of the CNI plugins ptp or
// bridge, and images are archives that are loaded into containerd (Pack, Load): there is
// no registry. It needs Debian's packages containerd, runc and
// containernetworking-plugins, or what is called like them elsewhere; CheckFull says what
// is missing. A node has its own control groups, below /portway-lab, in whichever version
// the machine has: version 1 has been run; version 2 is written by its documentation and
// never was. What a kubelet would set for the whole machine (kernel.panic,
// vm.overcommit_memory, …) and the number of the boot are files of the node.
//
// What it does not prove: a real network card, a kernel per node; the small level nothing
// of images, limits, CNI and what kubelet and runtime do in their own time. There is no
// cluster DNS. ClusterIPs and NodePorts work with Options.KubeProxy only; pods reach the
// API server without it. Commands at a pod's place find the node's files on the full level,
// as an image may hold no more than the one program it runs.
//
// Invariants, each with the test that fails when it breaks (without a name in TestLab,
// those named by a step alone in TestFull, too):
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
//   - the machine's link address does not change when a node joins (join);
//   - kube-proxy's rules of either mode are there when a node is up, and those of the
//     other mode gone (TestKubeProxy).
//
// Of the full level:
//
//   - pods reach each other, Services (a pod of the same node included) and the API server
//     with either plugin, in each family, with kube-proxy in each mode and without
//     (TestFull, TestFullModes);
//   - kubectl logs, exec, probes, limits and tokens are those of a cluster (TestFull: logs,
//     services, liveness, limits, token);
//   - containers see the boot of their node, not the machine's (TestFull/boot);
//   - the pods of a node outlive its kubelet (TestFull/kubelet);
//   - an image that is loaded runs on every node (TestFull/load);
//   - kernel settings, control groups and directories of the machine are afterwards what
//     they were (startFull, that is, every test of the full level).
package lab
