package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/integration/lab/internal/cgroup"
	"github.com/portway-dev/portway/integration/lab/internal/layout"
)

// CNI plugins that may connect the pods of a full level.
const (
	// CNIPtp gives each pod a veth of its own, with a route on the node.
	CNIPtp = "ptp"
	// CNIBridge puts the pods of a node on one bridge: what one sends another passes
	// iptables' and nftables' hooks by way of br_netfilter only.
	CNIBridge = "bridge"
)

const (
	containerdLimit = 60 * time.Second
	// PodImages is the namespace where containerd keeps what a kubelet uses.
	PodImages = "k8s.io"
	// ImagesDir holds the archives that every node loads, in this order.
	ImagesDir = "images"
	// PauseImage holds the namespaces of a pod.
	PauseImage = "portway-lab/pause:v1"
)

// pluginDirs are where distributions keep the CNI plugins.
var pluginDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// plugins are what a node of the full level uses.
var plugins = []string{CNIPtp, CNIBridge, "host-local", "loopback", "portmap"}

// CheckFull says why this machine cannot run the full level.
func CheckFull() error {
	var errs []error
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "iptables", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := pluginDir(); err != nil {
		errs = append(errs, err)
	}
	if _, err := cgroup.Version(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("no full level on this machine (make deps-full installs its programs): %w", errors.Join(errs...))
}

func pluginDir() (string, error) {
	for _, dir := range pluginDirs {
		missing := slices.ContainsFunc(plugins, func(name string) bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err != nil
		})
		if !missing {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no directory of %v has the CNI plugins %v", pluginDirs, plugins)
}

// CheckCNI says what is wrong with a plugin's name.
func CheckCNI(name string) error {
	if name != CNIPtp && name != CNIBridge {
		return fmt.Errorf("CNI plugin %q: must be %s or %s", name, CNIPtp, CNIBridge)
	}
	return nil
}

// containerdConfig keeps everything in directories that a node has to itself. Plugins
// that would load kernel modules, write elsewhere or are for other runtimes are off. A
// machine may forbid a lower OOM score than its own, and AppArmor's profiles are the
// machine's.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = %q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = %q
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %q
conf_dir = %q
`

// writeContainerdConfig returns the file of node I.
func (m *Machine) writeContainerdConfig(i int) (string, error) {
	programs, err := pluginDir()
	if err != nil {
		return "", err
	}
	networks := m.nodeFile(i, "cni")
	if err := os.MkdirAll(networks, 0o755); err != nil {
		return "", err
	}
	network, err := json.MarshalIndent(m.network(i), "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(networks, "10-lab.conflist"), network, 0o644); err != nil {
		return "", err
	}
	spec, err := m.writeRuntimeSpec(i)
	if err != nil {
		return "", err
	}
	file := m.nodeFile(i, "containerd.toml")
	config := fmt.Sprintf(containerdConfig, PauseImage, m.snapshotter(), spec, programs, networks)
	return file, os.WriteFile(file, []byte(config), 0o644)
}

// writeRuntimeSpec returns the file with what every container of node I begins with: the
// default, and a hook that shows it the number of the node's boot instead of the
// machine's. It runs before the container has its root, in its directory; runc does not
// mount there itself.
func (m *Machine) writeRuntimeSpec(i int) (string, error) {
	out, err := exec.Command("ctr", "oci", "spec").Output()
	if err != nil {
		return "", fmt.Errorf("ctr oci spec: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(out, &spec); err != nil {
		return "", fmt.Errorf("ctr oci spec: %w", err)
	}
	mount, err := exec.LookPath("mount")
	if err != nil {
		return "", err
	}
	const boot = "proc/sys/" + bootSetting
	spec["hooks"] = map[string]any{"createContainer": []any{
		map[string]any{"path": mount, "args": []string{"mount", "--bind", "/" + boot, boot}},
	}}
	if out, err = json.Marshal(spec); err != nil {
		return "", err
	}
	file := m.nodeFile(i, "runtime-spec.json")
	return file, os.WriteFile(file, out, 0o644)
}

// snapshotter copies where the kernel cannot lay one directory over another: in a
// container, whose files are of that kind already.
func (m *Machine) snapshotter() string {
	var stat unix.Statfs_t
	if err := unix.Statfs(m.Dir, &stat); err == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

// network is the CNI configuration of node I: its pod ranges, routed by connectPods.
func (m *Machine) network(i int) map[string]any {
	var ranges, routes []any
	for family, pods := range layout.PodRanges(i, m.Families) {
		ranges = append(ranges, []any{map[string]any{"subnet": pods.String()}})
		routes = append(routes, map[string]any{"dst": everywhere(layout.Machine().List(m.Families)[family]).String()})
	}
	pods := map[string]any{
		"type": m.CNI, "ipMasq": false,
		"ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
	}
	if m.CNI == CNIBridge {
		pods["bridge"], pods["isGateway"], pods["hairpinMode"] = "cni0", true, true
	}
	return map[string]any{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []any{pods, map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}}},
	}
}

// loadImages loads all archives of the lab into a node.
func (m *Machine) loadImages(ctx context.Context, i int, n *node) error {
	entries, err := os.ReadDir(filepath.Join(m.Dir, ImagesDir))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := m.loadImage(ctx, i, n, filepath.Join(m.Dir, ImagesDir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) loadImage(ctx context.Context, i int, n *node, archive string) error {
	if _, err := m.ctr(ctx, i, n, "images", "import", "--snapshotter", m.snapshotter(), archive); err != nil {
		return err
	}
	names, err := m.ctr(ctx, i, n, "images", "list", "--quiet")
	if err != nil {
		return err
	}
	// OCI archives may have short names, by which no kubelet asks.
	for _, name := range strings.Fields(names) {
		full := fullName(name)
		if full == name || strings.HasPrefix(name, "sha256:") {
			continue
		}
		if _, err := m.ctr(ctx, i, n, "images", "tag", "--force", name, full); err != nil {
			return err
		}
	}
	return nil
}

// fullName is an image's name as kubelets complete it when it names no registry.
func fullName(name string) string {
	full, err := reference.ParseDockerRef(name)
	if err != nil {
		return name // containerd has it all the same
	}
	return full.String()
}

// ctr runs containerd's client on a node and returns what it prints.
func (m *Machine) ctr(ctx context.Context, i int, n *node, args ...string) (string, error) {
	enter := m.enter(i, n, append([]string{"ctr", "--namespace", PodImages}, args...)...)
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, enter[0], enter[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: ctr %s: %w: %s", layout.NodeName(i), args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Load loads an archive of ImagesDir into all nodes that run.
func (m *Machine) Load(ctx context.Context, archive string) error {
	if !m.Full {
		return errors.New("only the full level has images: on the small one a binary stands for each")
	}
	m.mu.Lock()
	running := maps.Clone(m.nodes)
	m.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	for i, n := range running {
		group.Go(func() error { return m.loadImage(ctx, i, n, archive) })
	}
	return group.Wait()
}
