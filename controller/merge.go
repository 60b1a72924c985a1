package controller

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// The functions of this file make the status an object gets from the one it has
// and the one we want. They change nothing they are given.

// maxConditions is MaxItems of every list of conditions in the Gateway API.
const maxConditions = 8

// ownedConditions are the types whose conditions are ours to remove; those with
// our prefix are too.
var ownedConditions = map[string]bool{
	"Accepted": true, "Programmed": true, "ResolvedRefs": true, "Conflicted": true, "SupportedVersion": true,
}

func owned(kind string) bool {
	return ownedConditions[kind] || strings.HasPrefix(kind, "portway.dev/")
}

// mergeConditions keeps the conditions of others and the order there is. Where
// there is no room for all, ours go first.
func mergeConditions(existing, desired []metav1.Condition, now metav1.Time) []metav1.Condition {
	merged := make([]metav1.Condition, 0, max(len(existing), len(desired)))
	room := maxConditions - len(desired)
	for i := range existing {
		old := &existing[i]
		switch want := condition(desired, old.Type); {
		case want != nil:
			merged = append(merged, transition(old, want, now))
		case !owned(old.Type) && room > 0:
			merged = append(merged, *old)
			room--
		}
	}
	for i := range desired {
		if condition(existing, desired[i].Type) == nil {
			merged = append(merged, transition(nil, &desired[i], now))
		}
	}
	return merged
}

// transition dates a condition: lastTransitionTime is when the status changed.
func transition(old, want *metav1.Condition, now metav1.Time) metav1.Condition {
	made := *want
	if old != nil && old.Status == want.Status {
		made.LastTransitionTime = old.LastTransitionTime
	} else {
		made.LastTransitionTime = now
	}
	return made
}

func mergeGatewayClass(existing, desired *gatewayv1.GatewayClassStatus, now metav1.Time) gatewayv1.GatewayClassStatus {
	return gatewayv1.GatewayClassStatus{
		Conditions:        mergeConditions(existing.Conditions, desired.Conditions, now),
		SupportedFeatures: desired.SupportedFeatures,
	}
}

func mergeAddressPool(existing, desired *v1alpha1.AddressPoolStatus, now metav1.Time) v1alpha1.AddressPoolStatus {
	merged := *desired
	merged.Conditions = mergeConditions(existing.Conditions, desired.Conditions, now)
	return merged
}

func mergeGateway(existing, desired *gatewayv1.GatewayStatus, now metav1.Time) gatewayv1.GatewayStatus {
	merged := gatewayv1.GatewayStatus{
		Addresses:            desired.Addresses,
		Conditions:           mergeConditions(existing.Conditions, desired.Conditions, now),
		Listeners:            make([]gatewayv1.ListenerStatus, 0, len(desired.Listeners)),
		AttachedListenerSets: desired.AttachedListenerSets,
	}
	for _, listener := range desired.Listeners {
		listener.Conditions = mergeConditions(publishedListener(existing.Listeners, listener.Name), listener.Conditions, now)
		merged.Listeners = append(merged.Listeners, listener)
	}
	return merged
}

func mergeListenerSet(existing, desired *gatewayv1.ListenerSetStatus, now metav1.Time) gatewayv1.ListenerSetStatus {
	merged := gatewayv1.ListenerSetStatus{
		Conditions: mergeConditions(existing.Conditions, desired.Conditions, now),
		Listeners:  make([]gatewayv1.ListenerEntryStatus, 0, len(desired.Listeners)),
	}
	for _, listener := range desired.Listeners {
		listener.Conditions = mergeConditions(publishedEntry(existing.Listeners, listener.Name), listener.Conditions, now)
		merged.Listeners = append(merged.Listeners, listener)
	}
	return merged
}

// maxParents is MaxItems of RouteStatus.Parents.
const maxParents = 32

// mergeRoute keeps the entries of other controllers and removes those of ours that
// are not wanted. Where there is no room for all, some of ours are missing: without
// the others' the API would take none.
func mergeRoute(existing, desired *gatewayv1.RouteStatus, ours gatewayv1.GatewayController, now metav1.Time) gatewayv1.RouteStatus {
	merged := gatewayv1.RouteStatus{Parents: make([]gatewayv1.RouteParentStatus, 0, max(len(existing.Parents), len(desired.Parents)))}
	left := slices.Clone(desired.Parents)
	room := max(0, maxParents-len(existing.Parents)+ownParents(existing, ours))
	for _, entry := range existing.Parents {
		if entry.ControllerName != ours {
			merged.Parents = append(merged.Parents, entry)
			continue
		}
		i := parentIndex(left, entry.ParentRef)
		if i < 0 || room == 0 {
			continue
		}
		room--
		want := left[i]
		left = slices.Delete(left, i, i+1)
		want.Conditions = mergeConditions(entry.Conditions, want.Conditions, now)
		merged.Parents = append(merged.Parents, want)
	}
	for _, want := range left[:min(len(left), room)] {
		want.Conditions = mergeConditions(nil, want.Conditions, now)
		merged.Parents = append(merged.Parents, want)
	}
	return merged
}

func parentIndex(parents []gatewayv1.RouteParentStatus, ref gatewayv1.ParentReference) int {
	return slices.IndexFunc(parents, func(p gatewayv1.RouteParentStatus) bool { return sameParent(&p.ParentRef, &ref) })
}

// sameParent compares with what the API server fills in.
func sameParent(a, b *gatewayv1.ParentReference) bool {
	return a.Name == b.Name &&
		same(a.Group, b.Group, gatewayv1.GroupName) && same(a.Kind, b.Kind, topology.KindGateway) &&
		same(a.Namespace, b.Namespace, "") && same(a.SectionName, b.SectionName, "") && same(a.Port, b.Port, 0)
}

func same[T comparable](a, b *T, byDefault T) bool {
	x, y := byDefault, byDefault
	if a != nil {
		x = *a
	}
	if b != nil {
		y = *b
	}
	return x == y
}

// ownParents returns how many entries of a route are ours.
func ownParents(status *gatewayv1.RouteStatus, ours gatewayv1.GatewayController) int {
	n := 0
	for i := range status.Parents {
		if status.Parents[i].ControllerName == ours {
			n++
		}
	}
	return n
}
