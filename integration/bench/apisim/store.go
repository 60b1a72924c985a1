package apisim

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sort"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
)

// maxEvents is how many events of a kind a watch can catch up with, at least.
const maxEvents = 20_000

// event is a change; before is nil for a new object.
type event struct {
	what          watch.EventType
	before, after *entry
}

// table holds the objects of one kind. It is guarded by the Server's mu.
type table struct {
	resource
	objects map[types.NamespacedName]*entry
	events  []event
	dropped int           // events that are no longer in events
	lost    uint64        // the version of the last one of them
	changed chan struct{} // closed when there are more events
}

func newTable(r resource) *table {
	return &table{resource: r, objects: map[types.NamespacedName]*entry{}, changed: make(chan struct{})}
}

// append adds an event and wakes the watches.
func (t *table) append(e event) {
	if len(t.events) == 2*maxEvents {
		t.lost = t.events[maxEvents-1].after.version
		t.events = slices.Clone(t.events[maxEvents:])
		t.dropped += maxEvents
	}
	t.events = append(t.events, e)
	close(t.changed)
	t.changed = make(chan struct{})
}

// after returns the number of the first event after a version; false: it was dropped.
func (t *table) after(version uint64) (int, bool) {
	i := sort.Search(len(t.events), func(i int) bool { return t.events[i].after.version > version })
	return t.dropped + i, version >= t.lost
}

func nameOf(o Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// table of an object's kind.
func (s *Server) tableOf(o Object) (*table, error) {
	kind, err := kindOf(o)
	if err != nil {
		return nil, err
	}
	for _, t := range s.tables {
		if t.groupVersionKind() == kind {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%s is not served", kind)
}

// Put creates or replaces objects, statuses included, in order. The Server keeps copies.
func (s *Server) Put(objects ...Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		t, err := s.tableOf(o)
		if err != nil {
			return err
		}
		s.put(t, copyOf(o))
	}
	return nil
}

// Delete removes objects; one that is not there is an error.
func (s *Server) Delete(objects ...Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		t, err := s.tableOf(o)
		if err != nil {
			return err
		}
		if s.remove(t, nameOf(o)) == nil {
			return fmt.Errorf("there is no %s %s", t.kind, nameOf(o))
		}
	}
	return nil
}

// Get returns what is held of the same kind and name, nil for nothing. It must not be changed.
func (s *Server) Get(like Object) (Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.tableOf(like)
	if err != nil {
		return nil, err
	}
	if e := t.objects[nameOf(like)]; e != nil {
		return e.object, nil
	}
	return nil, nil
}

// List returns all objects of the same kind, in no order. They must not be changed.
func List[P Object](s *Server, like P) ([]P, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.tableOf(like)
	if err != nil {
		return nil, err
	}
	all := make([]P, 0, len(t.objects))
	for _, e := range t.objects {
		o, ok := e.object.(P)
		if !ok {
			return nil, fmt.Errorf("%s is held as %T", t.kind, e.object)
		}
		all = append(all, o)
	}
	return all, nil
}

func copyOf[P Object](o P) P {
	c, ok := o.DeepCopyObject().(P)
	if !ok {
		panic(fmt.Sprintf("a copy of %T is of another type", o))
	}
	return c
}

// put stores an object that is the Server's from now on.
func (s *Server) put(t *table, o Object) *entry {
	name := nameOf(o)
	before := t.objects[name]
	what := watch.Modified
	if before == nil {
		what = watch.Added
		if o.GetUID() == "" {
			o.SetUID(uuid.NewUUID())
		}
		if created := o.GetCreationTimestamp(); created.IsZero() {
			o.SetCreationTimestamp(metav1.NewTime(time.Now()).Rfc3339Copy())
		}
	} else {
		o.SetUID(before.object.GetUID())
		o.SetCreationTimestamp(before.object.GetCreationTimestamp())
	}
	if o.GetGeneration() == 0 {
		o.SetGeneration(1)
	}
	s.version++
	after := newEntry(o, t.groupVersionKind(), s.version)
	t.objects[name] = after
	t.append(event{what, before, after})
	return after
}

// remove returns the last version of the object, nil if there was none.
func (s *Server) remove(t *table, name types.NamespacedName) *entry {
	before := t.objects[name]
	if before == nil {
		return nil
	}
	delete(t.objects, name)
	s.version++
	after := newEntry(copyOf(before.object), t.groupVersionKind(), s.version)
	t.append(event{watch.Deleted, before, after})
	return after
}

// create is what POST does.
func (s *Server) create(t *table, o Object) (*entry, error) {
	if t.name == eventResource {
		return newEntry(o, t.groupVersionKind(), s.version), nil
	}
	if name := nameOf(o); t.objects[name] != nil {
		return nil, apierrors.NewAlreadyExists(t.groupResource(), name.Name)
	}
	o.SetUID("")
	o.SetGeneration(1)
	return s.put(t, o), nil
}

// update is what PUT does to an object or to its status.
func (s *Server) update(t *table, o Object, subresource, manager string) (*entry, error) {
	name := nameOf(o)
	before := t.objects[name]
	if before == nil {
		return nil, apierrors.NewNotFound(t.groupResource(), name.Name)
	}
	if v := o.GetResourceVersion(); v != "" && v != before.object.GetResourceVersion() || o.GetUID() != "" && o.GetUID() != before.object.GetUID() {
		return nil, apierrors.NewConflict(t.groupResource(), name.Name, fmt.Errorf("it is at version %d", before.version))
	}
	next := o
	if subresource == "status" {
		next = copyOf(before.object)
		takeField("Status", next, o)
		wroteStatus(next, manager)
	} else {
		if t.status {
			takeField("Status", next, before.object)
		}
		next.SetManagedFields(before.object.GetManagedFields())
		next.SetGeneration(before.object.GetGeneration())
		if !equality.Semantic.DeepEqual(field("Spec", next), field("Spec", before.object)) {
			next.SetGeneration(before.object.GetGeneration() + 1)
		}
	}
	next.SetUID(before.object.GetUID())
	next.SetCreationTimestamp(before.object.GetCreationTimestamp())
	next.SetResourceVersion(before.object.GetResourceVersion())
	next.GetObjectKind().SetGroupVersionKind(before.kind)
	if equality.Semantic.DeepEqual(next, before.object) {
		return before, nil
	}
	return s.put(t, next), nil
}

// field of an object, nil if it has none of that name.
func field(name string, o Object) any {
	v := reflect.ValueOf(o).Elem().FieldByName(name)
	if !v.IsValid() {
		return nil
	}
	return v.Interface()
}

func takeField(name string, to, from Object) {
	v := reflect.ValueOf(from).Elem().FieldByName(name)
	if v.IsValid() {
		reflect.ValueOf(to).Elem().FieldByName(name).Set(v)
	}
}

// wroteStatus records who wrote the status, without which of its fields.
func wroteStatus(o Object, manager string) {
	others := slices.DeleteFunc(o.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == manager })
	o.SetManagedFields(append(others, metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Subresource: "status",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`),
	}))
}

// statusOf makes an error what the API answers.
func statusOf(err error) *metav1.Status {
	if status, ok := err.(apierrors.APIStatus); ok {
		s := status.Status()
		s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		return &s
	}
	return statusOf(&apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusBadRequest, Reason: metav1.StatusReasonBadRequest, Message: err.Error(),
	}})
}
