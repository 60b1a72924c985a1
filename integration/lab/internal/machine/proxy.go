package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
)

// Modes of kube-proxy. That with iptables writes what "iptables" of this machine writes;
// legacy, what "iptables-legacy" does.
const (
	ProxyNFTables = "nftables"
	ProxyIPTables = "iptables"
	ProxyLegacy   = "iptables-legacy"
)

const (
	proxyLimit  = 30 * time.Second
	proxyMetric = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{" // of each family, 0 before the first time
	metricsPort = 10249
)

// proxyConfig has kube-proxy leave the limits of the machine's kernel alone, which it
// would set.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
hostnameOverride: %s
clusterCIDR: %s
metricsBindAddress: "%s"
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
iptables: {minSyncPeriod: 100ms, syncPeriod: 30s}
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
`

// CheckProxy says what is wrong with a mode of kube-proxy; none is a mode, too.
func CheckProxy(mode string) error {
	switch mode {
	case "", ProxyNFTables, ProxyIPTables, ProxyLegacy:
		return nil
	default:
		return fmt.Errorf("kube-proxy mode %q: must be %s, %s or %s", mode, ProxyNFTables, ProxyIPTables, ProxyLegacy)
	}
}

// Proxy runs kube-proxy on node I in a mode, anew if it runs, and returns when all its
// rules are written; without a mode it ends it. The rules stay, until kube-proxy starts
// there in another mode.
func (m *Machine) Proxy(ctx context.Context, i int, mode string) error {
	if err := CheckProxy(mode); err != nil {
		return err
	}
	started, err := m.replaceProxy(i, mode)
	if err != nil || started == nil {
		return err
	}
	return waitFor(ctx, proxyLimit, "kube-proxy of "+layout.NodeName(i), started, func(ctx context.Context) error {
		return m.proxySynced(ctx, i)
	})
}

func (m *Machine) replaceProxy(i int, mode string) (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[i]
	if !ok {
		return nil, fmt.Errorf("%s does not run", layout.NodeName(i))
	}
	if n.proxy != nil {
		if err := n.proxy.kill(); err != nil {
			return nil, err
		}
		n.proxy = nil
	}
	if mode == "" {
		return nil, nil
	}
	var err error
	n.proxy, err = m.startProxy(n, i, mode)
	return n.proxy, err
}

// startProxy runs it in all namespaces of the node: iptables has its lock in /run.
func (m *Machine) startProxy(n *node, i int, mode string) (*process, error) {
	var env []string
	if mode == ProxyLegacy {
		programs, err := m.legacyPrograms()
		if err != nil {
			return nil, err
		}
		mode, env = ProxyIPTables, []string{"PATH=" + programs + ":" + os.Getenv("PATH")}
	}
	dir := filepath.Join(m.Dir, layout.NodeName(i))
	file := filepath.Join(dir, "kube-proxy.yaml")
	config := fmt.Sprintf(proxyConfig, mode, layout.NodeName(i), layout.Pods(m.Families), m.proxyMetrics(i), m.componentConfig("kube-proxy"))
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	args := m.enter(i, n, filepath.Join(m.Bin, "kube-proxy"), "--config", file, "--v", "2")
	return program{name: "kube-proxy", logDir: dir, env: env, args: args}.start()
}

// legacyPrograms makes a directory where the programs of iptables-legacy have the plain
// names. It needs mu.
func (m *Machine) legacyPrograms() (string, error) {
	dir := filepath.Join(m.Dir, "iptables-legacy")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"", "-save", "-restore"} {
			program, err := exec.LookPath(family + "-legacy" + what)
			if err != nil {
				return "", fmt.Errorf("kube-proxy mode %s: %w", ProxyLegacy, err)
			}
			if err := os.Symlink(program, filepath.Join(dir, family+what)); err != nil && !errors.Is(err, fs.ErrExist) {
				return "", err
			}
		}
	}
	return dir, nil
}

func (m *Machine) proxyMetrics(i int) netip.AddrPort {
	return netip.AddrPortFrom(layout.Node(i).List(m.Families)[0], metricsPort)
}

// proxySynced succeeds once rules were written for each family.
func (m *Machine) proxySynced(ctx context.Context, i int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/metrics", m.proxyMetrics(i)), nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(answer.Body)
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		return err
	}
	written := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, proxyMetric) && !strings.HasSuffix(line, " 0\n") {
			written[line[:strings.Index(line, "}")+1]] = true
		}
	}
	for _, addr := range layout.Node(i).List(m.Families) {
		family := "IPv4"
		if addr.Is6() {
			family = "IPv6"
		}
		if !written[fmt.Sprintf("%sip_family=%q}", proxyMetric, family)] {
			return fmt.Errorf("has not written the rules of %s", family)
		}
	}
	return nil
}
