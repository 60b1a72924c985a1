package controller

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxConflicts is how often a write starts over at once before it is queued again.
const maxConflicts = 4

// outcome is how a write ended.
type outcome string

const (
	outcomeWritten   outcome = "written"
	outcomeUnchanged outcome = "unchanged" // the API held it already
	outcomeGone      outcome = "gone"      // the object, or its kind
	outcomeOvertaken outcome = "overtaken" // by an edit; the next pass decides anew
	outcomeFailed    outcome = "failed"
)

// write makes the status of an object the desired one, or removes what is ours in
// it (nil): compare and update, and once more from what the API holds after a
// conflict. What others wrote into the status meanwhile stays.
func write[P object, S any](ctx context.Context, w *writer, k *kind[P, S], object P, desired *S) (outcome, error) {
	id, version := objectID{k.name, object.GetUID()}, object.GetResourceVersion()
	base := object
	if latest := w.recall(id, version); latest != nil {
		if now := w.clock.Now(); latest.doubtful(version, now) {
			fresh, end, err := k.reread(ctx, object)
			if end != "" {
				return end, err
			}
			latest = latest.again(fresh, now)
			w.remember(id, latest)
		}
		if refused, ok := latest.refused.(*S); ok && desired != nil && k.equal(refused, desired) {
			return outcomeUnchanged, nil
		}
		if newer, ok := latest.object.(P); ok {
			base = newer
		}
	}
	now := metav1.NewTime(w.clock.Now()).Rfc3339Copy()
	for attempt := 0; ; attempt++ {
		before := k.status(base)
		after := k.after(base, desired, now)
		if k.equal(before, &after) {
			return outcomeUnchanged, nil
		}
		next := k.copy(base)
		*k.status(next) = after
		next.SetManagedFields(nil) // the API keeps what it has: ours may be trimmed
		written, err := k.client.UpdateStatus(ctx, next)
		switch {
		case err == nil:
			latest := &writtenObject{object: written, at: now.Time, seen: version}
			if desired != nil && !k.equal(k.status(written), &after) {
				// An older CRD has no such field: asking again changes nothing.
				latest.refused = desired
			}
			w.remember(id, latest)
			w.emit(base, k.events(before, &after, desired))
			return outcomeWritten, nil
		case apierrors.IsNotFound(err):
			return outcomeGone, nil
		case !apierrors.IsConflict(err) || attempt == maxConflicts:
			return outcomeFailed, err
		}
		w.conflict(k.name)
		fresh, end, err := k.reread(ctx, object)
		if end != "" {
			return end, err
		}
		base = fresh
	}
}

// reread returns what the API holds now, or how a write of it has to end.
func (k *kind[P, S]) reread(ctx context.Context, object P) (fresh P, end outcome, err error) {
	fresh, err = k.client.Get(ctx, keyOf(object))
	switch {
	case apierrors.IsNotFound(err):
		return fresh, outcomeGone, nil
	case err != nil:
		return fresh, outcomeFailed, err
	case fresh.GetUID() != object.GetUID() || fresh.GetGeneration() != object.GetGeneration():
		return fresh, outcomeOvertaken, nil
	}
	return fresh, "", nil
}
