package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portway-dev/portway/integration/lab"
)

// TestSchemas: a real API server takes and refuses of our own kinds what
// api/v1alpha1/testdata says; YAML files are held to the same.
func TestSchemas(t *testing.T) {
	c := start(t, lab.CRDsNone)
	if _, err := c.Kubectl(t.Context(), "apply", "--server-side", "-k", filepath.Join(c.root, "deploy", "crds")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "wait", "--for=condition=Established", "--timeout=20s",
		"crd/addresspools.portway.dev", "crd/gatewayparameters.portway.dev"); err != nil {
		t.Fatal(err)
	}
	for _, document := range c.documents(t, "accepted.yaml") {
		if out, err := c.try(t, document); err != nil {
			t.Errorf("%v: %s\n%s", err, out, document)
		}
	}
	for _, document := range c.documents(t, "refused.yaml") {
		field, _, _ := strings.Cut(strings.TrimPrefix(document, "# "), "\n")
		out, err := c.try(t, document)
		if err == nil || !strings.Contains(out, " "+field+": ") {
			t.Errorf("want an error of %s: %v: %s\n%s", field, err, out, document)
		}
	}
}

// documents reads a file of testdata, without the comment in front of it.
func (c *Cluster) documents(t *testing.T, name string) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.root, "api", "v1alpha1", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(content), "\n")
	return strings.Split(text, "\n---\n")
}

// try lets the API server judge an object and keeps nothing of it.
func (c *Cluster) try(t *testing.T, document string) (string, error) {
	t.Helper()
	cmd, err := c.Machine().Command(t.Context(), c.Bin("kubectl"), "create", "--dry-run=server", "-f", "-")
	if err != nil {
		return "", fmt.Errorf("create: %w", err)
	}
	cmd.Stdin = strings.NewReader(document)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
