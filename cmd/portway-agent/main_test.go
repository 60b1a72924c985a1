package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestRun covers what ends before anything is started.
func TestRun(t *testing.T) {
	tests := map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"version":      {[]string{"--version"}, 0, "portway-agent dev\n", ""},
		"help":         {[]string{"--help"}, 0, "Usage of portway-agent:", ""},
		"unknown flag": {[]string{"--manifest", "x"}, 1, "", "portway-agent: unknown flag: --manifest\n"},
		"argument":     {[]string{"x.yaml"}, 1, "", "portway-agent: unexpected argument \"x.yaml\": name manifests with --manifests\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			if code := run(test.args, &stdout, &stderr); code != test.code {
				t.Errorf("code %d, want %d", code, test.code)
			}
			if !strings.HasPrefix(stdout.String(), test.stdout) || stderr.String() != test.stderr {
				t.Errorf("stdout %q\nstderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

// TestKnowsFewKinds: every kind of Kubernetes that this program knows costs memory on every
// node; with client-go's clientsets an agent at rest took about 10 MiB more.
func TestKnowsFewKinds(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	kinds := []string{"k8s.io/api/coordination/v1", "k8s.io/api/core/v1", "k8s.io/api/discovery/v1"}
	packages := strings.Fields(string(out))
	for _, kind := range kinds {
		if !slices.Contains(packages, kind) {
			t.Errorf("%s is not imported: does this look at the right program?", kind)
		}
	}
	for _, name := range packages {
		for _, prefix := range []string{
			"k8s.io/api/", "k8s.io/client-go/applyconfigurations", "k8s.io/client-go/discovery", "k8s.io/client-go/kubernetes",
			"sigs.k8s.io/gateway-api/applyconfiguration", "sigs.k8s.io/gateway-api/pkg/client",
		} {
			if strings.HasPrefix(name, prefix) && !slices.Contains(kinds, name) {
				t.Errorf("%s is imported; clients for agents are in cluster.Clients", name)
			}
		}
	}
}
