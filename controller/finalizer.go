package controller

import (
	"context"
	"encoding/json"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// finalizer keeps cluster-scoped objects of a kind from going away while they are used,
// and lets the others go.
type finalizer[P object] struct {
	kind   gatewayv1.Kind // of changes
	name   string
	client statusClient[P]
	// patch merges a patch into an object.
	patch func(ctx context.Context, name string, patch []byte) error
}

// classFinalizer is on the classes of ours that Gateways use
// (GatewayClassFinalizerGatewaysExist).
func classFinalizer(c clients) finalizer[*gatewayv1.GatewayClass] {
	return finalizer[*gatewayv1.GatewayClass]{"GatewayClass finalizer", gatewayv1.GatewayClassFinalizerGatewaysExist, c.classes, c.patchClass}
}

// poolFinalizer is on all pools, so that none is gone when an address of it has been given a
// moment ago. One that is being deleted loses it when it vouches for none of a Gateway.
func poolFinalizer(c clients) finalizer[*v1alpha1.AddressPool] {
	return finalizer[*v1alpha1.AddressPool]{"AddressPool finalizer", v1alpha1.AddressPoolFinalizer, c.pools, c.patchPool}
}

// finalizerChanges returns what differs among the finalizers. uses is nil if it is not
// known what Gateways have.
func finalizerChanges(k *kinds, s *topology.Snapshot, uses map[string]topology.PoolUse, ours gatewayv1.GatewayController) []*change {
	used := map[string]bool{}
	for _, gateway := range s.Gateways {
		used[string(gateway.Spec.GatewayClassName)] = true
	}
	var changes []*change
	for name, class := range s.GatewayClasses {
		if class.Spec.ControllerName == ours {
			changes = k.classFinalizer.appendChange(changes, class, used[name])
		}
	}
	changes = sorted(changes)
	if uses == nil {
		return changes
	}
	var ofPools []*change
	for name, pool := range s.AddressPools {
		ofPools = k.poolFinalizer.appendChange(ofPools, pool, pool.DeletionTimestamp == nil || uses[name].InUse)
	}
	return append(changes, sorted(ofPools)...)
}

// appendChange adds what gives an object the finalizer, or takes it away.
func (f *finalizer[P]) appendChange(changes []*change, o P, used bool) []*change {
	if !f.differs(o, used) {
		return changes
	}
	return append(changes, &change{
		key:     objectKey{f.kind, keyOf(o)},
		desired: used,
		wants:   func(other any) bool { return other == used },
		write: func(ctx context.Context, w *writer) (outcome, error) {
			return f.write(ctx, w, o, used)
		},
	})
}

// differs reports whether an object's finalizers are not as they should be. An object
// that is going away gets none any more: the API forbids it.
func (f *finalizer[P]) differs(o P, used bool) bool {
	has := slices.Contains(o.GetFinalizers(), f.name)
	return has != used && (has || o.GetDeletionTimestamp() == nil)
}

// write patches the finalizers and nothing else: the object may have fields that are
// newer than our types.
func (f *finalizer[P]) write(ctx context.Context, w *writer, o P, used bool) (outcome, error) {
	for attempt := 0; ; attempt++ {
		fresh, err := f.client.Get(ctx, keyOf(o))
		switch {
		case apierrors.IsNotFound(err):
			return outcomeGone, nil
		case err != nil:
			return outcomeFailed, err
		case fresh.GetUID() != o.GetUID():
			return outcomeOvertaken, nil
		case !f.differs(fresh, used):
			return outcomeUnchanged, nil
		}
		patch, err := f.patchOf(fresh, used)
		if err != nil {
			return outcomeFailed, err
		}
		err = f.patch(ctx, o.GetName(), patch)
		switch {
		case err == nil:
			return outcomeWritten, nil
		case apierrors.IsNotFound(err):
			return outcomeGone, nil
		case !apierrors.IsConflict(err) || attempt == maxConflicts:
			return outcomeFailed, err
		}
		w.conflict(f.kind)
	}
}

// patchOf returns the merge patch that adds or removes the finalizer. It replaces the
// list, so it is good for this version of the object only.
func (f *finalizer[P]) patchOf(o P, used bool) ([]byte, error) {
	finalizers := make([]string, 0, len(o.GetFinalizers())+1) // empty is not null
	for _, name := range o.GetFinalizers() {
		if name != f.name {
			finalizers = append(finalizers, name)
		}
	}
	if used {
		finalizers = append(finalizers, f.name)
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": o.GetResourceVersion(), "finalizers": finalizers,
	}})
}
