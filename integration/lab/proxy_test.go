package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// TestKubeProxy: in both modes Services work as soon as Proxy returns, without the rules of
// the former mode.
func TestKubeProxy(t *testing.T) {
	o := lab.Options{Nodes: 2, Dual: true, CRDs: lab.CRDsNone, KubeProxy: lab.ProxyNFTables}
	l := start(t, o)
	f := newFixture(t, l, o, "smoke.yaml")
	service := f.nodePort(t)
	for _, mode := range []string{lab.ProxyNFTables, lab.ProxyIPTables, lab.ProxyNFTables, lab.ProxyLegacy} {
		for i := 1; i <= 2; i++ {
			if err := l.Proxy(i, mode); err != nil {
				t.Fatal(err)
			}
			f.serves(t, i, service)
			f.ruledBy(t, i, mode)
		}
	}
	if err := l.Proxy(1, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := l.Node(1).Output(t.Context(), "pgrep", "kube-proxy"); err == nil {
		t.Errorf("kube-proxy runs on: %s", out)
	}
	f.serves(t, 1, service) // its rules stay
	if err := l.Proxy(1, "userspace"); err == nil {
		t.Error("an unknown mode is no error")
	}
}

// nodePort opens a port for the Service on every node.
func (f *fixture) nodePort(t *testing.T) *corev1.Service {
	t.Helper()
	if _, err := f.Kubectl(t.Context(), "patch", "service", "echo", "-p", `{"spec":{"type":"NodePort"}}`); err != nil {
		t.Fatal(err)
	}
	service, err := f.client.CoreV1().Services("default").Get(t.Context(), "echo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// serves: a Service answers at a node's addresses, to the outside, and at its own, to the
// node.
func (f *fixture) serves(t *testing.T, node int, service *corev1.Service) {
	t.Helper()
	if err := f.served(t.Context(), node, service); err != nil {
		t.Error(err)
	}
}

func (f *fixture) served(ctx context.Context, node int, service *corev1.Service) error {
	var at []netip.AddrPort
	for _, ip := range service.Spec.ClusterIPs {
		at = append(at, netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(service.Spec.Ports[0].Port)))
	}
	for _, addr := range f.Node(node).Addresses {
		at = append(at, netip.AddrPortFrom(addr, uint16(service.Spec.Ports[0].NodePort)))
	}
	for i, to := range at {
		from := f.Outside()
		if i < len(service.Spec.ClusterIPs) {
			from = f.Node(node)
		}
		if line, _, err := ask(ctx, from, "tcp", to.String()); err != nil || !strings.HasPrefix(line, "pod=echo-") {
			return fmt.Errorf("%s: answer %q, %w", to, line, err)
		}
	}
	return nil
}

// ruledBy: the rules are those of one mode.
func (f *fixture) ruledBy(t *testing.T, node int, mode string) {
	t.Helper()
	rules, err := f.Node(node).Output(t.Context(), "sh", "-ec", "nft list ruleset; iptables-legacy-save")
	if err != nil {
		t.Fatal(err)
	}
	for of, sign := range map[string]string{
		lab.ProxyNFTables: "table ip kube-proxy {", lab.ProxyIPTables: "chain KUBE-SERVICES {", lab.ProxyLegacy: ":KUBE-SERVICES ",
	} {
		if strings.Contains(rules, sign) != (of == mode) {
			t.Errorf("mode %s: %q in the rules: %t", mode, sign, of != mode)
		}
	}
}
