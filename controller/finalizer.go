package controller

import (
	"context"
	"encoding/json"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// finalizerKind is the kind of changes of a GatewayClass's finalizers.
const finalizerKind gatewayv1.Kind = "GatewayClass finalizer"

// finalizerChanges keeps the classes of ours that Gateways use from going away
// (GatewayClassFinalizerGatewaysExist), and lets the others go.
func finalizerChanges(s *topology.Snapshot, ours gatewayv1.GatewayController) []*change {
	used := map[string]bool{}
	for _, gateway := range s.Gateways {
		used[string(gateway.Spec.GatewayClassName)] = true
	}
	var changes []*change
	for name, class := range s.GatewayClasses {
		if class.Spec.ControllerName != ours || !lacksFinalizer(class, used[name]) {
			continue
		}
		changes = append(changes, &change{
			key:     objectKey{finalizerKind, types.NamespacedName{Name: name}},
			desired: used[name],
			wants:   func(other any) bool { return other == used[name] },
			write: func(ctx context.Context, w *writer) (outcome, error) {
				return w.writeFinalizer(ctx, class, used[name])
			},
		})
	}
	return sorted(changes)
}

// lacksFinalizer reports whether a class's finalizers are not as they should be.
// A class that is going away gets none any more: the API forbids it.
func lacksFinalizer(class *gatewayv1.GatewayClass, used bool) bool {
	has := slices.Contains(class.Finalizers, gatewayv1.GatewayClassFinalizerGatewaysExist)
	return has != used && (has || class.DeletionTimestamp == nil)
}

// writeFinalizer patches the finalizers and nothing else: the class may have fields
// that are newer than our types.
func (w *writer) writeFinalizer(ctx context.Context, class *gatewayv1.GatewayClass, used bool) (outcome, error) {
	for attempt := 0; ; attempt++ {
		fresh, err := w.clients.classes.Get(ctx, types.NamespacedName{Name: class.Name})
		switch {
		case apierrors.IsNotFound(err):
			return outcomeGone, nil
		case err != nil:
			return outcomeFailed, err
		case fresh.UID != class.UID:
			return outcomeOvertaken, nil
		case !lacksFinalizer(fresh, used):
			return outcomeUnchanged, nil
		}
		patch, err := finalizerPatch(fresh, used)
		if err != nil {
			return outcomeFailed, err
		}
		err = w.clients.patchClass(ctx, class.Name, patch)
		switch {
		case err == nil:
			return outcomeWritten, nil
		case apierrors.IsNotFound(err):
			return outcomeGone, nil
		case !apierrors.IsConflict(err) || attempt == maxConflicts:
			return outcomeFailed, err
		}
		w.conflict(finalizerKind)
	}
}

// finalizerPatch returns the merge patch that adds or removes the finalizer. It
// replaces the list, so it is good for this version of the class only.
func finalizerPatch(class *gatewayv1.GatewayClass, used bool) ([]byte, error) {
	finalizers := make([]string, 0, len(class.Finalizers)+1) // empty is not null
	for _, finalizer := range class.Finalizers {
		if finalizer != gatewayv1.GatewayClassFinalizerGatewaysExist {
			finalizers = append(finalizers, finalizer)
		}
	}
	if used {
		finalizers = append(finalizers, gatewayv1.GatewayClassFinalizerGatewaysExist)
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": class.ResourceVersion, "finalizers": finalizers,
	}})
}
