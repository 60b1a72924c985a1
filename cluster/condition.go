package cluster

import (
	"fmt"
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// ConditionList is one list of conditions in an object's status.
type ConditionList struct {
	// Path names the list within the object: "", "listener foo",
	// "parent Gateway default/web foo 8080".
	Path       string
	Conditions []metav1.Condition
}

// ConditionLists yields all condition lists of an object's status, in the order
// of the status. The conditions may be changed in place.
func ConditionLists(object Object) iter.Seq[ConditionList] {
	return func(yield func(ConditionList) bool) {
		switch o := object.(type) {
		case *gatewayv1.GatewayClass:
			yield(ConditionList{Conditions: o.Status.Conditions})
		case *v1alpha1.AddressPool:
			yield(ConditionList{Conditions: o.Status.Conditions})
		case *gatewayv1.Gateway:
			if !yield(ConditionList{Conditions: o.Status.Conditions}) {
				return
			}
			for _, l := range o.Status.Listeners {
				if !yield(ConditionList{Path: "listener " + string(l.Name), Conditions: l.Conditions}) {
					return
				}
			}
		case *gatewayv1.ListenerSet:
			if !yield(ConditionList{Conditions: o.Status.Conditions}) {
				return
			}
			for _, l := range o.Status.Listeners {
				if !yield(ConditionList{Path: "listener " + string(l.Name), Conditions: l.Conditions}) {
					return
				}
			}
		case *gatewayv1.TCPRoute:
			parentLists(o.Namespace, o.Status.Parents, yield)
		case *gatewayv1.UDPRoute:
			parentLists(o.Namespace, o.Status.Parents, yield)
		}
	}
}

func parentLists(namespace string, parents []gatewayv1.RouteParentStatus, yield func(ConditionList) bool) {
	for _, p := range parents {
		if !yield(ConditionList{Path: parentPath(namespace, p.ParentRef), Conditions: p.Conditions}) {
			return
		}
	}
}

func parentPath(namespace string, ref gatewayv1.ParentReference) string {
	path := fmt.Sprintf("parent %s %s/%s", ptr.Deref(ref.Kind, "Gateway"),
		ptr.Deref(ref.Namespace, gatewayv1.Namespace(namespace)), ref.Name)
	if ref.SectionName != nil {
		path += " section " + string(*ref.SectionName)
	}
	if ref.Port != nil {
		path += fmt.Sprintf(" port %d", *ref.Port)
	}
	return path
}

// Transitions remembers when each condition got its present status. The zero
// value remembers nothing. Not safe for concurrent use.
type Transitions struct {
	known map[string]transition
}

type transition struct {
	status metav1.ConditionStatus
	since  metav1.Time
}

// Apply sets lastTransitionTime in the objects: the time it had before while the
// status is the same, else now. Conditions that are not in the objects are
// forgotten.
func (t *Transitions) Apply(objects []Object, now metav1.Time) {
	now = now.Rfc3339Copy() // the API's resolution
	next := map[string]transition{}
	for _, object := range objects {
		for list := range ConditionLists(object) {
			for i := range list.Conditions {
				c := &list.Conditions[i]
				id := fmt.Sprintf("%s|%s|%s", keyOf(object), list.Path, c.Type)
				old, ok := t.known[id]
				if !ok || old.status != c.Status {
					old = transition{status: c.Status, since: now}
				}
				c.LastTransitionTime = old.since
				next[id] = old
			}
		}
	}
	t.known = next
}

// Restore reads the times from documents written by StatusYAML, so that a
// restart does not move them. Documents it cannot read are passed over: their
// times start anew.
func (t *Transitions) Restore(documents []byte) {
	next := map[string]transition{}
	for c := range split(documents) {
		root, broken := parseYAML(c.text)
		if broken != nil || root == nil {
			continue
		}
		k, ok := kinds[memberText(root, "kind")]
		if !ok {
			continue
		}
		object := k.empty()
		if problems := decode(root, object); len(problems) > 0 {
			continue
		}
		for list := range ConditionLists(object) {
			for _, c := range list.Conditions {
				id := fmt.Sprintf("%s|%s|%s", keyOf(object), list.Path, c.Type)
				next[id] = transition{status: c.Status, since: c.LastTransitionTime}
			}
		}
	}
	t.known = next
}
