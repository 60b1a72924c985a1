// Command portway-controller tells in the statuses of Gateway API objects what the
// nodes have proven, and assigns Gateways their addresses.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/controller"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	options := controller.DefaultOptions()
	logging := logsapi.NewLoggingConfiguration()
	flags := pflag.NewFlagSet("portway-controller", pflag.ContinueOnError)
	flags.SetOutput(stdout) // for --help; errors are printed below
	options.AddFlags(flags)
	logsapi.AddFlags(logging, flags)
	showVersion := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		return fail(stderr, err)
	case *showVersion:
		_, _ = fmt.Fprintln(stdout, "portway-controller", version)
		return 0
	case flags.NArg() > 0:
		return fail(stderr, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if err := options.Complete(); err != nil {
		return fail(stderr, err)
	}
	if err := logsapi.ValidateAndApply(logging, nil); err != nil {
		return fail(stderr, err)
	}
	defer logs.FlushLogs()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := connect(klog.NewContext(ctx, klog.Background()), options); err != nil {
		return fail(stderr, err)
	}
	return 0
}

func fail(stderr io.Writer, err error) int {
	_, _ = fmt.Fprintln(stderr, "portway-controller:", err)
	return 1
}
