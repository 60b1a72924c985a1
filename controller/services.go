package controller

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/csaupgrade"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// serviceKind is the kind of changes of the Services of Gateways in mode LoadBalancer.
const serviceKind gatewayv1.Kind = "Service"

// orphanGrace is for how long a Service has to be seen without its Gateway until it is
// deleted: its address is gone for good then. What is watched may be behind for one kind
// and not for another, and who changes a mode by mistake has a moment to change it back.
const orphanGrace = 10 * time.Second

// orphans knows since when Services of ours are of no Gateway.
type orphans map[types.UID]time.Time

// ripe returns those that have been so for long enough, and when others will have been;
// zero: there are none.
func (o orphans) ripe(now time.Time, found []*corev1.Service) (ripe []*corev1.Service, next time.Time) {
	still := orphans{}
	for _, service := range found {
		since, known := o[service.UID]
		if !known {
			since = now
		}
		still[service.UID] = since
		if end := since.Add(orphanGrace); now.Before(end) {
			next = earliest(next, end)
		} else {
			ripe = append(ripe, service)
		}
	}
	clear(o)
	for uid, since := range still {
		o[uid] = since
	}
	return ripe, next
}

// ripeOrphans are the Services that are to be deleted; next is when there may be others.
func (c *controller) ripeOrphans(now time.Time) (ripe []*corev1.Service, next time.Time) {
	if c.partial || !c.writer.clients.seesGateways() { // what was not read is not missing
		clear(c.orphans)
		return nil, time.Time{}
	}
	return c.orphans.ripe(now, c.graph.Orphans)
}

// seesGateways reports whether the API server serves Gateways and their classes. While it
// does not, none of them is known to be gone.
func (c clients) seesGateways() bool {
	served := c.served()
	return served["GatewayClass"] != "" && served["Gateway"] != ""
}

// wantedServices returns what makes the Services of Gateways as they have to be.
func wantedServices(g *topology.Graph) []*change {
	var changes []*change
	for _, gateway := range g.Gateways {
		want := gateway.Service()
		if want == nil || gateway.LoadBalancer.Source != nil && topology.SameService(gateway.LoadBalancer.Source, want) {
			continue
		}
		key := objectKey{serviceKind, gateway.LoadBalancer.Key}
		changes = append(changes, &change{
			key:     key,
			desired: want,
			wants: func(other any) bool {
				service, ok := other.(*corev1.Service)
				return ok && topology.SameService(service, want) && topology.SameService(want, service)
			},
			write: func(ctx context.Context, w *writer) (outcome, error) {
				result, err := applyService(ctx, w.clients.services.Services(want.Namespace), want)
				w.noteService(ctx, key, gateway.Source, err)
				return result, err
			},
		})
	}
	return sorted(changes)
}

// unwantedServices deletes Services of ours that have no Gateway any more.
func unwantedServices(s *topology.Snapshot, orphans []*corev1.Service) []*change {
	changes := make([]*change, 0, len(orphans))
	for _, orphan := range orphans {
		key := objectKey{serviceKind, keyOf(orphan)}
		gateway, uid, told := topology.GatewayOf(orphan)
		known := s.Gateways[gateway] != nil && s.Gateways[gateway].UID == uid
		changes = append(changes, &change{
			key:     key,
			desired: orphan.UID,
			wants:   func(other any) bool { return other == orphan.UID },
			write: func(ctx context.Context, w *writer) (outcome, error) {
				if told && !known {
					// What is watched may be behind.
					switch found, err := w.clients.gateways.Get(ctx, gateway); {
					case err == nil && found.UID == uid:
						return outcomeOvertaken, nil
					case err != nil && !apierrors.IsNotFound(err):
						return outcomeFailed, err
					}
				}
				result, err := deleteService(ctx, w.clients.services.Services(orphan.Namespace), orphan)
				w.noteService(ctx, key, orphan, err)
				return result, err
			},
		})
	}
	return changes
}

