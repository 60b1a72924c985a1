package machine

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab/internal/cgroup"
	"github.com/portway-dev/portway/integration/lab/internal/layout"
	"github.com/portway-dev/portway/integration/lab/internal/netns"
	"github.com/portway-dev/portway/integration/lab/internal/pid1"
)

const nodeReadyLimit = 60 * time.Second

// node is a booted node. Its network namespace, with all rules in it, lives as
// long as the node: nothing but its processes and this handle hold it.
type node struct {
	place *netns.Handle
	boot  string // changes with every boot
	init  *process
	// kubelet is that of the full level: on the small one the fake is started by init.
	kubelet *process
	proxy   *process // nil: no kube-proxy
}

// Boot starts node I and waits until it is Ready and has the rules of its kube-proxy. A
// number that was never used makes a new node join.
func (m *Machine) Boot(ctx context.Context, i int) error {
	if i < 1 || i > layout.MaxNodes {
		return fmt.Errorf("no node %d: they count from 1 to %d", i, layout.MaxNodes)
	}
	m.mu.Lock()
	_, running := m.nodes[i]
	if running {
		m.mu.Unlock()
		return fmt.Errorf("%s runs already", layout.NodeName(i))
	}
	booted, err := m.startNode(i)
	if err == nil {
		m.nodes[i] = booted
		m.Nodes = max(m.Nodes, i)
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if m.Full {
		if err := m.startFull(ctx, i, booted); err != nil {
			return err
		}
	}
	err = waitFor(ctx, nodeReadyLimit, layout.NodeName(i)+" to be Ready", booted.init, func(ctx context.Context) error {
		return m.nodeReady(ctx, i, booted.boot)
	})
	if err != nil || m.KubeProxy == "" {
		return err
	}
	return m.Proxy(ctx, i, m.KubeProxy)
}

// startNode needs mu.
func (m *Machine) startNode(i int) (*node, error) {
	place, err := netns.New()
	if err != nil {
		return nil, err
	}
	n := &node{place: place, boot: string(uuid.NewUUID())}
	if err := m.startNodeIn(n, i); err != nil {
		return nil, errors.Join(err, n.end())
	}
	return n, nil
}

func (m *Machine) startNodeIn(n *node, i int) error {
	name := layout.NodeName(i)
	if err := prepareNamespace(n.place, true); err != nil {
		return err
	}
	if err := m.plug(n.place, name, layout.Node(i), true); err != nil {
		return err
	}
	if err := m.connectPods(n.place, i); err != nil {
		return err
	}
	if err := m.writeKubeconfig(name, "system:node:"+name, "system:nodes"); err != nil {
		return err
	}
	first := m.fakeProgram
	if m.Full {
		first = m.fullProgram
	}
	init, err := first(n, i)
	if err != nil {
		return err
	}
	init.logDir, init.place, init.clone = m.nodeFile(i, ""), n.place, pid1.CloneFlags
	n.init, err = init.start()
	return err
}

// fakeProgram is the first process of a node of the small level, which runs the kubelet.
func (m *Machine) fakeProgram(n *node, i int) (program, error) {
	init, err := m.initArgs(i, map[string]string{"root/var/lib": "/var/lib", "root/var/log": "/var/log"})
	return program{name: "kubelet", args: slices.Concat(init, []string{"--"}, m.kubeletArgs(i, n.boot))}, err
}

// fullProgram is the first process of a node of the full level, which runs containerd. It
// is in a control group of its own, below which the node sees nothing but its own; the
// node's programs are in one below that, as the root of a node has no processes.
func (m *Machine) fullProgram(n *node, i int) (program, error) {
	init, err := m.initArgs(i, map[string]string{"root/var/lib": "/var/lib", "logs": "/var/log"})
	if err != nil {
		return program{}, err
	}
	shadows, err := m.shadowKernel(i, n.boot)
	if err != nil {
		return program{}, err
	}
	config, err := m.writeContainerdConfig(i)
	if err != nil {
		return program{}, err
	}
	join := []string{m.lab(), "join", "--own", m.group(i)}
	init = slices.Concat(join, init, shadows, []string{"--shared", "--cgroups", "--group", systemGroup, "--", "containerd", "--config", config})
	return program{name: "containerd", args: init}, nil
}

// initArgs start a node's first process, with directories of the node shown in place of
// the machine's.
func (m *Machine) initArgs(i int, private map[string]string) ([]string, error) {
	init := []string{m.lab(), "init", "--hostname", layout.NodeName(i)}
	for own, shown := range private {
		from := m.nodeFile(i, own)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return nil, err
		}
		init = append(init, "--bind", from+":"+shown)
	}
	return init, nil
}

