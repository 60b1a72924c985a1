package machine

import (
	"strings"
	"testing"
)

// TestFullName: a kubelet asks for a name with a registry; one that has it stays.
func TestFullName(t *testing.T) {
	for name, suffix := range map[string]string{"portway:dev": "/library/portway:dev", "portway-lab/echo:v1": "/portway-lab/echo:v1"} {
		got := fullName(name)
		if registry, found := strings.CutSuffix(got, suffix); !found || !strings.Contains(registry, ".") {
			t.Errorf("fullName(%q) = %q, want a registry and %s", name, got, suffix)
		}
		if again := fullName(got); again != got {
			t.Errorf("fullName(%q) = %q", got, again)
		}
	}
	for _, name := range []string{"localhost/portway:dev", "localhost:5000/echo:v1", "example.test/a/portway:v1"} {
		if got := fullName(name); got != name {
			t.Errorf("fullName(%q) = %q", name, got)
		}
	}
}
