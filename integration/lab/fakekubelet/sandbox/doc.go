// Package sandbox runs the containers of a pod as plain processes: a network
// namespace for the pod, a mount, process and host name namespace for each
// container, with a root of its own, and the capabilities and the user that the
// pod asks for. It knows nothing of the Kubernetes API.
//
// There are no images. A container's root is made of the machine's programs,
// read-only, and empty writable directories; the binary that stands for the image
// is in its root directory and in the search path:
//
//	/bin /sbin /lib* /usr     the machine's, read-only
//	/etc                      a few files of the machine, hosts, resolv.conf
//	/proc /sys /dev           of the container's own namespaces; /sys and /proc/sys
//	                          are read-only unless the container is privileged
//	/NAME                     the binary of the image
//	/tmp /run /var /root …    empty, in memory
//	volumes                   where the pod mounts them
//
// What is not done: cgroups and limits, seccomp, user namespaces.
package sandbox