// applyService makes a Service as it has to be, and leaves what others say of it.
func applyService(ctx context.Context, services typedcorev1.ServiceInterface, want *corev1.Service) (outcome, error) {
	fresh, err := services.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		// To apply would be to take over what somebody else makes at this moment.
		if _, err = services.Create(ctx, want, metav1.CreateOptions{FieldManager: cluster.FieldManager}); err != nil {
			return outcomeFailed, err
		}
		return outcomeWritten, nil
	}
	switch {
	case err != nil:
		return outcomeFailed, err
	case !sameOwner(fresh, want) || fresh.DeletionTimestamp != nil:
		return outcomeOvertaken, nil
	case topology.SameService(fresh, want):
		return outcomeUnchanged, nil
	}
	// What was created counts as applied, or a label, once there, could not be removed.
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(fresh, sets.New(cluster.FieldManager), cluster.FieldManager)
	if err == nil && patch != nil {
		_, err = services.Patch(ctx, want.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: cluster.FieldManager})
	}
	if err == nil {
		// The UID keeps it from making another Service where this one has just gone.
		_, err = services.Apply(ctx, applied(want).WithUID(fresh.UID), metav1.ApplyOptions{FieldManager: cluster.FieldManager, Force: true})
	}
	switch {
	case apierrors.IsNotFound(err):
		return outcomeOvertaken, nil
	case err != nil:
		return outcomeFailed, err
	}
	return outcomeWritten, nil
}

// applied is what we say of a Service.
func applied(s *corev1.Service) *applycorev1.ServiceApplyConfiguration {
	spec := applycorev1.ServiceSpec().
		WithType(s.Spec.Type).WithSelector(s.Spec.Selector).WithExternalTrafficPolicy(s.Spec.ExternalTrafficPolicy).
		WithIPFamilies(s.Spec.IPFamilies...)
	spec.IPFamilyPolicy, spec.LoadBalancerClass = s.Spec.IPFamilyPolicy, s.Spec.LoadBalancerClass
	for _, port := range s.Spec.Ports {
		spec.WithPorts(applycorev1.ServicePort().
			WithName(port.Name).WithProtocol(port.Protocol).WithPort(port.Port).WithTargetPort(port.TargetPort))
	}
	return applycorev1.Service(s.Name, s.Namespace).WithLabels(s.Labels).WithAnnotations(s.Annotations).WithSpec(spec)
}

// deleteService deletes a Service of ours unless it is another one by now.
func deleteService(ctx context.Context, services typedcorev1.ServiceInterface, orphan *corev1.Service) (outcome, error) {
	fresh, err := services.Get(ctx, orphan.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return outcomeGone, nil
	case err != nil:
		return outcomeFailed, err
	case fresh.UID != orphan.UID || !sameOwner(fresh, orphan):
		return outcomeOvertaken, nil
	case fresh.DeletionTimestamp != nil:
		return outcomeUnchanged, nil
	}
	err = services.Delete(ctx, orphan.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &fresh.UID, ResourceVersion: &fresh.ResourceVersion},
	})
	switch {
	case apierrors.IsNotFound(err):
		return outcomeGone, nil
	case err != nil:
		return outcomeFailed, err
	}
	return outcomeWritten, nil
}

// sameOwner reports whether two Services are of the same Gateway, or of gateways of the
// same name. Without its labels, a Service is not ours.
func sameOwner(a, b *corev1.Service) bool {
	const namespace, name = v1alpha1.GatewayNamespaceLabel, v1alpha1.GatewayNameLabel
	return a.Labels[namespace] == b.Labels[namespace] && a.Labels[name] == b.Labels[name]
}

// noteService remembers why a Service is not as it has to be, for the status of its
// Gateway, and tells it once.
func (w *writer) noteService(ctx context.Context, key objectKey, about object, err error) {
	text := ""
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return // the end of the term
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return // somebody else was faster, and it is tried again
	case err != nil:
		text = err.Error()
	}
	w.mu.Lock()
	before := w.failures[key]
	if text == "" {
		delete(w.failures, key)
	} else {
		w.failures[key] = text
	}
	w.mu.Unlock()
	if text == before {
		return
	}
	w.unheard.Store(true)
	w.news()
	if text != "" {
		w.emit(about, []event{{reasonServiceNotWritten, actionAssign, topology.ServiceNotWritten(key.NamespacedName, text)}})
	}
}

// failure returns why a Service of ours could not be written, empty if that is not so.
func (w *writer) failure(service types.NamespacedName) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failures[objectKey{serviceKind, service}]
}
