package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

func newCheckCommand() *cobra.Command {
	in := &input{}
	var format string
	command := &cobra.Command{
		Use:   "check -f PATH...",
		Short: "Print the statuses that objects would get",
		Long: "Print the statuses that the controller would write for these objects. Exits with 1 when a file is broken,\n" +
			"a condition is bad or an object is served by nobody; with a broken file the statuses are those that the\n" +
			"other files yield without it. Programmed is not evaluated: no node is asked.",
		Example: "  portwayctl check -f examples/tcp-routing.yaml -f examples/tcp-routing-backends.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "table" && format != "yaml" {
				return fmt.Errorf("-o %q: must be table or yaml", format)
			}
			d, broken := in.decide(c.ErrOrStderr())
			if d == nil {
				return broken
			}
			err := check(c.OutOrStdout(), c.ErrOrStderr(), d, format)
			if broken != nil && errors.Is(err, errNothing) {
				err = nil // a class may be in a broken file
			}
			return errors.Join(broken, err)
		},
	}
	in.addFlags(command)
	command.Flags().StringVarP(&format, "output", "o", "table", "table or yaml; yaml is what the API would carry, without times")
	return command
}

var errNothing = fmt.Errorf("nothing to serve: no GatewayClass has controllerName %s", topology.ControllerName)

// check prints the statuses and fails when something is bad.
func check(out, notes io.Writer, d *decision, format string) error {
	statuses := d.graph.Statuses(topology.Reports{NotEvaluated: true})
	objects := cluster.StatusObjects(d.objects.Snapshot, statuses)
	if err := printStatuses(out, objects, format); err != nil {
		return err
	}
	unserved := cluster.Unserved(d.objects.Snapshot)
	for _, line := range unserved {
		if _, err := fmt.Fprintln(notes, line); err != nil {
			return err
		}
	}
	bad := 0
	for _, object := range objects {
		for list := range cluster.ConditionLists(object) {
			for _, condition := range list.Conditions {
				if isBad(condition) {
					bad++
				}
			}
		}
	}
	switch {
	case bad > 0 || len(unserved) > 0:
		return fmt.Errorf("bad conditions: %d, not served: %d", bad, len(unserved))
	case len(objects) == 0:
		return errNothing
	}
	return nil
}

func printStatuses(out io.Writer, objects []cluster.Object, format string) error {
	if format == "table" {
		return printTable(out, objects)
	}
	text, err := cluster.StatusYAML(objects)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// isBad reports whether a condition says that something is not as it should be.
func isBad(c metav1.Condition) bool {
	switch c.Type {
	case "Programmed": // Unknown means that it was not evaluated
		return c.Status == metav1.ConditionFalse
	case "Conflicted", topology.ConditionSuperseded, topology.ConditionAddressRetained: // true is bad
		return c.Status == metav1.ConditionTrue
	default:
		return c.Status != metav1.ConditionTrue
	}
}
