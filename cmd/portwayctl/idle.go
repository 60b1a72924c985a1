package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// idleName is the command of pods that are there to say that something was done.
const idleName = "idle"

func newIdleCommand() *cobra.Command {
	return &cobra.Command{
		Use:    idleName,
		Short:  "Do nothing until told to stop",
		Hidden: true,
		Args:   cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			<-ctx.Done()
		},
	}
}
