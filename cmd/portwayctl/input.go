package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/portway-dev/portway/agent"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// input is what both commands read.
type input struct {
	files     []string
	nodeName  string
	nodeZone  string
	addresses []string
}

// documentation addresses (RFC 5737, RFC 3849), so that the output is the same
// on every machine.
var documentation = []string{"192.0.2.1", "2001:db8::1"}

func (in *input) addFlags(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVarP(&in.files, "filename", "f", nil,
		"file or directory with YAML or JSON; may be repeated; of a directory *.yaml, *.yml and *.json are read, nothing below it")
	flags.StringVar(&in.nodeName, "node-name", "",
		"name of the node: endpoints with this nodeName are local to it (default: none is)")
	flags.StringVar(&in.nodeZone, "node-zone", "",
		"zone of the node, as its label topology.kubernetes.io/zone says: endpoints with hints for this zone are preferred (default: hints for zones are not used)")
	flags.StringArrayVar(&in.addresses, "node-address", documentation,
		"address of the node; may be repeated; the default are documentation addresses, so that the output does not depend on the machine")
}

// decision is what the core makes of the input.
type decision struct {
	node    topology.Node
	objects *cluster.Objects
	graph   *topology.Graph
}

// decide reads the files and decides. What was passed over goes to notes. With an
// error there may be a decision: that of the files without problems.
func (in *input) decide(notes io.Writer) (*decision, error) {
	if len(in.files) == 0 {
		return nil, errors.New("-f is missing: name the files or directories with the API objects")
	}
	addresses, err := agent.ParseAddresses(in.addresses)
	if err != nil {
		return nil, fmt.Errorf("--node-address: %w", err)
	}
	objects, broken := cluster.Load(in.files)
	if objects == nil {
		return nil, broken
	}
	if broken != nil {
		broken = fmt.Errorf("the manifests are broken:\n%w", broken)
	}
	for _, line := range objects.PassedOver {
		if _, err := fmt.Fprintf(notes, "passed over: %s\n", line); err != nil {
			return nil, err
		}
	}
	resolution := topology.Resolve(*objects.Snapshot, topology.DefaultConfig())
	return &decision{
		node:    topology.Node{Name: in.nodeName, Zone: in.nodeZone, Addresses: addresses},
		objects: objects,
		graph:   resolution.Build(cluster.Assign(resolution, addresses)),
	}, broken
}
