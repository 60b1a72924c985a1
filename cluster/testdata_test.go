package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write writes files below the test's own working directory; names are relative
// so that messages do not depend on the machine.
func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// loadText loads one file, named m.yaml.
func loadText(t *testing.T, text string) (*Objects, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	write(t, "m.yaml", text)
	return Load([]string{"m.yaml"})
}

func gatewayYAML(name string, port int) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: %s
spec:
  gatewayClassName: c
  listeners:
  - name: l
    protocol: TCP
    port: %d
`, name, port)
}

func sliceYAML(name, service string, addresses ...string) string {
	return fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %s
  labels: {kubernetes.io/service-name: %s}
addressType: IPv4
ports:
- port: 6000
endpoints:
- addresses: [%s]
`, name, service, strings.Join(addresses, "]\n- addresses: ["))
}

// repeat makes n lines of a pattern with one %d.
func repeat(n int, pattern string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, pattern, i)
	}
	return b.String()
}
