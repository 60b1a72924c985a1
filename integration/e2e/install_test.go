package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/integration/lab"
)

// Steps of docs/install.md.
const (
	helmLimit = 3 * time.Minute
	// patience of somebody who has installed it, on a machine that is not busy.
	patience = 30 * time.Second
	release  = "portway"
)

// TestInstall does what docs/install.md says in clusters with nothing in them, with the real
// image on nodes with a real kubelet, containerd and CNI plugins. What is uninstalled leaves
// nothing, on no node and in no object. A machine without containerd does so in the first of
// the clusters, with the files of the image on the lab's fake kubelets, and says so; CI may
// not.
func TestInstall(t *testing.T) {
	skipUnlessE2E(t)
	full := lab.CheckFull()
	if full != nil && os.Getenv("CI") == "true" {
		t.Fatal(full)
	}
	for i, test := range []struct {
		name string
		o    Options
		run  func(*installation, *testing.T)
	}{
		{"dual-ptp-nftables", Options{CNI: lab.CNIPtp, KubeProxy: lab.ProxyNFTables}, (*installation).everything},
		{"IPv4-bridge-iptables", Options{OnlyIPv4: true, CNI: lab.CNIBridge, KubeProxy: lab.ProxyIPTables}, (*installation).givenUp},
		{"IPv6-ptp-none", Options{OnlyIPv6: true, CNI: lab.CNIPtp}, (*installation).manifests},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.o.CRDs, test.o.Full, test.o.Progress = lab.CRDsNone, full == nil, os.Stderr
			if full != nil {
				if i > 0 {
					t.Skip("this cluster differs on the full level only")
				}
				t.Logf("on the small level instead, whose kubelets are fakes: %v", full)
				test.o.CNI = ""
			}
			test.run(install(t, test.o), t)
		})
	}
}

// installation is a cluster that the product is brought to by its image.
type installation struct {
	*Cluster
	chart []string // helm's arguments
	full  bool
	suite *Suite
}

