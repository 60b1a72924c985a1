package controller

import (
	"context"
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
			key: objectKey{finalizerKind, types.NamespacedName{Name: name}},
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

// writeFinalizer writes the whole object, so it starts from the whole object: the
// one of the Snapshot may have been trimmed.
func (w *writer) writeFinalizer(ctx context.Context, class *gatewayv1.GatewayClass, used bool) (outcome, error) {
	for attempt := 0; ; attempt++ {
		fresh, err := w.clients.finalizers.Get(ctx, types.NamespacedName{Name: class.Name})
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
		fresh = fresh.DeepCopy()
		if used {
			fresh.Finalizers = append(fresh.Finalizers, gatewayv1.GatewayClassFinalizerGatewaysExist)
		} else {
			fresh.Finalizers = slices.DeleteFunc(fresh.Finalizers, func(f string) bool {
				return f == gatewayv1.GatewayClassFinalizerGatewaysExist
			})
		}
		_, err = w.clients.finalizers.Update(ctx, fresh)
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
