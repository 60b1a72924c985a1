package controller

import (
	"cmp"
	"context"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// change is something that has to be written: desired state of one object, to be
// compared again with what the API holds by then.
type change struct {
	key     objectKey
	desired any
	// wants reports whether another change of this key desires the same.
	wants func(desired any) bool
	write func(context.Context, *writer) (outcome, error)
}

// objectKey says what a change is about.
type objectKey struct {
	kind gatewayv1.Kind
	types.NamespacedName
}

// plan returns what differs between the statuses and what the Snapshot shows, in
// the order in which it is worth writing. Objects that are no longer ours to speak
// of, such as a Gateway that changed to another's class, lose what we wrote.
func plan(k *kinds, s *topology.Snapshot, want topology.Statuses, uses map[string]topology.PoolUse, ours gatewayv1.GatewayController, now metav1.Time) []*change {
	changes := finalizerChanges(k, s, uses, ours)
	changes = append(changes, statusChanges(&k.classes, s.GatewayClasses, want.GatewayClasses, now)...)
	changes = append(changes, statusChanges(&k.pools, s.AddressPools, want.AddressPools, now)...)
	changes = append(changes, statusChanges(&k.gateways, s.Gateways, want.Gateways, now)...)
	changes = append(changes, statusChanges(&k.sets, s.ListenerSets, want.ListenerSets, now)...)
	changes = append(changes, routeChanges(&k.tcp, s.TCPRoutes, want, ours, now)...)
	return append(changes, routeChanges(&k.udp, s.UDPRoutes, want, ours, now)...)
}

// statusChanges returns, by name, what differs among the objects with a status.
func statusChanges[K comparable, P object, S any](k *kind[P, S], objects map[K]P, want map[K]S, now metav1.Time) []*change {
	var changes []*change
	for key, object := range objects {
		if status, ours := want[key]; ours {
			changes = k.appendChange(changes, object, &status, now)
		} else if k.release != nil && len(object.GetManagedFields()) > 0 {
			changes = k.appendChange(changes, object, nil, now)
		}
	}
	return sorted(changes)
}

// appendChange adds what makes the object's status the desired one, if it differs.
func (k *kind[P, S]) appendChange(changes []*change, object P, desired *S, now metav1.Time) []*change {
	if after := k.after(object, desired, now); k.equal(k.status(object), &after) {
		return changes
	}
	return append(changes, &change{
		key:     objectKey{k.name, keyOf(object)},
		desired: desired,
		wants: func(other any) bool {
			status, ok := other.(*S)
			return ok && (status == nil) == (desired == nil) && (status == nil || k.equal(status, desired))
		},
		write: func(ctx context.Context, w *writer) (outcome, error) {
			return write(ctx, w, k, object, desired)
		},
	})
}

func routeChanges[P object](k *kind[P, gatewayv1.RouteStatus], routes map[types.NamespacedName]P, want topology.Statuses,
	ours gatewayv1.GatewayController, now metav1.Time,
) []*change {
	var changes []*change
	for key, route := range routes {
		status, decided := want.Routes[topology.RouteKey{Kind: k.name, NamespacedName: key}]
		if decided || ownParents(k.status(route), ours) > 0 {
			changes = k.appendChange(changes, route, &status, now)
		}
	}
	return sorted(changes)
}

func keyOf(o object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func sorted(changes []*change) []*change {
	slices.SortFunc(changes, func(a, b *change) int {
		return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
	})
	return changes
}