// install starts a cluster with the namespace of step 2, which is labelled for the agents.
func install(t *testing.T, o Options) *installation {
	t.Helper()
	images := map[string]string{imageRepository: nativeImage(t).archive, raisedRepository: raisedImage(t)}
	suite, err := BuildSuite(t.Context(), &o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Full {
		for _, archive := range images {
			o.Archives = append(o.Archives, archive)
		}
	} else {
		o.Images = map[string]string{}
		for name, archive := range images {
			// Not below the test's own directory: nodes would not see it.
			files := filepath.Join(lab.CacheDir(), "image", filepath.Base(name))
			if err := os.RemoveAll(files); err != nil {
				t.Fatal(err)
			}
			unpackImage(t, archive, files)
			o.Images[name] = files
		}
	}
	c := startWith(t, o)
	c.kubectlFile(t, "apply", "-f", filepath.Join(c.root, "deploy", "base", "namespace.yaml"))
	return &installation{
		Cluster: c, full: o.Full, suite: suite,
		chart: []string{release, filepath.Join(c.root, "deploy", "chart"), "--namespace", System, "--set", "image.tag=" + nativeTag},
	}
}

// helmInstall is step 3.
func (in *installation) helmInstall(t *testing.T) (notes string) {
	t.Helper()
	return in.mustHelm(t, append([]string{"install", "--wait", "--timeout", helmLimit.String()}, in.chart...)...)
}

func (in *installation) helmUninstall(t *testing.T) {
	t.Helper()
	in.mustHelm(t, "uninstall", release, "--namespace", System, "--timeout", helmLimit.String())
}

func (in *installation) everything(t *testing.T) { //nolint:thelper // a case of TestInstall
	out, err := in.helm(t.Context(), append([]string{"install"}, in.chart...)...)
	if err == nil || !strings.Contains(out, "kubectl apply --server-side") {
		t.Fatalf("without the Gateway API: want an error with the command that adds it, got %v: %s", err, out)
	}
	in.gatewayAPI(t, lab.CRDsExperimental)
	t.Run("guide", func(t *testing.T) {
		s := guideObjects(t, in.Cluster)
		answered := in.firstAnswers(t)
		notes := in.helmInstall(t)
		if took := answered(); took > patience {
			t.Errorf("from helm install to the guide's first answers: %s, more than %s", took, patience)
		} else {
			t.Logf("from helm install to the guide's first answers: %s", took.Round(100*time.Millisecond))
		}
		if !strings.Contains(notes, "helm test portway --namespace portway-system") || strings.Contains(notes, "WEAKER") {
			t.Errorf("the notes do not tell how to go on:\n%s", notes)
		}
		guideServed(t, s)
		in.helmTest(t)
		in.agents(t)
		t.Run("podSecurity", func(t *testing.T) { podSecurity(t, in.Cluster) })
		t.Run("agentRights", func(t *testing.T) { agentRights(t, in.Cluster) })
		t.Run("weakerRights", func(t *testing.T) { weakerRights(t, in.Cluster) })
		t.Run("controllerRights", func(t *testing.T) { controllerRights(t, in.Cluster) })
		t.Run("finalizerRights", func(t *testing.T) { finalizerRights(t, in.Cluster) })
	})
	t.Run("conformance", func(t *testing.T) {
		var out strings.Builder
		if err := in.suite.Run(t.Context(), in.Cluster, &out, "", "e2e"); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
	})
	t.Run("upgrade", in.upgrades)
	if in.full {
		t.Run("kubelets", in.kubelets)
	}
	t.Run("uninstall", func(t *testing.T) {
		entangle(t, in.Cluster)
		in.helmUninstall(t)
		nothingLeft(t, in.Cluster)
	})
}

// firstAnswers returns how long it took, from now, until both of the guide's ports answered.
func (in *installation) firstAnswers(t *testing.T) (took func() time.Duration) {
	t.Helper()
	began, done, node := time.Now(), make(chan time.Duration, 1), in.Node(1).Addresses[0]
	go func() {
		for _, port := range []int{8080, 8090} {
			for t.Context().Err() == nil {
				if _, err := in.ask(t.Context(), "tcp", join(node, port)); err == nil {
					break
				}
				time.Sleep(askPause)
			}
		}
		done <- time.Since(began)
	}()
	return func() time.Duration {
		select {
		case took := <-done:
			return took
		case <-time.After(helmLimit):
			t.Fatal("the guide's ports never answered")
			return 0
		}
	}
}

// helmTest is step 4.
func (in *installation) helmTest(t *testing.T) {
	t.Helper()
	args := []string{"test", release, "--namespace", System, "--timeout", helmLimit.String()}
	if in.full {
		args = append(args, "--logs")
	}
	log := in.mustHelm(t, args...)
	if !in.full { // whose kubelets cannot be asked for logs
		var err error
		if log, err = in.PodLog(System, "portway-test", "test"); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(log, "nftables") {
		t.Errorf("the check prints no table of nodes:\n%s", log)
	}
}

// netAdmin is all that an agent may do, as the kernel shows it.
const netAdmin = "0000000000001000"

// agents may do no more than they need, and take no more memory than is said of them, once
// what they needed to start has been given back.
func (in *installation) agents(t *testing.T) {
	t.Helper()
	const most = 40e6
	for i := range Nodes {
		var capabilities string
		var resident float64
		took := eventually(t, time.Minute, func() (err error) {
			capabilities, resident, err = in.agentProcess(t, i+1)
			if err == nil && resident > most {
				err = fmt.Errorf("%.1f MB are resident, more than %.0f", resident/1e6, most/1e6)
			}
			return err
		})
		t.Logf("the agent of node %d has %.1f MB resident, %s after it was looked at first", i+1, resident/1e6, took.Round(time.Second))
		if in.full && capabilities != netAdmin {
			t.Errorf("the agent of node %d may do %q", i+1, capabilities)
		}
	}
}

// agentProcess returns the bounding set of an agent, and how many bytes of it are resident.
func (in *installation) agentProcess(t *testing.T, node int) (capabilities string, resident float64, err error) {
	t.Helper()
	status, err := in.Node(node).Output(t.Context(), "sh", "-ec", "cat /proc/$(pgrep -x portway-agent)/status")
	if err != nil {
		return "", 0, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		fields[key] = value
	}
	var kib float64
	if _, err := fmt.Sscanf(fields["VmRSS"], "%f kB", &kib); err != nil {
		return "", 0, fmt.Errorf("VmRSS %q: %w", fields["VmRSS"], err)
	}
	return fields["CapBnd"], kib * 1024, nil
}

// givenUp: an uninstall that does not get through is taken back, agents start anew and nothing is
// lost by it; the next one needs no controller, and finds what it has left.
func (in *installation) givenUp(t *testing.T) { //nolint:thelper // a case of TestInstall
	in.gatewayAPI(t, lab.CRDsStandard)
	in.chart = append(in.chart, "--set", "gatewayClass.name=my-tcp-gateway-class")
	in.chart = append(in.chart, "--set", "cleanup.timeout=1ms")
	in.helmInstall(t)
	t.Run("rollback", func(t *testing.T) {
		s := guideObjectsToday(t, in.Cluster)
		guideServed(t, s)
		if out, err := in.helm(t.Context(), "uninstall", release, "--namespace", System, "--timeout", helmLimit.String()); err == nil {
			t.Fatalf("uninstalled in no time: %s", out)
		}
		in.kubectlFile(t, "delete", "--ignore-not-found", "-f", filepath.Join(in.root, "deploy", "cleanup.yaml"))
		in.mustHelm(t, "rollback", release, "1", "--namespace", System, "--wait", "--timeout", helmLimit.String())
		guideServed(t, s)
		traffic := in.stream(t, "tcp", join(in.Node(1).Addresses[0], 8080))
		in.kubectlFile(t, "-n", System, "rollout", "restart", "daemonset/portway-agent")
		in.kubectlFile(t, "-n", System, "rollout", "status", "--timeout="+helmLimit.String(), "daemonset/portway-agent")
		traffic.whole(t)
	})
	in.upgraded(t, "cleanup.timeout=4m")
	entangle(t, in.Cluster)
	in.kubectlFile(t, "-n", System, "delete", "--cascade=foreground", "deployment/portway-controller")
	in.helmUninstall(t)
	nothingLeft(t, in.Cluster)
}

// upgraded sets a value.
func (in *installation) upgraded(t *testing.T, value string) {
	t.Helper()
	in.mustHelm(t, slices.Concat([]string{"upgrade", "--wait", "--timeout", helmLimit.String()}, in.chart, []string{"--set", value})...)
}

// manifests: without helm.
func (in *installation) manifests(t *testing.T) { //nolint:thelper // a case of TestInstall
	in.gatewayAPI(t, lab.CRDsExperimental)
	in.schemas(t)
	in.applyManifest(t, "install.yaml")
	if err := in.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("guide", func(t *testing.T) { guideServed(t, guideObjects(t, in.Cluster)) })
	cleanup := filepath.Join(in.root, "deploy", "cleanup.yaml")
	in.applyManifest(t, "cleanup.yaml")
	in.kubectlFile(t, "-n", System, "wait", "--for=condition=complete", "--timeout="+helmLimit.String(), "job/portway-cleanup")
	in.kubectlFile(t, "delete", "--ignore-not-found", "-f", cleanup)
	in.kubectlFile(t, "delete", "--ignore-not-found", "-f", filepath.Join(in.root, "deploy", "base", "portway.yaml"))
	nothingLeft(t, in.Cluster)
}

// schemas: whatever there is to be applied by somebody, the API server takes as it stands.
func (in *installation) schemas(t *testing.T) {
	t.Helper()
	dryRun := func(args ...string) {
		t.Helper()
		in.kubectlFile(t, append([]string{"apply", "--server-side", "--dry-run=server"}, args...)...)
	}
	// Kinds of ours have to be there before objects of them.
	in.kubectlFile(t, "apply", "--server-side", "-k", filepath.Join(in.root, "deploy", "crds"))
	for _, pattern := range []string{"deploy/*.yaml", "examples/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(in.root, pattern))
		if err != nil || len(files) < 2 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// The guide is of a time when TCPRoute was v1alpha2, of which the API server warns.
			replaced := strings.ReplaceAll(string(text), "gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1")
			file := filepath.Join(t.TempDir(), filepath.Base(file))
			if err := os.WriteFile(file, []byte(replaced), 0o644); err != nil {
				t.Fatal(err)
			}
			dryRun("-f", file)
		}
	}
	dryRun("-k", filepath.Join(in.root, "deploy", "base"))
	for _, component := range []string{"layer2", "iptables-legacy"} {
		dir := t.TempDir()
		at := func(name string) string {
			path, err := filepath.Rel(dir, filepath.Join(in.root, "deploy", name))
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
		kustomization := fmt.Sprintf("resources: [%s]\ncomponents: [%s]\n", at("base"), at(component))
		if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o644); err != nil {
			t.Fatal(err)
		}
		dryRun("-k", dir)
	}
}

// applyManifest applies a manifest of deploy, with the image that there is.
func (in *installation) applyManifest(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(in.root, "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	replaced := strings.ReplaceAll(string(text), imageRepository+":dev", imageRepository+":"+nativeTag)
	if replaced == string(text) {
		t.Fatalf("%s names no image", name)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(replaced), 0o644); err != nil {
		t.Fatal(err)
	}
	in.kubectlFile(t, "apply", "--server-side", "-f", file)
}

// mustHelm runs helm, and takes no warning of the API server.
func (c *Cluster) mustHelm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.helm(t.Context(), args...)
	if err == nil && strings.Contains(strings.ToLower(out), "warning") {
		err = errors.New("the API server warns")
	}
	if err != nil {
		jobs, _ := c.Kubectl(t.Context(), "-n", System, "get", "all,nodereports,leases", "-o", "wide")
		t.Fatalf("%v\n%s\n%s", err, out, jobs)
	}
	return out
}

// kubectlFile runs kubectl, to which a warning of the API server is a failure.
func (c *Cluster) kubectlFile(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), append([]string{"--warnings-as-errors"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// gatewayAPI applies the CRDs of the Gateway API, see lab.Options. The guide's v1alpha2 is
// served by the experimental ones.
func (c *Cluster) gatewayAPI(t *testing.T, crds string) {
	t.Helper()
	dir, err := lab.CRDDir(t.Context(), crds)
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
