package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/portway-dev/portway/integration/lab/internal/layout"
	"github.com/portway-dev/portway/integration/lab/internal/pki"
)

// Components of the control plane, which Stop and Start know by these names.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
)

const (
	apiPort    = 6443
	etcdURL    = "http://127.0.0.1:2379"
	apiLimit   = 60 * time.Second
	adminGroup = "system:masters"
	// monitorGrace is after how long without a renewal a node is NotReady; the
	// nodes renew every 2 s.
	monitorGrace = 8 * time.Second
)

// component is a program of the control plane, running or not.
type component struct {
	program
	running *process
}

// startControlPlane returns when the API server is ready; the controllers find
// their own way.
func (m *Machine) startControlPlane(ctx context.Context) error {
	if err := m.makeCredentials(); err != nil {
		return err
	}
	for name, args := range map[string][]string{
		Etcd: m.etcdArgs(), APIServer: m.apiServerArgs(),
		ControllerManager: m.controllerManagerArgs(), Scheduler: m.schedulerArgs(),
	} {
		m.components[name] = &component{program: program{name: name, logDir: m.Dir, args: append([]string{filepath.Join(m.Bin, name)}, args...)}}
	}
	if err := m.connect(); err != nil {
		return err
	}
	for _, name := range []string{Etcd, APIServer, ControllerManager, Scheduler} {
		if err := m.Start(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// Start starts a component that does not run; the API server is ready on return.
func (m *Machine) Start(ctx context.Context, name string) error {
	m.mu.Lock()
	c, ok := m.components[name]
	if !ok {
		m.mu.Unlock()
		return fmt.Errorf("no component %q", name)
	}
	if c.running != nil && c.running.ended() == nil {
		m.mu.Unlock()
		return nil
	}
	started, err := c.start()
	c.running = started
	m.mu.Unlock()
	if err != nil || name != APIServer {
		return err
	}
	return waitFor(ctx, apiLimit, "API server", started, func(ctx context.Context) error {
		return m.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// Stop kills a component outright. It takes no leave: the API server would take
// half a minute for it.
func (m *Machine) Stop(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.components[name]
	if !ok {
		return fmt.Errorf("no component %q", name)
	}
	if c.running == nil {
		return nil
	}
	stopped := c.running
	c.running = nil
	return stopped.kill()
}

// makeCredentials makes all keys and a kubeconfig for each component and for the
// administrator.
func (m *Machine) makeCredentials() error {
	authority, err := pki.NewAuthority(m.pki(""))
	if err != nil {
		return err
	}
	m.authority = authority
	addrs := append(layout.Machine().List(layout.Dual), layout.ServiceAddresses(layout.Dual)...)
	addrs = append(addrs, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	if err := errors.Join(authority.Serving("apiserver", names, addrs), authority.SigningKey("serviceaccounts")); err != nil {
		return err
	}
	for user, groups := range map[string][]string{
		"admin":                       {adminGroup},
		"system:" + ControllerManager: nil,
		"system:" + Scheduler:         nil,
		"system:kube-proxy":           nil,
	} {
		if err := m.writeKubeconfig(user, user, groups...); err != nil {
			return err
		}
	}
	if err := m.authority.ClientFiles(kubeletUser, "system:"+kubeletUser, adminGroup); err != nil {
		return err
	}
	if !m.Audit {
		return nil
	}
	return os.WriteFile(m.pki("audit-policy.yaml"), []byte(auditPolicy), 0o644)
}

// auditPolicy records what the pods ask for, and nothing of the components.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// apiServer is where everybody but a pod finds it.
func (m *Machine) apiServer() netip.AddrPort {
	return netip.AddrPortFrom(layout.Machine().List(m.Families)[0], apiPort)
}

func (m *Machine) pki(file string) string { return filepath.Join(m.Dir, "pki", file) }
func (m *Machine) kubeconfig(name string) string {
	return filepath.Join(m.Dir, "pki", name+".kubeconfig")
}
func (m *Machine) componentConfig(name string) string { return m.kubeconfig("system:" + name) }

// writeKubeconfig writes the kubeconfig NAME for a user of some groups.
func (m *Machine) writeKubeconfig(name, user string, groups ...string) error {
	m.signing.Lock()
	cert, key, err := m.authority.Client(user, groups...)
	m.signing.Unlock()
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{
		Server:                   "https://" + m.apiServer().String(),
		CertificateAuthorityData: m.authority.PEM(),
	}
	config.AuthInfos["lab"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "lab"}
	config.CurrentContext = "lab"
	return clientcmd.WriteToFile(*config, m.kubeconfig(name))
}

func (m *Machine) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", m.kubeconfig("admin"))
	if err != nil {
		return err
	}
	config.QPS, config.RateLimiter = -1, nil
	config.ContentConfig = rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"}
	m.client, err = kubernetes.NewForConfig(config)
	return err
}

func (m *Machine) etcdArgs() []string {
	return []string{
		"--data-dir", filepath.Join(m.Dir, "etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380",
	}
}

func (m *Machine) apiServerArgs() []string {
	bind := "0.0.0.0"
	if m.Families != layout.IPv4 {
		bind = "::"
	}
	args := []string{
		"--etcd-servers", etcdURL,
		"--bind-address", bind, "--advertise-address", m.apiServer().Addr().String(), "--secure-port", fmt.Sprint(apiPort),
		"--tls-cert-file", m.pki("apiserver.crt"), "--tls-private-key-file", m.pki("apiserver.key"),
		"--client-ca-file", m.pki("ca.crt"),
		"--service-cluster-ip-range", layout.Services(m.Families),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", m.pki("serviceaccounts.pub"),
		"--service-account-signing-key-file", m.pki("serviceaccounts.key"),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--kubelet-preferred-address-types", "InternalIP",
		"--kubelet-client-certificate", m.pki(kubeletUser + ".crt"), "--kubelet-client-key", m.pki(kubeletUser + ".key"),
		// The machine has two cores and many tests; nobody is to be throttled
		// by anything but its own client.
		"--enable-priority-and-fairness=false", "--max-requests-inflight", "0", "--max-mutating-requests-inflight", "0",
		"--profiling=false", "--v", "1",
	}
	if m.Audit {
		args = append(args, "--audit-policy-file", m.pki("audit-policy.yaml"), "--audit-log-path", filepath.Join(m.Dir, "audit.log"))
	}
	return args
}

func (m *Machine) controllerManagerArgs() []string {
	return []string{
		"--kubeconfig", m.componentConfig(ControllerManager), "--leader-elect=false", "--use-service-account-credentials",
		"--authentication-kubeconfig", m.componentConfig(ControllerManager), "--authorization-kubeconfig", m.componentConfig(ControllerManager),
		"--root-ca-file", m.pki("ca.crt"), "--service-account-private-key-file", m.pki("serviceaccounts.key"),
		"--cluster-cidr", layout.Pods(m.Families), "--service-cluster-ip-range", layout.Services(m.Families),
		"--allocate-node-cidrs=false", // a node's pod range follows from its number
		"--node-monitor-grace-period", monitorGrace.String(), "--node-monitor-period", "500ms",
		"--kube-api-qps", "300", "--kube-api-burst", "600",
		"--bind-address", "127.0.0.1", "--v", "1",
	}
}

func (m *Machine) schedulerArgs() []string {
	return []string{
		"--kubeconfig", m.componentConfig(Scheduler), "--leader-elect=false",
		"--authentication-kubeconfig", m.componentConfig(Scheduler), "--authorization-kubeconfig", m.componentConfig(Scheduler),
		"--kube-api-qps", "300", "--kube-api-burst", "600",
		"--bind-address", "127.0.0.1", "--v", "1",
	}
}
