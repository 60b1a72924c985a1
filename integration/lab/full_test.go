package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
	"github.com/portway-dev/portway/integration/lab/internal/machine"
)

// startFull is start on the full level, where the machine has its programs. CI must have
// them.
func startFull(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	if err := lab.CheckFull(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	before := machineState(t)
	before["/sys/fs/cgroup"], before["/sys/fs/cgroup/*"] = "", "" // also of an earlier run
	t.Cleanup(func() {                                            // after the lab's own
		if diff := cmp.Diff(before, machineState(t)); diff != "" {
			t.Errorf("the lab has changed the machine (-before +after):\n%s", diff)
		}
	})
	o.Full = true
	return start(t, o)
}

// machineState is what a kubelet would change of this machine, and what the lab of the
// test may leave.
func machineState(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, setting := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
		"net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max",
	} {
		content, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		state[setting] = fmt.Sprintf("%s%v", content, err)
	}
	for _, dir := range []string{"/var/lib/kubelet", "/var/lib/cni", "/etc/cni/net.d/10-lab.conflist"} {
		_, err := os.Stat(dir)
		state[dir] = fmt.Sprint(err)
	}
	group := machine.Group(labDir(t))
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		left, err := filepath.Glob(filepath.Join(pattern, group))
		if err != nil {
			t.Fatal(err)
		}
		state[pattern] = strings.Join(left, " ")
	}
	return state
}

func TestFull(t *testing.T) {
	o := lab.Options{Nodes: 3, Dual: true, KubeProxy: lab.ProxyNFTables}
	f := newFixture(t, startFull(t, o), o, "smoke.yaml", "rights.yaml", "full.yaml")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"version", f.version},
		{"reach", f.reach},
		{"host", f.hostNetwork},
		{"slices", f.slices},
		{"services", f.services},
		{"token", f.token},
		{"logs", f.logs},
		{"limits", f.limits},
		{"boot", f.bootID},
		{"liveness", f.liveness},
		{"load", f.load},
		{"restart", f.restart},
		{"kubelet", f.kubelet},
		{"crash", f.crash},
		{"disconnect", f.disconnect},
		{"apiserver", f.apiServer},
		{"join", f.join},
		{"delete", f.fullDeletion},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

// TestFullModes: the other plugin, families and modes of kube-proxy.
func TestFullModes(t *testing.T) {
	for _, test := range []struct {
		name  string
		o     lab.Options
		modes []string
	}{
		{"bridge-dual", lab.Options{Dual: true, CNI: lab.CNIBridge, KubeProxy: lab.ProxyIPTables}, []string{lab.ProxyIPTables, lab.ProxyNFTables}},
		{"ptp-IPv4-iptables", lab.Options{KubeProxy: lab.ProxyIPTables}, []string{lab.ProxyIPTables}},
		{"bridge-IPv4-none", lab.Options{CNI: lab.CNIBridge}, nil},
		{"ptp-IPv6", lab.Options{OnlyIPv6: true, KubeProxy: lab.ProxyNFTables}, []string{lab.ProxyNFTables, lab.ProxyIPTables}},
		{"bridge-IPv6-none", lab.Options{OnlyIPv6: true, CNI: lab.CNIBridge}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.Nodes, test.o.CRDs = 2, lab.CRDsNone
			f := newFixture(t, startFull(t, test.o), test.o, "smoke.yaml", "rights.yaml", "full.yaml")
			f.reach(t)
			f.hostNetwork(t)
			f.token(t)
			for _, mode := range test.modes {
				for i := 1; i <= f.nodes; i++ {
					if err := f.Proxy(i, mode); err != nil {
						t.Fatal(err)
					}
				}
				f.services(t)
			}
		})
	}
}

// version: the nodes are what they are said to be.
func (f *fixture) version(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	server, err := f.client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	list, err := f.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range list.Items {
		info := node.Status.NodeInfo
		if info.KubeletVersion != server.GitVersion || !strings.HasPrefix(info.ContainerRuntimeVersion, "containerd://") {
			t.Errorf("%s: kubelet %s (API server %s) on %s", node.Name, info.KubeletVersion, server.GitVersion, info.ContainerRuntimeVersion)
		}
		if len(node.Spec.PodCIDRs) != f.families {
			t.Errorf("%s has the pod ranges %v", node.Name, node.Spec.PodCIDRs)
		}
	}
}

