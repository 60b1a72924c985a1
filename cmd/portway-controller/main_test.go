package main

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

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

// TestClientsDoNotShareLimits: statuses wait neither for Events nor for lists.
func TestClientsDoNotShareLimits(t *testing.T) {
	o := controller.DefaultOptions()
	readers, writers, err := clients(&rest.Config{Host: "https://127.0.0.1:1"}, o)
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]flowcontrol.RateLimiter{
		"reading":  readers.Gateway.GatewayV1().RESTClient().GetRateLimiter(),
		"statuses": writers.Gateway.GatewayV1().RESTClient().GetRateLimiter(),
		"events":   writers.Events.EventsV1().RESTClient().GetRateLimiter(),
		"election": writers.Election.CoordinationV1().RESTClient().GetRateLimiter(),
	}
	for name, limit := range limits {
		for other, same := range limits {
			if name != other && limit == same {
				t.Errorf("%s share the limit of %s", name, other)
			}
		}
	}
	if qps := limits["statuses"].QPS(); qps != o.KubeQPS {
		t.Errorf("%g statuses per second", qps)
	}
}
