package cluster

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/topology"
)

// Assigned reads the addresses that the controller has assigned and published in
// the Gateways' statuses. In node mode, a node that is none of them yet serves a
// Gateway all the same, unless spec.addresses asks for certain ones; in mode Pool, what
// no pool can say to have offered is left out; in mode LoadBalancer they are those of the
// Gateway's Service, whatever was published.
func Assigned(r *topology.Resolution) map[types.NamespacedName]topology.Assignment {
	assigned := make(map[types.NamespacedName]topology.Assignment, len(r.Gateways))
	for key, parameters := range r.Gateways {
		assigned[key] = parameters.Kept()
	}
	return assigned
}
