package main

import (
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
