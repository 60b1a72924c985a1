package e2e

import (
	"slices"
	"strings"
	"testing"
)

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
