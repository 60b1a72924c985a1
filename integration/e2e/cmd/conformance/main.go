// Command conformance runs the conformance suite of the Gateway API, and the tests of
// our own beside it, on the product in a lab of its own. It must be started inside the
// repository, as root; the report is integration/conformance/reports/.
//
// Arguments are handed to the test binary, for example -test.run=TestL4 or -debug.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/portway-dev/portway/integration/e2e"
	"github.com/portway-dev/portway/integration/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	keep := flag.Bool("keep", false, "leave the lab running")
	full := flag.Bool("full", false, "on nodes with real kubelets, containerd and kube-proxy")
	report := flag.String("report", "reports/standard-default-report.yaml", "file for the report, below integration/conformance; empty for none")
	version := flag.String("version", "", "the product's version in the report (default: git describe)")
	flag.Parse()
	err := run(ctx, *keep, *full, *report, *version, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep, full bool, report, version string, args []string) (err error) {
	o := e2e.Options{Name: "conformance", Progress: os.Stderr}
	if full {
		o.Full, o.KubeProxy = true, lab.ProxyNFTables
	}
	if version == "" {
		if version, err = describe(ctx); err != nil {
			return err
		}
	}
	suite, err := e2e.BuildSuite(ctx, &o)
	if err != nil {
		return err
	}
	c, err := e2e.Start(ctx, o)
	if err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, c.Down()) }()
	}
	if err := c.Deploy(ctx, true); err != nil {
		return err
	}
	return suite.Run(ctx, c, os.Stdout, report, version, args...)
}

func describe(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	return strings.TrimSpace(string(out)), err
}
