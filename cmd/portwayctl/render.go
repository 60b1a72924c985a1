package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// The values of --backend and --family.
const (
	backendNFTables = "nftables"
	backendIPTables = "iptables"
	familyIPv4      = "ipv4"
	familyIPv6      = "ipv6"
)

// rendering is what can be chosen of the rules to print.
type rendering struct {
	backend, family string
	full            bool
}

func newRenderCommand() *cobra.Command {
	in, r := &input{}, &rendering{}
	command := &cobra.Command{
		Use:   "render -f PATH...",
		Short: "Print the rules a node would have",
		Long: "Print the rules that an agent would program for these objects: with nftables as nft would list them, with\n" +
			"iptables as iptables-restore --noflush and ip6tables-restore --noflush take them, one part for each. (An agent\n" +
			"puts the rules that lead to its chains in front of those of others.) Nothing is changed and no rights are needed.",
		Example: "  portwayctl render -f examples/tcp-routing.yaml -f examples/tcp-routing-backends.yaml\n" +
			"  portwayctl render --backend iptables -f examples/tcp-routing.yaml -f examples/tcp-routing-backends.yaml\n" +
			"  # does iptables on this host take it? as root; changes nothing\n" +
			"  portwayctl render --backend iptables --family ipv4 -f /etc/portway | iptables-restore --noflush --test",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := r.validate(); err != nil {
				return err
			}
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
			text, err := r.render(state)
			if err != nil {
				return fmt.Errorf("render rules: %w", err)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), text)
			return err
		},
	}
	in.addFlags(command)
	flags := command.Flags()
	flags.StringVar(&r.backend, "backend", backendNFTables, "what would program the kernel: nftables or iptables, see the agent's --backend")
	flags.StringVar(&r.family, "family", "", "with --backend iptables: ipv4 or ipv6, to print what one command takes (default: both)")
	flags.BoolVar(&r.full, "full", false, "with --backend nftables: print all chains, also those that nothing leads to")
	return command
}

func (r *rendering) validate() error {
	var errs []error
	if r.backend != backendNFTables && r.backend != backendIPTables {
		errs = append(errs, fmt.Errorf("--backend %q: must be nftables or iptables", r.backend))
	}
	if r.family != "" && r.family != familyIPv4 && r.family != familyIPv6 {
		errs = append(errs, fmt.Errorf("--family %q: must be ipv4 or ipv6", r.family))
	}
	if r.family != "" && r.backend == backendNFTables {
		errs = append(errs, errors.New("--family needs --backend iptables: with nftables one table holds both"))
	}
	if r.full && r.backend == backendIPTables {
		errs = append(errs, errors.New("--full needs --backend nftables: iptables has no chains that nothing leads to"))
	}
	return errors.Join(errs...)
}

func (r *rendering) render(state *rules.State) (string, error) {
	if r.backend == backendIPTables {
		return renderIPTables(state, r.family)
	}
	return renderNFT(state, r.full)
}
