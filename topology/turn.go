package topology

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// turn is when a Gateway's own listeners, or those of one ListenerSet, take their
// ports.
type turn struct {
	gateway *Gateway
	set     *ListenerSet // nil: the Gateway's own listeners
	since   age
	rank    int // after a Gateway of the same age and name come the sets
}

// turns orders everyone who takes ports, oldest first: a port that is taken is not
// available to a younger one. A ListenerSet counts by its own age, though never
// before its Gateway, so that a new set on an old Gateway takes no port away from
// a Gateway that already has it.
func turns(gateways []*Gateway) []turn {
	var all []turn
	for _, gateway := range gateways {
		opened := gateway.age()
		all = append(all, turn{gateway: gateway, since: opened})
		for _, set := range gateway.sets { // in the order of precedence, which a stable sort keeps
			since, rank := opened, 0
			if compareAge(set.age(), opened) > 0 {
				since, rank = set.age(), 1
			}
			all = append(all, turn{gateway, set, since, rank})
		}
	}
	slices.SortStableFunc(all, func(a, b turn) int {
		return cmp.Or(compareAge(a.since, b.since), cmp.Compare(a.rank, b.rank))
	})
	return all
}

func (t turn) admit(bound *bindings, namespaces map[string]*corev1.Namespace, limit int) {
	if t.set == nil {
		t.gateway.admitOwn(bound)
	} else {
		t.gateway.admitSet(t.set, bound, namespaces, limit)
	}
}
