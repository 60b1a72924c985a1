package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// parameters: a class's parameters choose the nodes whose addresses are published; when
// they vanish or name what does not exist, the Gateway stays where it is, and a new one
// waits. What pools say of themselves is in their status.
func parameters(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const port, other = 7050, 7051
	s := c.space(t, "parameters")
	chosen := fmt.Sprintf("{ipFamilies: [IPv4], nodeSelector: {matchLabels: {kubernetes.io/hostname: %s}}}", "node2")
	edge := func(spec string) string {
		return "apiVersion: portway.dev/v1alpha1\nkind: GatewayParameters\nmetadata: {name: edge}\nspec: " + spec
	}
	of := func(name string, port int) string {
		return strings.Replace(gateway(name, port), "gatewayClassName: "+ClassName, "gatewayClassName: by-parameters", 1)
	}
	s.apply(t, edge(chosen), `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: by-parameters}
spec:
  controllerName: `+controllerName+`
  parametersRef: {group: portway.dev, kind: GatewayParameters, namespace: `+s.name+`, name: edge}
`, backend("pods", 2), of("gw", port), route("TCPRoute", "r", "gw", "pods"))
	s.ready(t, "pods", 2)
	at := addresses(t, s.programmed(t, "gw"))
	if want := c.Node(2).Addresses[:1]; !slices.Equal(at, want) {
		t.Fatalf("published %v, want %v", at, want)
	}
	c.reach(t, "tcp", join(at[0], port), "pods")
	stream := c.stream(t, "tcp", join(at[0], port))

	stays := func(class metav1.ConditionStatus, reason gatewayv1.GatewayClassConditionReason, retained bool) {
		t.Helper()
		eventually(t, settle, func() error {
			k, err := c.Gateway.GatewayV1().GatewayClasses().Get(t.Context(), "by-parameters", metav1.GetOptions{})
			if err != nil {
				return err
			}
			gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
			if err != nil {
				return err
			}
			has := meta.IsStatusConditionTrue(gw.Status.Conditions, "portway.dev/AddressRetained")
			if has != retained || !slices.Equal(addresses(t, gw), at) {
				err = fmt.Errorf("retained %t, at %v", has, gw.Status.Addresses)
			}
			return errors.Join(err,
				current(k.Status.Conditions, k.Generation, "Accepted", class, string(reason)),
				current(gw.Status.Conditions, gw.Generation, "Accepted", metav1.ConditionTrue, ""),
				current(gw.Status.Conditions, gw.Generation, "Programmed", metav1.ConditionTrue, ""))
		})
	}
	stays(metav1.ConditionTrue, gatewayv1.GatewayClassReasonAccepted, false)
	s.kubectl(t, "delete", "gatewayparameters", "edge")
	stays(metav1.ConditionFalse, gatewayv1.GatewayClassReasonInvalidParameters, true)
	s.apply(t, of("new", other))
	eventually(t, settle, func() error {
		gw, err := c.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "new", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(gw.Status.Addresses) > 0 {
			t.Errorf("a Gateway without parameters got %v", gw.Status.Addresses)
		}
		return current(gw.Status.Conditions, gw.Generation, "Accepted", metav1.ConditionFalse, "Invalid")
	})
	s.apply(t, edge("{mode: Pool, pool: nope}"))
	stays(metav1.ConditionFalse, gatewayv1.GatewayClassReasonInvalidParameters, true)
	s.apply(t, edge(chosen))
	stays(metav1.ConditionTrue, gatewayv1.GatewayClassReasonAccepted, false)
	s.programmed(t, "new")
	stream.whole(t)

	s.apply(t, addressPool("older", "192.0.2.0/25"))
	poolHas(t, c, "older", "True Accepted 128 [192.0.2.0/25]")
	s.apply(t, addressPool("younger", "192.0.2.100-192.0.2.200"))
	poolHas(t, c, "younger", "False Overlapping 0 ")
	s.apply(t, addressPool("older", "192.0.2.0/26"))
	poolHas(t, c, "younger", "True Accepted 101 [192.0.2.100-192.0.2.200]")
	s.kubectl(t, "delete", "addresspools", "older", "younger")
	s.kubectl(t, "delete", "gateways", "gw", "new")
	s.kubectl(t, "delete", "gatewayclass", "by-parameters")
}

func addressPool(name, addresses string) string {
	return fmt.Sprintf("apiVersion: portway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: %s}\nspec: {addresses: [%s]}", name, addresses)
}

// poolHas waits for what a pool's status says: Accepted, what is left, addresses.
func poolHas(t *testing.T, c *Cluster, name, want string) {
	t.Helper()
	eventually(t, settle, func() error {
		got, err := c.Kubectl(t.Context(), "get", "addresspool", name, "-o",
			`jsonpath={.status.conditions[0].status} {.status.conditions[0].reason} {.status.available} {.status.addresses}`)
		if got = strings.ReplaceAll(got, `"`, ""); err == nil && got != want {
			err = fmt.Errorf("AddressPool %s: %s, want %s", name, got, want)
		}
		return err
	})
}
