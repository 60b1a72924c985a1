package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// class makes a GatewayClass with GatewayParameters of the same name in the namespace; both
// go with the test.
func (s *space) class(t *testing.T, name, parameters string) {
	t.Helper()
	s.apply(t, fmt.Sprintf(`
apiVersion: portway.dev/v1alpha1
kind: GatewayParameters
metadata: {name: %[2]s, namespace: %[1]s}
spec: %[3]s
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: %[2]s}
spec:
  controllerName: %[4]s
  parametersRef: {group: portway.dev, kind: GatewayParameters, namespace: %[1]s, name: %[2]s}
`, s.name, name, parameters, controllerName))
	t.Cleanup(func() { s.discard(t, "gatewayclass", name) })
}

// of makes the Gateways of manifests those of a class.
func of(class, manifests string) string {
	return strings.ReplaceAll(manifests, "gatewayClassName: "+ClassName, "gatewayClassName: "+class)
}

// addressPool makes an AddressPool, which goes with the test.
func (s *space) addressPool(t *testing.T, name, addresses string) {
	t.Helper()
	s.apply(t, addressPool(name, addresses))
	t.Cleanup(func() { s.discard(t, "addresspool", name) })
}

// discard deletes what is of no namespace, at the end of the test.
func (s *space) discard(t *testing.T, kind, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	if _, err := s.Kubectl(ctx, "delete", kind, name, "--wait=false", "--ignore-not-found"); err != nil {
		t.Error(err)
	}
}

// requesting adds spec.addresses to a Gateway, each VALUE or TYPE=VALUE.
func requesting(manifest string, addresses ...string) string {
	list := make([]string, 0, len(addresses))
	for _, a := range addresses {
		kind, value, typed := strings.Cut(a, "=")
		if !typed {
			kind, value = string(gatewayv1.IPAddressType), a
		}
		entry := fmt.Sprintf("{type: %s, value: %q}", kind, value)
		if value == "" {
			entry = fmt.Sprintf("{type: %s}", kind)
		}
		list = append(list, entry)
	}
	return strings.Replace(manifest, "spec:\n", "spec:\n  addresses: ["+strings.Join(list, ", ")+"]\n", 1)
}

// gatewayHas waits until a Gateway has the condition, and returns it.
func (s *space) gatewayHas(t *testing.T, name, condition string, status metav1.ConditionStatus, reason, message string) *gatewayv1.Gateway {
	t.Helper()
	var gw *gatewayv1.Gateway
	eventually(t, settle, func() (err error) {
		if gw, err = s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if err := current(gw.Status.Conditions, gw.Generation, condition, status, reason); err != nil {
			return err
		}
		for _, c := range gw.Status.Conditions {
			if c.Type == condition && !strings.Contains(c.Message, message) {
				return fmt.Errorf("%s says %q, want something of %q", condition, c.Message, message)
			}
		}
		return nil
	})
	return gw
}

// lead makes the client outside send what is for an address to a node, as a router would.
func (c *Cluster) lead(ctx context.Context, addr netip.Addr, node int) error {
	via := c.Node(node).Addresses[0]
	if addr.Is6() {
		via = c.Node(node).Addresses[1]
	}
	_, err := c.Outside().Output(ctx, "ip", "route", "replace", netip.PrefixFrom(addr, addr.BitLen()).String(), "via", via.String())
	return err
}

// reachLed reaches the pods of a Deployment at an address, whichever node it is led to.
func (c *Cluster) reachLed(t *testing.T, addr netip.Addr, port int, deployment string) {
	t.Helper()
	for i := range Nodes {
		if err := c.lead(t.Context(), addr, i+1); err != nil {
			t.Fatal(err)
		}
		c.reach(t, "tcp", join(addr, port), deployment)
		c.reach(t, "udp", join(addr, port), deployment)
	}
}
