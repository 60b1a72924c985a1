package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/internal/netns"
)

const (
	nodeName = "node"
	// syncLimit is how long kube-proxy may take to write its rules.
	syncLimit = 15 * time.Minute
	// proxyMetric is 0 before all rules are written for the first time.
	proxyMetric = `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} `
	metrics     = "127.0.0.1:10249"
)

// proxyConfig has kube-proxy leave alone the limits that are the whole machine's.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
hostnameOverride: ` + nodeName + `
clusterCIDR: %s
metricsBindAddress: "` + metrics + `"
clientConnection: {kubeconfig: %q}
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
`

func kubeProxy(mode string) Subject {
	return Subject{
		Name: "kube-proxy " + mode, Peer: true, load: func(l *Loaded) error { return l.kubeProxy(mode) },
		Note: "A Service each with the node's address as external IP and externalTrafficPolicy Local, so that it, too, leaves the source alone. It has ended once its rules were complete.",
	}
}

// kubeProxy has kube-proxy write its rules and end; they stay.
func (l *Loaded) kubeProxy(mode string) error {
	program, err := kubeProxyProgram()
	if err != nil {
		return err
	}
	if _, err := lookPath(map[string]string{"nftables": "nft", "iptables": "iptables-restore"}[mode], "make deps"); err != nil {
		return err
	}
	var listener net.Listener
	if err := l.Node.Do(func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		return err
	}
	server, err := apisim.Start(listener)
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }() // nobody is left to miss it
	if err := server.Put(l.objects()...); err != nil {
		return err
	}
	version, err := exec.Command(program, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", program, err)
	}
	fmt.Printf("kube-proxy: %s", version)
	kubeconfig, config := filepath.Join(l.dir, "kubeconfig"), filepath.Join(l.dir, "kube-proxy.yaml")
	if err := errors.Join(
		os.WriteFile(kubeconfig, server.Kubeconfig(), 0o600),
		os.WriteFile(config, fmt.Appendf(nil, proxyConfig, mode, endpoints, kubeconfig), 0o600),
	); err != nil {
		return err
	}
	process, err := l.Node.Run(exec.Command(program, "--config", config))
	if err != nil {
		return err
	}
	defer process.Kill()
	return awaitRules(l.Node, process)
}

// objects are the Services, each with one EndpointSlice.
func (l *Loaded) objects() []apisim.Object {
	all := []apisim.Object{&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: netns.NodeAddr4.String()}}},
	}}
	for i := range l.Listeners {
		name, at := fmt.Sprintf("service-%d", i), l.Listener(i)
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP(i), ClusterIPs: []string{clusterIP(i)},
				IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, ExternalIPs: []string{at.Addr().String()},
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			},
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4,
		}
		for _, served := range l.protocols {
			protocol := corev1.Protocol(strings.ToUpper(served.String()))
			port := served.String()
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: port, Protocol: protocol, Port: int32(at.Port())})
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port, Protocol: &protocol, Port: ptr.To[int32](endpointPort)})
		}
		for n := range l.Endpoints {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{l.Endpoint(i, n).Addr().String()}, NodeName: ptr.To(nodeName),
				Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			})
		}
		all = append(all, service, slice)
	}
	return all
}

func clusterIP(i int) string {
	return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String()
}

// awaitRules returns when kube-proxy has written all its rules.
func awaitRules(node *netns.Namespace, process *netns.Process) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			err = node.Do(func() error {
				conn, err = net.Dial("tcp", metrics)
				return err
			})
			return conn, err
		},
	}}
	for deadline := time.Now().Add(syncLimit); time.Now().Before(deadline); {
		select {
		case <-process.Done():
			return fmt.Errorf("kube-proxy has ended: %s", process.Stderr())
		case <-time.After(100 * time.Millisecond):
		}
		answer, err := client.Get("http://" + metrics + "/metrics")
		if err != nil {
			continue // it does not listen yet
		}
		text, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return err
		}
		if _, value, found := strings.Cut(string(text), proxyMetric); found && !strings.HasPrefix(value, "0\n") {
			return nil
		}
	}
	return fmt.Errorf("kube-proxy has not written its rules within %s: %s", syncLimit, process.Stderr())
}

// kubeProxyProgram returns the path of kube-proxy: that of the cluster lab if it is built
// already, or else one that is built now, once for all modes, which takes minutes the first time.
var kubeProxyProgram = sync.OnceValues(func() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	lab := os.Getenv("PORTWAY_LAB_CACHE")
	if lab == "" {
		lab = filepath.Join(base, "portway-lab")
	}
	program := filepath.Join(lab, "bin", "kube-proxy")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	program = filepath.Join(base, "portway-bench", "kube-proxy")
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("where this module is: %w", err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "k8s.io/kubernetes/cmd/kube-proxy")
	build.Dir = filepath.Join(strings.TrimSpace(string(module)), "integration", "lab", "kube")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return "", &Unavailable{fmt.Sprintf("kube-proxy cannot be built from integration/lab/kube: %v: %s", err, out)}
	}
	return program, nil
})