// enter makes a command run in the namespaces of a node, and in its control groups if
// it has any.
func (m *Machine) enter(i int, n *node, command ...string) []string {
	enter := []string{"nsenter", "-t", fmt.Sprint(n.init.pid()), "-m", "-n", "-p", "-u", "-i"}
	if m.Full {
		enter = slices.Concat([]string{m.lab(), "join", m.group(i) + "/" + systemGroup}, enter, []string{"-C"})
	}
	return slices.Concat(enter, []string{"--"}, command)
}

func (m *Machine) lab() string { return filepath.Join(m.Bin, "lab") }

// nodeFile is a file of node I.
func (m *Machine) nodeFile(i int, name string) string {
	return filepath.Join(m.Dir, layout.NodeName(i), name)
}

// systemGroup is where the programs of a node are that are no pods.
const systemGroup = "system"

// Group is the control group of the lab in a directory.
func Group(dir string) string {
	return fmt.Sprintf("%s/%08x", cgroup.Root, crc32.ChecksumIEEE([]byte(dir)))
}

// group is the control group of node I.
func (m *Machine) group(i int) string { return Group(m.Dir) + "/" + layout.NodeName(i) }

// connectPods routes between the pods of node I and those of all others.
func (m *Machine) connectPods(place *netns.Handle, i int) error {
	if err := m.routePods(m.machine, i); err != nil {
		return err
	}
	for j, other := range m.nodes {
		if err := errors.Join(m.routePods(place, j), m.routePods(other.place, i)); err != nil {
			return err
		}
	}
	// A node that is down keeps its pod range: packets to it are lost, as they
	// are in a cluster, and not sent around by the default route.
	for j := 1; j <= m.Nodes; j++ {
		if j == i {
			continue
		}
		if err := m.routePods(place, j); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) kubeletArgs(i int, boot string) []string {
	name := layout.NodeName(i)
	return []string{
		filepath.Join(m.Bin, "fakekubelet"),
		"--node", name,
		"--boot-id", boot,
		"--kubeconfig", m.kubeconfig(name),
		"--addresses", joinStrings(layout.Node(i).List(m.Families)),
		"--pod-ranges", joinStrings(layout.PodRanges(i, m.Families)),
		"--api-server", m.apiServer().String(),
		"--dir", filepath.Join(m.Dir, name),
		"--images", filepath.Join(m.Dir, ConfigFile),
		"--v", "2",
	}
}

// nodeReady succeeds when this boot of the node has reported Ready and the
// controller has taken its taints away.
func (m *Machine) nodeReady(ctx context.Context, i int, boot string) error {
	object, err := m.client.CoreV1().Nodes().Get(ctx, layout.NodeName(i), metav1.GetOptions{})
	if err != nil {
		return err
	}
	if object.Status.NodeInfo.BootID != boot {
		return errors.New("status is from before the boot")
	}
	if len(object.Spec.Taints) > 0 {
		return fmt.Errorf("has the taint %s", object.Spec.Taints[0].Key)
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			klog.FromContext(ctx).Info("Node is Ready", "node", object.Name, "pods", object.Spec.PodCIDRs)
			return nil
		}
	}
	return errors.New("not Ready")
}

// Crash ends node I like a power failure: the wire goes dead first, so nobody is
// told, then everything on it dies, rules in its kernel namespace included.
func (m *Machine) Crash(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[i]
	if !ok {
		return fmt.Errorf("%s does not run", layout.NodeName(i))
	}
	delete(m.nodes, i)
	own, err := m.machine.Netlink()
	if err != nil {
		return err
	}
	defer own.Close()
	err = errors.Join(unplug(own, layout.NodeName(i)), n.end())
	if m.Full { // or the next boot would begin with what is dead
		err = errors.Join(err, cgroup.Remove(m.group(i)))
	}
	return err
}

// Wire disconnects node I from the network, or connects it again, without its
// processes being told.
func (m *Machine) Wire(i int, up bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	own, err := m.machine.Netlink()
	if err != nil {
		return err
	}
	defer own.Close()
	link, err := own.LinkByName(layout.NodeName(i))
	if err != nil {
		return fmt.Errorf("wire of %s: %w", layout.NodeName(i), err)
	}
	if up {
		return own.LinkSetUp(link)
	}
	return own.LinkSetDown(link)
}

func (n *node) end() error {
	var errs []error
	for _, p := range []*process{n.init, n.kubelet, n.proxy} {
		if p != nil {
			errs = append(errs, p.kill())
		}
	}
	return errors.Join(append(errs, n.place.Close())...)
}

func joinStrings[T fmt.Stringer](all []T) string {
	var parts []string
	for _, one := range all {
		parts = append(parts, one.String())
	}
	return strings.Join(parts, ",")
}
