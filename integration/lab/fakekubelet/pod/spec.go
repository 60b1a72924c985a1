package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/portway-dev/portway/integration/lab/fakekubelet/sandbox"
)

var errNoImage = errors.New("image")

// nonRoot is who runs a container that must not be root and does not say who: the
// user that images without a shell commonly name.
const nonRoot = 65532

// capabilities by the names that pods use.
var capabilities = map[corev1.Capability]int{
	"AUDIT_CONTROL": unix.CAP_AUDIT_CONTROL, "AUDIT_WRITE": unix.CAP_AUDIT_WRITE, "BPF": unix.CAP_BPF,
	"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"FOWNER": unix.CAP_FOWNER, "FSETID": unix.CAP_FSETID, "IPC_LOCK": unix.CAP_IPC_LOCK, "KILL": unix.CAP_KILL,
	"MKNOD": unix.CAP_MKNOD, "NET_ADMIN": unix.CAP_NET_ADMIN, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"NET_BROADCAST": unix.CAP_NET_BROADCAST, "NET_RAW": unix.CAP_NET_RAW, "PERFMON": unix.CAP_PERFMON,
	"SETFCAP": unix.CAP_SETFCAP, "SETGID": unix.CAP_SETGID, "SETPCAP": unix.CAP_SETPCAP, "SETUID": unix.CAP_SETUID,
	"SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_CHROOT": unix.CAP_SYS_CHROOT, "SYS_MODULE": unix.CAP_SYS_MODULE,
	"SYS_NICE": unix.CAP_SYS_NICE, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "SYS_RESOURCE": unix.CAP_SYS_RESOURCE,
	"SYS_TIME": unix.CAP_SYS_TIME, "SYSLOG": unix.CAP_SYSLOG,
}

// defaultCapabilities are those that container runtimes leave.
var defaultCapabilities = []corev1.Capability{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// containerSpec is a container as the sandbox runs it.
func (w *worker) containerSpec(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (sandbox.Spec, error) {
	image, binary := "", ""
	found, err := w.host.Images.Find(c.Image)
	switch {
	case err != nil && len(c.Command) == 0:
		return sandbox.Spec{}, fmt.Errorf("%w: %w", errNoImage, err)
	case err == nil && isDir(found):
		image = found
		if len(c.Command) == 0 {
			return sandbox.Spec{}, fmt.Errorf("%w %s is a directory, which has no entrypoint: the container needs a command", errNoImage, c.Image)
		}
	case err == nil:
		binary = found
	}
	env, err := w.environment(ctx, pod, c)
	if err != nil {
		return sandbox.Spec{}, err
	}
	mounts, err := w.mounts(c)
	if err != nil {
		return sandbox.Spec{}, err
	}
	inside := ""
	if binary != "" {
		inside = "/" + filepath.Base(binary)
		mounts = append(mounts, sandbox.Mount{Source: binary, Target: inside, ReadOnly: true})
	}
	// What is mounted into another volume comes after it.
	slices.SortStableFunc(mounts, func(a, b sandbox.Mount) int { return cmp.Compare(len(a.Target), len(b.Target)) })
	root := filepath.Join(w.host.podDir(pod.UID), "roots", c.Name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return sandbox.Spec{}, err
	}
	spec := sandbox.Spec{
		Args: arguments(c, inside, env), Dir: c.WorkingDir, Hostname: hostname(pod, w.host.Node),
		Root: root, Image: image, Mounts: mounts, HostPID: pod.Spec.HostPID, BootID: w.host.BootID,
		Files: map[string]string{"/etc/hosts": hostsFile(hostname(pod, w.host.Node), w.addrs), "/etc/hostname": hostname(pod, w.host.Node) + "\n"},
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		spec.Env = append(spec.Env, name+"="+env[name])
	}
	setRights(&spec, pod, c)
	return spec, nil
}

// arguments are the command line. A command that is called like the binary of the
// image is that binary, wherever the image may have it.
func arguments(c *corev1.Container, binary string, env map[string]string) []string {
	var args []string
	for _, a := range slices.Concat(c.Command, c.Args) {
		args = append(args, expand(a, env))
	}
	switch {
	case len(c.Command) == 0:
		args = append([]string{binary}, args...)
	case binary != "" && filepath.Base(args[0]) == filepath.Base(binary):
		args[0] = binary
	}
	return args
}

func setRights(spec *sandbox.Spec, pod *corev1.Pod, c *corev1.Container) {
	common, own := pod.Spec.SecurityContext, c.SecurityContext
	if common == nil {
		common = &corev1.PodSecurityContext{}
	}
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	switch user := cmp.Or(own.RunAsUser, common.RunAsUser); {
	case user != nil:
		spec.UID = int(*user)
	case isTrue(cmp.Or(own.RunAsNonRoot, common.RunAsNonRoot)):
		spec.UID, spec.GID = nonRoot, nonRoot
	}
	if group := cmp.Or(own.RunAsGroup, common.RunAsGroup); group != nil {
		spec.GID = int(*group)
	}
	for _, group := range common.SupplementalGroups {
		spec.Groups = append(spec.Groups, int(group))
	}
	if common.FSGroup != nil {
		spec.Groups = append(spec.Groups, int(*common.FSGroup))
	}
	spec.ReadOnly = isTrue(own.ReadOnlyRootFilesystem)
	spec.Privileged = isTrue(own.Privileged)
	spec.NoNewPrivs = own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation
	have := map[corev1.Capability]bool{}
	for _, name := range defaultCapabilities {
		have[name] = true
	}
	if own.Capabilities != nil {
		for _, name := range own.Capabilities.Drop {
			delete(have, name)
			if name == "ALL" {
				clear(have)
			}
		}
		for _, name := range own.Capabilities.Add {
			have[name] = true
		}
	}
	for name := range capabilities {
		if have[name] || have["ALL"] {
			spec.Capabilities = append(spec.Capabilities, capabilities[name])
		}
	}
	slices.Sort(spec.Capabilities)
}

func hostsFile(name string, addrs []netip.Addr) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	for _, addr := range addrs {
		fmt.Fprintf(&b, "%s\t%s\n", addr, name)
	}
	return b.String()
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isTrue(b *bool) bool { return b != nil && *b }