// services: kube-proxy serves nodes, the outside and pods, these also with a pod of the
// same node.
func (f *fixture) services(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	service := f.nodePort(t)
	for i := 1; i <= f.nodes; i++ {
		eventually(t, 10*time.Second, func(ctx context.Context) error { return f.served(ctx, i, service) })
	}
	pod, local := f.list(t, "app=echo")[0], false
	from, err := f.Pod(t.Context(), "default", pod.Name, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range service.Spec.ClusterIPs {
		for range 4 * pods {
			line, _, err := ask(t.Context(), from, "tcp", net.JoinHostPort(ip, "6000"))
			if err != nil {
				t.Errorf("%s to %s: %v", pod.Name, ip, err)
			}
			local = local || strings.Contains(line, " node="+pod.Spec.NodeName+" ") && !strings.Contains(line, "pod="+pod.Name+" ")
		}
		if !local {
			t.Errorf("no other pod of %s has answered %s at %s", pod.Spec.NodeName, pod.Name, ip)
		}
		if line := f.echo(t, pod.Name, "ask", "udp", net.JoinHostPort(pod.Status.PodIP, "6000")); !strings.HasPrefix(line, "pod="+pod.Name+" ") {
			t.Errorf("%s says to itself %q", pod.Name, line)
		}
	}
}

// echo runs the program of a pod's image in it, as a client.
func (f *fixture) echo(t *testing.T, pod string, args ...string) string {
	t.Helper()
	out, err := f.Kubectl(t.Context(), append([]string{"exec", pod, "-c", strings.Split(pod, "-")[0], "--", "/echo"}, args...)...)
	if err != nil {
		t.Errorf("exec: %v", err)
	}
	return out
}

// token: a pod finds the API server by its environment and may do there what its
// service account may.
func (f *fixture) token(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	f.readerReady(t)
	if got := f.echo(t, "reader", "api", "/api/v1/namespaces/default/configmaps/settings"); !strings.HasPrefix(got, "200 OK\n") || !strings.Contains(got, `"color":"blue"`) {
		t.Errorf("ConfigMap: %s", got)
	}
	if got := f.echo(t, "reader", "api", "/api/v1/namespaces/default/secrets"); !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "system:serviceaccount:default:reader") {
		t.Errorf("Secrets: %s", got)
	}
}

// readerReady waits for the pod of full.yaml, of which one container is never well for long.
func (f *fixture) readerReady(t *testing.T) {
	t.Helper()
	eventually(t, 20*time.Second, func(ctx context.Context) error {
		pod, err := f.client.CoreV1().Pods("default").Get(ctx, "reader", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if status := containerStatus(pod, "reader"); status == nil || !status.Ready {
			return fmt.Errorf("reader is %+v", status)
		}
		return nil
	})
}

func containerStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for i, status := range pod.Status.ContainerStatuses {
		if status.Name == name {
			return &pod.Status.ContainerStatuses[i]
		}
	}
	return nil
}

// logs: by the API server and the kubelet, and without either.
func (f *fixture) logs(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	pod := f.list(t, "app=echo")[0].Name
	shown, err := f.Kubectl(t.Context(), "logs", pod)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := f.PodLog("default", pod, "echo")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shown, kept); diff != "" || !strings.HasSuffix(kept, " serves ports [6000]\n") {
		t.Errorf("log of %s (-kubectl +kept):\n%s\n%s", pod, diff, kept)
	}
	names, err := lab.Logs(f.Dir(), "default_"+pod)
	if err != nil || len(names) != 1 {
		t.Errorf("the lab's logs of %s are %q, %v", pod, names, err)
	}
}

// limits: they are those of the container's control group.
func (f *fixture) limits(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	f.readerReady(t)
	pod := f.list(t, "app=reader")[0]
	var node int
	if _, err := fmt.Sscanf(pod.Spec.NodeName, "node%d", &node); err != nil {
		t.Fatal(err)
	}
	// The group of its other container may go meanwhile.
	find := fmt.Sprintf(`find /sys/fs/cgroup/ -path '*/pod%s/*' \( -name memory.limit_in_bytes -o -name memory.max \) -exec cat '{}' ';' 2>/dev/null || true`, pod.UID)
	out, err := f.Node(node).Output(t.Context(), "sh", "-c", find)
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.Itoa(64 << 20); !strings.Contains(out, want+"\n") {
		t.Errorf("no group of the pod has the limit %s: %q", want, out)
	}
}

// bootID: a container sees the number of its node's boot, which is not the machine's.
func (f *fixture) bootID(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	f.readerReady(t)
	pod := f.list(t, "app=reader")[0]
	node, err := f.client.CoreV1().Nodes().Get(t.Context(), pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if _, err := fmt.Sscanf(node.Name, "node%d", &number); err != nil {
		t.Fatal(err)
	}
	seen, err := f.Node(number).Output(t.Context(), "sh", "-ec", "cat /proc/$(pgrep -f '^/echo 8000')/root/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	machines, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if want := node.Status.NodeInfo.BootID; strings.TrimSpace(seen) != want || seen == string(machines) {
		t.Errorf("the pod sees the boot %q, its node says %q, the machine has %q", seen, want, machines)
	}
}

// liveness: who fails its probe is started again.
func (f *fixture) liveness(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		pod, err := f.client.CoreV1().Pods("default").Get(ctx, "reader", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if status := containerStatus(pod, "unwell"); status.RestartCount == 0 {
			return fmt.Errorf("unwell is %+v", status)
		}
		if status := containerStatus(pod, "reader"); status.RestartCount > 0 {
			t.Errorf("reader is %+v", status)
		}
		return nil
	})
}

