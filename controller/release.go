package controller

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/portway-dev/portway/cluster"
)

// The functions of this file take out of a status what we wrote into it. A Gateway
// and a ListenerSet name no controller beside their conditions, but the API keeps
// who wrote which field last (metadata.managedFields). They change nothing they
// are given.

// fields are those of one object that we wrote last.
type fields struct{ set *fieldpath.Set }

// wroteFields returns the fields of an object's status that are ours. What cannot
// be read is not ours: it is better left than taken from somebody else.
func wroteFields(o metav1.Object) fields {
	all := fieldpath.NewSet()
	for _, entry := range o.GetManagedFields() {
		if entry.Manager != cluster.FieldManager || entry.Subresource != "status" || entry.FieldsV1 == nil {
			continue
		}
		set := fieldpath.NewSet()
		if err := set.FromJSON(entry.FieldsV1.GetRawReader()); err == nil {
			all = all.Union(set)
		}
	}
	return fields{all}
}

func (f fields) has(path ...any) bool {
	p, err := fieldpath.MakePath(append([]any{"status"}, path...)...)
	return err == nil && f.set.Has(p)
}

// conditions returns those that others wrote. Whoever takes an object over writes
// the generation it saw, since the change of hands moved it: the field tells whose
// the condition is, even where it says the same.
func (f fields) conditions(existing []metav1.Condition, at ...any) []metav1.Condition {
	return slices.DeleteFunc(slices.Clone(existing), func(c metav1.Condition) bool {
		path := append(slices.Clone(at), "conditions", fieldpath.KeyByFields("type", c.Type), "observedGeneration")
		return f.has(path...)
	})
}

func releaseGateway(existing *gatewayv1.GatewayStatus, wrote fields) gatewayv1.GatewayStatus {
	left := *existing
	left.Conditions = wrote.conditions(existing.Conditions)
	if wrote.has("addresses") {
		left.Addresses = nil
	}
	if wrote.has("attachedListenerSets") {
		left.AttachedListenerSets = nil
	}
	left.Listeners = nil
	for _, listener := range existing.Listeners {
		before := len(listener.Conditions)
		listener.Conditions = wrote.conditions(listener.Conditions, "listeners", fieldpath.KeyByFields("name", string(listener.Name)))
		if before == 0 || len(listener.Conditions) > 0 {
			left.Listeners = append(left.Listeners, listener)
		}
	}
	return left
}

func releaseListenerSet(existing *gatewayv1.ListenerSetStatus, wrote fields) gatewayv1.ListenerSetStatus {
	left := gatewayv1.ListenerSetStatus{Conditions: wrote.conditions(existing.Conditions)}
	for _, listener := range existing.Listeners {
		before := len(listener.Conditions)
		listener.Conditions = wrote.conditions(listener.Conditions, "listeners", fieldpath.KeyByFields("name", string(listener.Name)))
		if before == 0 || len(listener.Conditions) > 0 {
			left.Listeners = append(left.Listeners, listener)
		}
	}
	return left
}
