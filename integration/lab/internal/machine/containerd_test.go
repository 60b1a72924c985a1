package machine

import "testing"

// TestFullName: a kubelet asks for the names on the right.
func TestFullName(t *testing.T) {
	for name, want := range map[string]string{
		"portway:dev":             "docker.io/library/portway:dev",
		"portway-lab/echo:v1":     "docker.io/portway-lab/echo:v1",
		"localhost/portway:dev":   "localhost/portway:dev",
		"localhost:5000/echo:v1":  "localhost:5000/echo:v1",
		"example.test/a/portway":  "example.test/a/portway",
		"docker.io/library/a:dev": "docker.io/library/a:dev",
	} {
		if got := fullName(name); got != want {
			t.Errorf("fullName(%q) = %q, want %q", name, got, want)
		}
	}
}
