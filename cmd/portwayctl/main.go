// Command portwayctl shows what Portway makes of API objects: the statuses they
// would get and the rules a node would have.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	command := newCommand()
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	if err := command.ExecuteContext(context.Background()); err != nil {
		_, _ = fmt.Fprintln(stderr, "portwayctl:", err)
		return 1
	}
	return 0
}

func newCommand() *cobra.Command {
	command := &cobra.Command{
		Use:           "portwayctl",
		Short:         "Show what Portway makes of Gateway API objects",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true, // run prints them once
		RunE: func(c *cobra.Command, _ []string) error {
			return errors.Join(c.Help(), errors.New("name a command, such as: portwayctl check -f examples/tcp-routing.yaml -f examples/tcp-routing-backends.yaml"))
		},
	}
	command.AddCommand(newCheckCommand(), newRenderCommand(), newAddressesCommand(), newNodesCommand(), newCleanupCommand(), newIdleCommand())
	return command
}
