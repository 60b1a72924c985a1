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
	"path/filepath"
	"strings"
	"syscall"

	"github.com/portway-dev/portway/integration/e2e"
	"github.com/portway-dev/portway/integration/lab"
)

const suitesEcho = "sigs.k8s.io/gateway-api/conformance/echo-basic"

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
	root, err := e2e.Repository()
	if err != nil {
		return err
	}
	module, bin := filepath.Join(root, "integration", "conformance"), filepath.Join(lab.CacheDir(), "conformance-bin")
	if version == "" {
		if version, err = describe(ctx, root); err != nil {
			return err
		}
	}
	if err := e2e.Compile(ctx, module, bin, os.Stderr, suitesEcho, "./dns"); err != nil {
		return err
	}
	test := filepath.Join(bin, "conformance.test")
	if err := e2e.CompileTest(ctx, module, test, os.Stderr); err != nil {
		return err
	}
	o := e2e.Options{Name: "conformance", BinDirs: []string{bin}, Progress: os.Stderr}
	if full {
		if err := onRealKubelets(ctx, &o, module, bin); err != nil {
			return err
		}
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
	args = append([]string{"-test.v", "-test.timeout=30m", "-live", "-gateway-class=" + e2e.ClassName, "-version=" + version}, args...)
	if report != "" {
		args = append(args, "-report-output="+filepath.Join(module, report))
	}
	// The suite dials Gateways from its own process: outside of the cluster.
	cmd, err := c.Outside().Command(ctx, test, args...)
	if err != nil {
		return err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = module, os.Stdout, os.Stderr
	return cmd.Run()
}

func describe(ctx context.Context, root string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	cmd.Dir = root
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
