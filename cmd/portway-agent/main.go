// Command portway-agent keeps the kernel of one node forwarding what the Gateway
// API objects of a cluster, or in a set of files, say.
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

	"github.com/portway-dev/portway/agent"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	options := agent.DefaultOptions()
	options.Version = version
	logging := logsapi.NewLoggingConfiguration()
	flags := pflag.NewFlagSet("portway-agent", pflag.ContinueOnError)
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
		_, _ = fmt.Fprintln(stdout, "portway-agent", version)
		return 0
	case flags.NArg() > 0:
		return fail(stderr, fmt.Errorf("unexpected argument %q: name manifests with --manifests", flags.Arg(0)))
	}
	if err := logsapi.ValidateAndApply(logging, nil); err != nil {
		return fail(stderr, err)
	}
	defer logs.FlushLogs()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go agent.LimitMemory(ctx)
	printStatus := make(chan os.Signal, 1)
	signal.Notify(printStatus, syscall.SIGUSR1)
	if err := agent.Run(klog.NewContext(ctx, klog.Background()), options, stdout, printStatus); err != nil {
		return fail(stderr, err)
	}
	return 0
}

func fail(stderr io.Writer, err error) int {
	_, _ = fmt.Fprintln(stderr, "portway-agent:", err)
	return 1
}
