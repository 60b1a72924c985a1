package controller

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// The functions of this file compare statuses as the API does: nothing and empty
// are the same. Every pass compares every status, so they do not use reflection;
// TestEqualMissesNoField keeps them complete.

func equalGatewayClass(a, b *gatewayv1.GatewayClassStatus) bool {
	return equalConditions(a.Conditions, b.Conditions) && slices.Equal(a.SupportedFeatures, b.SupportedFeatures)
}

func equalAddressPool(a, b *v1alpha1.AddressPoolStatus) bool {
	return a.Assigned == b.Assigned && a.Available == b.Available && slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.Retained, b.Retained) && equalConditions(a.Conditions, b.Conditions)
}

func equalGateway(a, b *gatewayv1.GatewayStatus) bool {
	return equalConditions(a.Conditions, b.Conditions) &&
		same(a.AttachedListenerSets, b.AttachedListenerSets, 0) &&
		slices.EqualFunc(a.Addresses, b.Addresses, func(x, y gatewayv1.GatewayStatusAddress) bool {
			return x.Value == y.Value && same(x.Type, y.Type, gatewayv1.IPAddressType)
		}) &&
		slices.EqualFunc(a.Listeners, b.Listeners, func(x, y gatewayv1.ListenerStatus) bool {
			return x.Name == y.Name && x.AttachedRoutes == y.AttachedRoutes &&
				equalKinds(x.SupportedKinds, y.SupportedKinds) && equalConditions(x.Conditions, y.Conditions)
		})
}

func equalListenerSet(a, b *gatewayv1.ListenerSetStatus) bool {
	return equalConditions(a.Conditions, b.Conditions) &&
		slices.EqualFunc(a.Listeners, b.Listeners, func(x, y gatewayv1.ListenerEntryStatus) bool {
			return x.Name == y.Name && x.AttachedRoutes == y.AttachedRoutes &&
				equalKinds(x.SupportedKinds, y.SupportedKinds) && equalConditions(x.Conditions, y.Conditions)
		})
}

func equalRoute(a, b *gatewayv1.RouteStatus) bool {
	return slices.EqualFunc(a.Parents, b.Parents, func(x, y gatewayv1.RouteParentStatus) bool {
		return x.ControllerName == y.ControllerName && sameParent(&x.ParentRef, &y.ParentRef) && equalConditions(x.Conditions, y.Conditions)
	})
}

func equalKinds(a, b []gatewayv1.RouteGroupKind) bool {
	return slices.EqualFunc(a, b, func(x, y gatewayv1.RouteGroupKind) bool {
		return x.Kind == y.Kind && same(x.Group, y.Group, gatewayv1.GroupName)
	})
}

func equalConditions(a, b []metav1.Condition) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Type != y.Type || x.Status != y.Status || x.Reason != y.Reason || x.Message != y.Message ||
			x.ObservedGeneration != y.ObservedGeneration || !x.LastTransitionTime.Equal(&y.LastTransitionTime) {
			return false
		}
	}
	return true
}
