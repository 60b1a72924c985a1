package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// raisedImage returns an image with the programs of a release that is to come, one that
// reports in another version.
func raisedImage(t *testing.T) (archive string) {
	t.Helper()
	root, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	dir, bin := t.TempDir(), filepath.Join(lab.CacheDir(), "raised")
	source := filepath.Join(root, "api", "v1alpha1", "nodereport_types.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const now, then = "const ReportVersion = 1\n", "const ReportVersion = 2\n"
	if !strings.Contains(string(text), now) {
		t.Fatalf("%s does not say %q", source, now)
	}
	raised, overlay := filepath.Join(dir, "raised.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {source: raised}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{raised: strings.Replace(string(text), now, then, 1), overlay: string(replace)} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := compile(t.Context(), root, os.Stderr, []string{"build", "-overlay", overlay, "-ldflags=-s -w", "-o", bin + "/", "./cmd/portway-agent", "./cmd/portway-controller"}); err != nil {
		t.Fatal(err)
	}
	archive = filepath.Join(bin, "raised.tar")
	if err := lab.Pack(archive, raisedRepository+":"+nativeTag, filepath.Join(bin, "portway-agent"), filepath.Join(bin, "portway-controller")); err != nil {
		t.Fatal(err)
	}
	return archive
}

// upgrades goes to a release that reports in another version, and back, controllers and
// agents one after the other: whichever is ahead, nobody is refused, no address leaves its
// Gateway, and Programmed is True only while both understand each other.
func (in *installation) upgrades(t *testing.T) {
	s := in.space(t, "upgrade")
	s.apply(t, backend("pods", 2), gateway("gw", 7900), route("TCPRoute", "tcp", "gw", "pods"))
	s.ready(t, "pods", 2)
	var before []gatewayv1.GatewayStatusAddress
	eventually(t, settle, func() error {
		before = s.programmed(t, "gw").Status.Addresses
		if want := len(everyNode(in.Cluster)); len(before) != want {
			return fmt.Errorf("%d addresses, not %d", len(before), want)
		}
		return nil
	})
	address := join(in.Node(1).Addresses[0], 7900)
	in.reach(t, "tcp", address, "pods")
	traffic := in.stream(t, "tcp", address)

	now, then := imageRepository+":"+nativeTag, raisedRepository+":"+nativeTag
	for _, step := range []struct{ workload, container, image, told string }{
		{"deployment/portway-controller", "controller", then, "reports in version 1, this controller reads version 2"},
		{"daemonset/portway-agent", "agent", then, ""},
		{"deployment/portway-controller", "controller", now, "reports in version 2, this controller reads version 1"},
		{"daemonset/portway-agent", "agent", now, ""},
	} {
		in.kubectlFile(t, "-n", System, "set", "image", step.workload, step.container+"="+step.image)
		in.kubectlFile(t, "-n", System, "rollout", "status", "--timeout="+helmLimit.String(), step.workload)
		status := metav1.ConditionTrue
		if step.told != "" {
			status = metav1.ConditionFalse
		}
		eventually(t, settle, func() error {
			gw, err := s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "gw", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if err := current(gw.Status.Conditions, gw.Generation, string(gatewayv1.GatewayConditionProgrammed), status, ""); err != nil {
				return err
			}
			for _, c := range gw.Status.Conditions {
				if c.Type == string(gatewayv1.GatewayConditionProgrammed) && !strings.Contains(c.Message, step.told) {
					return fmt.Errorf("Programmed says %q, not %q", c.Message, step.told)
				}
			}
			return nil
		})
		if after := s.gateway(t, "gw").Status.Addresses; !sameAddresses(before, after) {
			t.Errorf("with %s of %s the Gateway has the addresses %v, not %v", step.image, step.workload, after, before)
		}
		// Rules follow endpoints, whatever is thought of reports.
		s.scale(t, "pods", 3)
		s.scale(t, "pods", 2)
	}
	in.upgraded(t, "agent.verbosity=2,controller.verbosity=2")
	in.mustHelm(t, "rollback", release, "1", "--namespace", System, "--wait", "--timeout", helmLimit.String())
	traffic.whole(t)
}

func (s *space) gateway(t *testing.T, name string) *gatewayv1.Gateway {
	t.Helper()
	gw, err := s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return gw
}

func sameAddresses(a, b []gatewayv1.GatewayStatusAddress) bool {
	return slices.EqualFunc(a, b, func(a, b gatewayv1.GatewayStatusAddress) bool { return a.Value == b.Value })
}
