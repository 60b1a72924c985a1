package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// Steps of docs/install.md.
const (
	helmLimit = 3 * time.Minute
	release   = "portway"
)

// TestInstall does what docs/install.md says, in a cluster with nothing in it and with the
// files of the real image: install, look, upgrade under traffic and uninstall, with helm and
// without. What is uninstalled leaves nothing, on no node and in no object.
func TestInstall(t *testing.T) {
	skipUnlessE2E(t)
	// Not below the test's own directory: nodes would not see it.
	files := filepath.Join(lab.CacheDir(), "image")
	if err := os.RemoveAll(files); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	buildImage(t, runtime.GOARCH, archive)
	unpackImage(t, archive, files)
	c := startWith(t, Options{CRDs: lab.CRDsNone, Images: map[string]string{imageRepository: files}})

	// The namespace is there before, as it is labelled for the agents.
	namespace, err := os.ReadFile(filepath.Join(c.root, "deploy", "base", "namespace.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.applyFile(t, string(namespace))
	chart := []string{release, filepath.Join(c.root, "deploy", "chart"), "--namespace", System, "--set", "image.tag=e2e"}
	out, err := c.helm(t.Context(), append([]string{"install"}, chart...)...)
	if err == nil || !strings.Contains(out, "kubectl apply --server-side") {
		t.Fatalf("without the Gateway API: want an error with the command that adds it, got %v: %s", err, out)
	}
	c.gatewayAPI(t)

	t.Run("helm", func(t *testing.T) {
		out := c.mustHelm(t, append([]string{"install", "--wait", "--timeout", helmLimit.String()}, chart...)...)
		if !strings.Contains(out, "helm test portway --namespace portway-system") || strings.Contains(out, "WEAKER") {
			t.Errorf("the notes do not tell how to go on:\n%s", out)
		}
		c.mustHelm(t, "test", release, "--namespace", System, "--timeout", helmLimit.String())
		// The lab has no kubelet to ask for logs.
		if log, err := c.PodLog(System, "portway-test", "test"); err != nil || !strings.Contains(log, "nftables") {
			t.Errorf("the check prints no table of nodes: %v\n%s", err, log)
		}
		guide(t, c)
		t.Run("podSecurity", func(t *testing.T) { podSecurity(t, c) })
		t.Run("agentRights", func(t *testing.T) { agentRights(t, c) })
		t.Run("controllerRights", func(t *testing.T) { controllerRights(t, c) })
		upgrade(t, c, chart)
		entangle(t, c)
		c.mustHelm(t, "uninstall", release, "--namespace", System, "--timeout", helmLimit.String())
		nothingLeft(t, c)
	})
	t.Run("manifests", func(t *testing.T) {
		install := filepath.Join(c.root, "deploy", "install.yaml")
		c.kubectlFile(t, "apply", "--server-side", "--dry-run=server", "-f", install)
		c.applyManifest(t, install)
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		cleanup := filepath.Join(c.root, "deploy", "cleanup.yaml")
		c.applyManifest(t, cleanup)
		c.kubectlFile(t, "-n", System, "wait", "--for=condition=complete", "--timeout="+helmLimit.String(), "job/portway-cleanup")
		c.kubectlFile(t, "delete", "-f", cleanup)
		c.kubectlFile(t, "delete", "-f", filepath.Join(c.root, "deploy", "base", "portway.yaml"))
		nothingLeft(t, c)
	})
}

func (c *Cluster) mustHelm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.helm(t.Context(), args...)
	if err != nil {
		jobs, _ := c.Kubectl(t.Context(), "-n", System, "get", "all,nodereports,leases", "-o", "wide")
		t.Fatalf("%v\n%s", err, jobs)
	}
	return out
}

func (c *Cluster) kubectlFile(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *Cluster) applyFile(t *testing.T, manifest string) {
	t.Helper()
	if err := c.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

// applyManifest applies a rendered manifest with the image that there is.
func (c *Cluster) applyManifest(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.applyFile(t, string(text))
}

// gatewayAPI applies the CRDs of the Gateway API, experimental ones for the guide's v1alpha2.
func (c *Cluster) gatewayAPI(t *testing.T) {
	t.Helper()
	dir, err := lab.CRDDir(t.Context(), lab.CRDsExperimental)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "gateway.networking*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		c.kubectlFile(t, "apply", "--server-side", "-f", file)
	}
	c.kubectlFile(t, "wait", "--for=condition=Established", "--timeout=1m", "crd", "--all")
}

// upgrade changes a flag of the agents under traffic: every pod is another one then, and
// nobody was refused.
func upgrade(t *testing.T, c *Cluster, chart []string) {
	t.Helper()
	s := c.space(t, "upgrade")
	s.apply(t, backend("pods", 2), gateway("gw", 7900), route("TCPRoute", "tcp", "gw", "pods"))
	s.ready(t, "pods", 2)
	s.programmed(t, "gw")
	address := join(c.Node(1).Addresses[0], 7900)
	c.reach(t, "tcp", address, "pods")
	traffic := c.stream(t, "tcp", address)
	c.mustHelm(t, slices.Concat([]string{"upgrade", "--wait", "--timeout", helmLimit.String()}, chart, []string{"--set", "agent.verbosity=2,controller.verbosity=2"})...)
	traffic.whole(t)
}

// entangle gives objects what an uninstall has to take away: both finalizers, and a Service.
func entangle(t *testing.T, c *Cluster) {
	t.Helper()
	s := c.space(t, "entangled")
	s.class(t, balancedClass, "{mode: LoadBalancer, loadBalancerClass: "+labClass+", ipFamilies: [IPv4, IPv6]}")
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
		if strings.Contains(strings.ToLower(rules), "portway") {
			t.Errorf("node %d still has:\n%s", i, rules)
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

// podSecurity: only the agents keep the namespace from the level "restricted", and only by
// the network of their nodes and what they need there.
func podSecurity(t *testing.T, c *Cluster) {
	t.Helper()
	for level, allowed := range map[string][]string{
		"baseline":   {"host namespaces", "hostPort", "non-default capabilities"},
		"restricted": {"host namespaces", "hostPort", "unrestricted capabilities", "runAsNonRoot != true", "runAsUser=0"},
	} {
		cmd, err := c.Machine().Command(t.Context(), c.Bin("kubectl"), "label", "--dry-run=server", "--overwrite", "namespace", System, "pod-security.kubernetes.io/enforce="+level)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		warnings := 0
		for line := range strings.Lines(string(out)) {
			pods, violations, ok := strings.Cut(strings.TrimPrefix(line, "Warning: "), ": ")
			if !strings.HasPrefix(line, "Warning: portway") || !ok {
				continue
			}
			warnings++
			if !strings.HasPrefix(pods, "portway-agent-") {
				t.Errorf("%s: %s", level, line)
			}
			for _, violation := range strings.Split(strings.TrimSpace(violations), ", ") {
				if !slices.Contains(allowed, violation) {
					t.Errorf("%s: the agents have %q beyond %v", level, violation, allowed)
				}
			}
		}
		if warnings == 0 {
			t.Errorf("%s: no warning of the agents: %s", level, out)
		}
	}
}
