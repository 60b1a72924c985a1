package cluster

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Object is an API object of any kind this project reads.
type Object interface {
	metav1.Object
	runtime.Object
}

// pointer is satisfied by the pointer type of an API object struct.
type pointer[T any] interface {
	*T
	Object
}

// table holds the objects of one kind. Its map is copied before the first write
// after it was handed out, so that what was handed out never changes.
type table[K comparable, T any, P pointer[T]] struct {
	objects map[K]*T
	shared  bool
}

// set stores an object. It reports whether that changed anything, and whether it
// changed anything but the status.
func (t *table[K, T, P]) set(key K, object *T) (changed, decides bool) {
	old, ok := t.objects[key]
	if ok && sameObject[T, P](old, object) {
		return false, false
	}
	t.own()
	t.objects[key] = object
	return true, !ok || !sameSpec(P(old), P(object))
}

// remove deletes an object and reports whether it was there.
func (t *table[K, T, P]) remove(key K) bool {
	if _, ok := t.objects[key]; !ok {
		return false
	}
	t.own()
	delete(t.objects, key)
	return true
}

// share hands out the map; it will not be written again.
func (t *table[K, T, P]) share() map[K]*T {
	if t.objects == nil {
		t.objects = map[K]*T{}
	}
	t.shared = true
	return t.objects
}

func (t *table[K, T, P]) own() {
	switch {
	case t.objects == nil:
		t.objects = map[K]*T{}
	case t.shared:
		t.objects = maps.Clone(t.objects)
	}
	t.shared = false
}

// sameSpec reports whether two objects differ in nothing but their status, by the
// generation that the API server keeps of the rest. Where it keeps none, they do.
func sameSpec(a, b metav1.Object) bool {
	return a.GetGeneration() != 0 && a.GetGeneration() == b.GetGeneration() && a.GetUID() == b.GetUID() &&
		a.GetDeletionTimestamp().Equal(b.GetDeletionTimestamp()) &&
		equality.Semantic.DeepEqual(a.GetLabels(), b.GetLabels()) && equality.Semantic.DeepEqual(a.GetAnnotations(), b.GetAnnotations()) &&
		equality.Semantic.DeepEqual(a.GetFinalizers(), b.GetFinalizers())
}

// sameHeld reports whether the statuses of two pools say the same of addresses that
// Gateways keep.
func sameHeld(a, b *v1alpha1.AddressPool) bool {
	return slices.Equal(a.Status.Addresses, b.Status.Addresses) && slices.Equal(a.Status.Retained, b.Status.Retained)
}

// sameObject compares two objects but for their bookkeeping: every write
// through the API moves resourceVersion, and most move managedFields.
func sameObject[T any, P pointer[T]](a, b *T) bool {
	if a == b {
		return true
	}
	// Shallow copies: the setters replace fields of the copy's own ObjectMeta.
	x, y := *a, *b
	for _, o := range []P{&x, &y} {
		o.SetResourceVersion("")
		o.SetManagedFields(nil)
	}
	return equality.Semantic.DeepEqual(&x, &y)
}
