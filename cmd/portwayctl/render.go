package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/portway-dev/portway/topology"
)

func newRenderCommand() *cobra.Command {
	in := &input{}
	var full bool
	command := &cobra.Command{
		Use:   "render -f PATH...",
		Short: "Print the nftables rules a node would have",
		Long: "Print the nftables rules that an agent would program for these objects, as nft would list them.\n" +
			"Nothing is changed and no rights are needed.",
		Example: "  portwayctl render -f examples/tcp-routing.yaml -f examples/tcp-routing-backends.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := in.decide(c.ErrOrStderr())
			if err != nil {
				return err
			}
			forwarder := topology.NewForwarder(d.node)
			forwarder.SetGraph(d.graph)
			for service, list := range d.objects.Slices {
				forwarder.SetEndpointSlices(service, list)
			}
			state := forwarder.State()
			for _, warning := range forwarder.Warnings() {
				if _, err := fmt.Fprintf(c.ErrOrStderr(), "endpoint left out: %s\n", warning); err != nil {
					return err
				}
			}
			text, err := renderNFT(state, full)
			if err != nil {
				return fmt.Errorf("render rules: %w", err)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), text)
			return err
		},
	}
	in.addFlags(command)
	command.Flags().BoolVar(&full, "full", false, "print all chains, also those that nothing leads to")
	return command
}
