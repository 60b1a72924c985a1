package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
)

const (
	kubeletLimit   = 60 * time.Second
	kubeletHealthz = "127.0.0.1:10248"
	kubeletUser    = "kube-apiserver-to-nodes"
)

// kubeletConfig is for a node that shares its machine with others and with their users:
// it renews as often as monitorGrace needs, evicts nobody for what others fill, and sets
// no OOM score.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [pods]
oomScoreAdj: 0
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %q}}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [%q]
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 10s
syncFrequency: 10s
volumePluginDir: /var/lib/kubelet/volumeplugins
`

// bootSetting is where a kubelet reads which boot this is, and what reports to it.
const bootSetting = "kernel/random/boot_id"

// kernelSettings are what a kubelet insists on for the whole machine. A node has files
// in their place that say so already.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// shadowKernel returns binds for the first process of node I: settings, and the number
// of the boot, which is the machine's otherwise.
func (m *Machine) shadowKernel(i int, boot string) ([]string, error) {
	dir := m.nodeFile(i, "kernel")
	files := map[string]string{bootSetting: boot}
	for setting, value := range kernelSettings {
		files[setting] = value
	}
	var binds []string
	for setting, value := range files {
		over := filepath.Join("/proc/sys", setting)
		if _, err := os.Stat(over); err != nil {
			continue
		}
		file := filepath.Join(dir, setting)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return nil, err
		}
		binds = append(binds, "--bind", file+":"+over)
	}
	return binds, nil
}

// startFull starts what a booted node of the full level has beside containerd.
func (m *Machine) startFull(ctx context.Context, i int, n *node) error {
	err := waitFor(ctx, containerdLimit, "containerd of "+layout.NodeName(i), n.init, func(ctx context.Context) error {
		_, err := m.ctr(ctx, i, n, "version")
		return err
	})
	if err != nil {
		return err
	}
	if err := m.loadImages(ctx, i, n); err != nil {
		return err
	}
	if err := m.announce(ctx, i); err != nil {
		return err
	}
	dns := layout.DNS(m.Families)
	config := fmt.Sprintf(kubeletConfig, m.pki("ca.crt"), dns.String())
	if err := os.WriteFile(m.nodeFile(i, "kubelet.yaml"), []byte(config), 0o644); err != nil {
		return err
	}
	return m.StartKubelet(ctx, i)
}

// announce makes the Node before its kubelet does, with its pod ranges: no controller
// hands them out.
func (m *Machine) announce(ctx context.Context, i int) error {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: layout.NodeName(i)}}
	for _, pods := range layout.PodRanges(i, m.Families) {
		object.Spec.PodCIDRs = append(object.Spec.PodCIDRs, pods.String())
	}
	object.Spec.PodCIDR = object.Spec.PodCIDRs[0]
	_, err := m.client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// StartKubelet starts the kubelet of a node that runs, unless it runs, and waits until it
// says that it is well.
func (m *Machine) StartKubelet(ctx context.Context, i int) error {
	m.mu.Lock()
	n, err := m.fullNode(i)
	if err == nil && (n.kubelet == nil || n.kubelet.ended() != nil) {
		n.kubelet, err = program{
			name: "kubelet", logDir: m.nodeFile(i, ""), args: m.enter(i, n,
				filepath.Join(m.Bin, "kubelet"), "--config", m.nodeFile(i, "kubelet.yaml"),
				"--kubeconfig", m.kubeconfig(layout.NodeName(i)), "--hostname-override", layout.NodeName(i),
				"--node-ip", joinStrings(layout.Node(i).List(m.Families)), "--v", "2"),
		}.start()
	}
	if err != nil {
		m.mu.Unlock()
		return err
	}
	started := n.kubelet
	m.mu.Unlock()
	return waitFor(ctx, kubeletLimit, "kubelet of "+layout.NodeName(i), started, n.kubeletHealthy)
}

// StopKubelet kills the kubelet of a node; its pods run on.
func (m *Machine) StopKubelet(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.fullNode(i)
	if err != nil || n.kubelet == nil {
		return err
	}
	stopped := n.kubelet
	n.kubelet = nil
	return stopped.kill()
}

// fullNode needs mu.
func (m *Machine) fullNode(i int) (*node, error) {
	if !m.Full {
		return nil, errors.New("the kubelet of the small level is a fake and lives and dies with its node")
	}
	n, ok := m.nodes[i]
	if !ok {
		return nil, fmt.Errorf("%s does not run", layout.NodeName(i))
	}
	return n, nil
}

func (n *node) kubeletHealthy(ctx context.Context) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		outer := n.place.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return nil
		})
		return conn, errors.Join(outer, err)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+kubeletHealthz+"/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("healthz says %s", answer.Status)
	}
	return errors.Join(err, answer.Body.Close())
}
