package cluster

import (
	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// Findings returns what statuses are made from of a node's findings.
func Findings(list []v1alpha1.Finding) []topology.Finding {
	if len(list) == 0 {
		return nil
	}
	out := make([]topology.Finding, 0, len(list))
	for _, f := range list {
		out = append(out, topology.Finding{
			Reason: f.Reason, Message: f.Message, Owner: rules.Owner{Gateway: f.Gateway, Listener: f.Listener},
		})
	}
	return out
}
