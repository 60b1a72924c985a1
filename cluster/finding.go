package cluster

import (
	"net/netip"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/topology"
)

// Announces returns the addresses that a node answers for.
func Announces(r *v1alpha1.Report) []netip.Addr {
	var out []netip.Addr
	for _, group := range r.Announcing {
		for _, text := range group.Addresses {
			if addr, err := netip.ParseAddr(text); err == nil {
				out = append(out, addr.Unmap())
			}
		}
	}
	return out
}

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