// load: an image that is loaded while the lab runs can be run on every node.
func (f *fixture) load(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	archive := filepath.Join(t.TempDir(), "other.tar")
	if err := lab.Pack(archive, "example.test/other:v2", f.Bin("echo")); err != nil {
		t.Fatal(err)
	}
	if err := f.Load(archive); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Kubectl(t.Context(), "set", "image", "daemonset/host", "host=example.test/other:v2"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Kubectl(t.Context(), "rollout", "status", "daemonset/host", "--timeout=30s"); err != nil {
		t.Fatal(err)
	}
	f.podsReady(t, "app=host", f.nodes, 20*time.Second) // and the old ones are gone
	f.hostNetwork(t)
}

// kubelet: the pods of a node outlive its kubelet, and it finds them again.
func (f *fixture) kubelet(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	const node = 1
	before := f.containers(t, node)
	if err := f.StopKubelet(node); err != nil {
		t.Fatal(err)
	}
	f.notReady(t, "node1")
	for _, pod := range f.list(t, "app=echo") {
		answers(t, f.Node(2), pod.Status.PodIP, 6000, pod.Name)
	}
	if err := f.StartKubelet(node); err != nil {
		t.Fatal(err)
	}
	f.notReady(t, "")
	f.podsReady(t, "app=echo", pods, 30*time.Second)
	if diff := cmp.Diff(before, f.containers(t, node)); diff != "" {
		t.Errorf("containers of node %d (-before +after):\n%s", node, diff)
	}
	f.slices(t)
}

// containers of the echo pods of a node, which are not to be started again.
func (f *fixture) containers(t *testing.T, node int) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, pod := range f.list(t, "app=echo") {
		if pod.Spec.NodeName == fmt.Sprintf("node%d", node) {
			ids[pod.Name] = pod.Status.ContainerStatuses[0].ContainerID
		}
	}
	if len(ids) == 0 {
		t.Errorf("no pod is on node %d", node)
	}
	return ids
}

// notReady waits until exactly these nodes are not Ready.
func (f *fixture) notReady(t *testing.T, want string) {
	t.Helper()
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		down, err := f.unready(ctx)
		if err == nil && down != want {
			err = fmt.Errorf("not Ready: %q, want %q", down, want)
		}
		return err
	})
}

// fullDeletion: no process and no link of a deleted pod is left.
func (f *fixture) fullDeletion(t *testing.T) { //nolint:thelper // a step of TestFull, not a helper
	if _, err := f.Kubectl(t.Context(), "delete", "deployment/echo", "daemonset/host", "pod/reader", "--cascade=foreground", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func(ctx context.Context) error {
		for i := 1; i <= f.nodes; i++ {
			out, err := f.Node(i).Output(ctx, "sh", "-ec", "ps -e -o args=; ip -brief link; find /var/lib/cni/networks/lab -name '*.*.*.*' -o -name '*:*'")
			if err != nil {
				return err
			}
			if strings.Contains(out, "/echo") || strings.Contains(out, "/pause") || strings.Contains(out, "veth") || strings.Contains(out, "/lab/") {
				return fmt.Errorf("left on node %d:\n%s", i, out)
			}
		}
		return nil
	})
}

// TestFullOptions: what cannot be is refused before anything is started.
func TestFullOptions(t *testing.T) {
	for name, o := range map[string]lab.Options{
		"two sets of families": {Dual: true, OnlyIPv6: true},
		"plugin without full":  {CNI: lab.CNIBridge},
		"archive without full": {Archives: []string{"image.tar"}},
		"binary for an image":  {Full: true, BinDirs: []string{"."}},
		"unknown plugin":       {Full: true, CNI: "macvlan"},
	} {
		l, err := lab.Up(t.Context(), o)
		if err == nil {
			t.Errorf("%s: no error", name)
			err = l.Down()
		}
		if errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPack: what an image is called and what is in it, in any order of time.
func TestPack(t *testing.T) {
	var written [2]string
	for i := range written {
		archive := filepath.Join(t.TempDir(), "image.tar")
		if err := lab.Pack(archive, "example.test/image:v1", "testdata/smoke.yaml", "testdata/full.yaml"); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		written[i] = string(content)
	}
	if written[0] != written[1] {
		t.Error("the same image is written differently")
	}
	for _, want := range []string{`"RepoTags":["example.test/image:v1"]`, `"Entrypoint":["/smoke.yaml"]`, "kind: Pod"} {
		if !strings.Contains(written[0], want) {
			t.Errorf("no %s in the archive", want)
		}
	}
	if err := lab.Pack(filepath.Join(t.TempDir(), "image.tar"), "example.test/image:v1"); err == nil {
		t.Error("an image without a program is no error")
	}
}
