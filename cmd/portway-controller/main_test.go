package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/controller"
)

// TestRun covers what ends before anything is started.
func TestRun(t *testing.T) {
	tests := map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"version":      {[]string{"--version"}, 0, "portway-controller dev\n", ""},
		"help":         {[]string{"--help"}, 0, "Usage of portway-controller:", ""},
		"unknown flag": {[]string{"--namespaces", "x"}, 1, "", "portway-controller: unknown flag: --namespaces\n"},
		"argument":     {[]string{"x"}, 1, "", "portway-controller: unexpected argument \"x\"\n"},
		"address type": {[]string{"--node-address-type", "internal"}, 1, "", "portway-controller: --node-address-type \"internal\": must be Internal or External\n"},
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

func TestNoCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if err := connect(t.Context(), controller.DefaultOptions()); !errors.Is(err, cluster.ErrNoCluster) {
		t.Errorf("error %v", err)
	}
}
