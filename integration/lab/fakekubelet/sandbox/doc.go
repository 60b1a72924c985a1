// Package sandbox runs the containers of a pod as plain processes: a network
// namespace for the pod, a mount, process and host name namespace for each
// container, with a root of its own, and the capabilities and the user that the
// pod asks for. It knows nothing of the Kubernetes API.
//
// An image is a directory with its files, or a binary that stands for it. Of the former a
// container's root has those files, read-only. Of the latter it is made of the machine's
// programs, read-only, and empty writable directories; the binary is in its root directory
// and in the search path:
//
//	/bin /sbin /lib* /usr     the machine's or the image's, read-only
//	/etc                      a few files of the machine or those of the image, hosts, resolv.conf
//	/proc /sys /dev           of the container's own namespaces; /sys and /proc/sys
//	                          are read-only unless the container is privileged
//	/NAME                     the binary of the image
//	/tmp /run /var /root …    empty, in memory
//	volumes                   where the pod mounts them
//
// What is not done: cgroups and limits, seccomp, user namespaces.
package sandbox
