package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// entangle gives objects what an uninstall has to take away: both finalizers, and a Service.
func entangle(t *testing.T, c *Cluster) {
	t.Helper()
	s := c.space(t, "entangled")
	s.class(t, balancedClass, "{mode: LoadBalancer, loadBalancerClass: "+labClass+", ipFamilies: [IPv4]}")
	s.class(t, "portway-pooled", "{mode: Pool}")
	s.apply(t, addressPool("entangled", "198.51.100.0/28"), of("portway-pooled", gateway("pooled", 7901)), of(balancedClass, gateway("balanced", 7902)))
	for what, want := range map[string]string{
		"addresspool/entangled":       "portway.dev/address-pool-in-use",
		"gatewayclass/portway-pooled": "gateway-exists-finalizer",
	} {
		eventually(t, settle, func() error {
			finalizers, err := c.Kubectl(t.Context(), "get", what, "-o", "jsonpath={.metadata.finalizers}")
			if err == nil && !strings.Contains(finalizers, want) {
				err = fmt.Errorf("%s has finalizers %s", what, finalizers)
			}
			return err
		})
	}
	eventually(t, settle, func() error {
		services := s.kubectl(t, "get", "services", "-n", System, "-l", "portway.dev/gateway-namespace=entangled", "-o", "name")
		if services == "" {
			return errors.New("no Service of mode LoadBalancer")
		}
		return nil
	})
}

// nothingLeft: no rule, chain, Lease, finalizer, or object of the programs.
func nothingLeft(t *testing.T, c *Cluster) {
	t.Helper()
	for i := 1; i <= Nodes; i++ {
		rules, err := c.Node(i).Output(t.Context(), "nft", "list", "ruleset")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(strings.ToLower(rules)) {
			// kube-proxy names its chains after Services, and deletes them with its next sync.
			if strings.Contains(line, "portway") && !strings.Contains(line, System+"/") {
				t.Errorf("node %d still has %q in:\n%s", i, line, rules)
			}
		}
	}
	kinds := "daemonsets,deployments,jobs,pods,services,serviceaccounts,roles,rolebindings,leases,networkpolicies,poddisruptionbudgets"
	eventually(t, settle, func() error {
		left := strings.TrimSpace(c.kubectlFile(t, "-n", System, "get", kinds, "-o", "name"))
		left = strings.TrimSpace(strings.Replace(left, "serviceaccount/default", "", 1))
		if left != "" {
			return errors.New("in the namespace: " + left)
		}
		return nil
	})
	for _, kind := range []string{"clusterroles", "clusterrolebindings", "validatingadmissionpolicies", "validatingadmissionpolicybindings", "nodereports"} {
		for _, name := range strings.Fields(c.kubectlFile(t, "get", kind, "-o", "name")) {
			if strings.Contains(name, "portway") || kind == "nodereports" {
				t.Errorf("%s is left", name)
			}
		}
	}
	list := c.kubectlFile(t, "get", "gatewayclasses,addresspools", "-o", "json")
	var objects metav1.PartialObjectMetadataList
	if err := json.Unmarshal([]byte(list), &objects); err != nil {
		t.Fatal(err)
	}
	for i := range objects.Items {
		if finalizers := objects.Items[i].Finalizers; len(finalizers) > 0 {
			t.Errorf("%s %s still has finalizers %v", objects.Items[i].Kind, objects.Items[i].Name, finalizers)
		}
	}
	if crds := c.kubectlFile(t, "get", "crd", "-o", "name"); !strings.Contains(crds, "addresspools.portway.dev") {
		t.Errorf("the CRDs went, and with them what users made: %s", crds)
	}
}
