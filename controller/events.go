package controller

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/internal/shorten"
	"github.com/portway-dev/portway/topology"
)

// recorder takes Events; it does not block.
type recorder interface {
	Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any)
}

// event is what an operator must know: always a warning. Nearly all are made from the
// two statuses of a successful write, so that each transition gives one, however
// many passes, conflicts and controllers there were; tellBehind and tellSilent tell of
// what no write shows.
type event struct{ reason, action, note string }

// Reasons of Events that are not the reason of a condition.
const (
	reasonNodeLagging = "NodeLagging"
	reasonSuperseded  = "Superseded"
	reasonAgentSilent = "AgentSilent"
	reasonStatusFull  = "StatusFull"

	reasonAddressRetained = "AddressRetained"

	reasonServiceNotWritten = "ServiceNotWritten"
)

// Actions of Events: what we were doing.
const (
	actionProgram = "Program"
	actionAttach  = "Attach"
	actionAccept  = "Accept"
	actionAssign  = "Assign"
)

func gatewayEvents(before, after, _ *gatewayv1.GatewayStatus) []event {
	var events []event
	if e, ok := programmedEvent(condition(before.Conditions, programmed), condition(after.Conditions, programmed)); ok {
		events = append(events, e)
	}
	events = append(events, becameTrue(before.Conditions, after.Conditions, topology.ConditionImpaired, actionProgram)...)
	events = append(events, announcerEvents(before.Conditions, after.Conditions)...)
	if e, ok := retainedEvent(before.Conditions, after.Conditions); ok {
		events = append(events, e)
	}
	for i := range after.Listeners {
		listener := &after.Listeners[i]
		events = append(events, listenerEvents(publishedListener(before.Listeners, listener.Name), listener.Conditions)...)
	}
	return events
}

// programmedEvent: nodes that fall behind, and addresses that are not to be had.
// A Gateway that is new is not lagging yet; tellBehind gives it time.
func programmedEvent(before, after *metav1.Condition) (event, bool) {
	if after == nil || after.Status != metav1.ConditionFalse {
		return event{}, false
	}
	if before == nil || passing(before) {
		before = &metav1.Condition{Status: metav1.ConditionUnknown}
	}
	if passing(after) {
		return event{}, false
	}
	if before.Status == after.Status && before.Reason == after.Reason {
		return event{}, false
	}
	switch gatewayv1.GatewayConditionReason(after.Reason) {
	case gatewayv1.GatewayReasonPending:
		if before.Status == metav1.ConditionTrue {
			return event{reasonNodeLagging, actionProgram, after.Message}, true
		}
	case gatewayv1.GatewayReasonAddressNotAssigned, gatewayv1.GatewayReasonAddressNotUsable, gatewayv1.GatewayReasonNoResources:
		return event{after.Reason, actionProgram, after.Message}, true
	default: // the spec is at fault, which its conditions say
	}
	return event{}, false
}

// passing: there is no address yet, for a reason that passes by itself.
func passing(c *metav1.Condition) bool {
	return c.Reason == string(gatewayv1.GatewayReasonAddressNotAssigned) && strings.Contains(c.Message, waiting)
}

// retainedEvent: the Gateway has addresses that it would not get again.
func retainedEvent(before, after []metav1.Condition) (event, bool) {
	old, now := condition(before, topology.ConditionAddressRetained), condition(after, topology.ConditionAddressRetained)
	if now == nil || old != nil && old.Reason == now.Reason {
		return event{}, false
	}
	return event{reasonAddressRetained, actionAssign, now.Message}, true
}

func listenerSetEvents(before, after, _ *gatewayv1.ListenerSetStatus) []event {
	var events []event
	for i := range after.Listeners {
		listener := &after.Listeners[i]
		events = append(events, listenerEvents(publishedEntry(before.Listeners, listener.Name), listener.Conditions)...)
	}
	return events
}

// announcerEvents: an address has moved to another node, or to none. That a new Gateway
// is announced is nothing to tell: until then the condition is as old as its others.
func announcerEvents(before, after []metav1.Condition) []event {
	old, now := condition(before, topology.ConditionAnnounced), condition(after, topology.ConditionAnnounced)
	if old == nil || now == nil || old.Reason == now.Reason && old.Message == now.Message {
		return nil
	}
	accepted := condition(before, string(gatewayv1.GatewayConditionAccepted))
	isNew := accepted == nil || !accepted.LastTransitionTime.Before(&old.LastTransitionTime)
	if isNew && old.Reason == topology.ReasonNotAnnounced && now.Status == metav1.ConditionTrue {
		return nil
	}
	return []event{{now.Reason, actionProgram, fmt.Sprintf("%s; before: %s", now.Message, old.Message)}}
}

// becameTrue: a condition of ours that is absent while nothing is wrong is there.
func becameTrue(before, after []metav1.Condition, kind, action string) []event {
	old, now := condition(before, kind), condition(after, kind)
	if now == nil || now.Status != metav1.ConditionTrue || old != nil && old.Status == now.Status && old.Reason == now.Reason {
		return nil
	}
	return []event{{now.Reason, action, now.Message}}
}

// listenerEvents: a port that somebody else has, or wants.
func listenerEvents(before, after []metav1.Condition) []event {
	const accepted = string(gatewayv1.ListenerConditionAccepted)
	if wanted := becameTrue(before, after, topology.ConditionPortContended, actionAccept); len(wanted) > 0 {
		return wanted
	}
	old, now := condition(before, accepted), condition(after, accepted)
	if now == nil || now.Status != metav1.ConditionFalse || old != nil && old.Reason == now.Reason {
		return nil
	}
	switch gatewayv1.ListenerConditionReason(now.Reason) {
	case gatewayv1.ListenerReasonProtocolConflict, gatewayv1.ListenerReasonPortUnavailable:
		return []event{{now.Reason, actionAccept, now.Message}}
	default:
		return nil
	}
}

// routeEvents: an older route carries the traffic, of which the API shows nothing;
// or there is no room in the status for what we have to say.
func routeEvents(before, after, desired *gatewayv1.RouteStatus, ours gatewayv1.GatewayController) []event {
	var events []event
	if had, shown := ownParents(before, ours), ownParents(after, ours); shown < len(desired.Parents) && (len(before.Parents) < maxParents || had != shown) {
		events = append(events, event{reasonStatusFull, actionAttach, fmt.Sprintf(
			"status.parents holds %d entries at most and %d are of other controllers: it shows %d of the %d parents that are Gateways of ours",
			maxParents, len(after.Parents)-shown, shown, len(desired.Parents))})
	}
	for i := range after.Parents {
		parent := &after.Parents[i]
		if parent.ControllerName != ours {
			continue
		}
		now := condition(parent.Conditions, topology.ConditionSuperseded)
		if now == nil || now.Status != metav1.ConditionTrue {
			continue
		}
		var old *metav1.Condition
		if j := ownParentIndex(before.Parents, parent.ParentRef, ours); j >= 0 {
			old = condition(before.Parents[j].Conditions, topology.ConditionSuperseded)
		}
		if old == nil || old.Status != now.Status {
			events = append(events, event{reasonSuperseded, actionAttach, now.Message})
		}
	}
	return events
}

func ownParentIndex(parents []gatewayv1.RouteParentStatus, ref gatewayv1.ParentReference, ours gatewayv1.GatewayController) int {
	for i := range parents {
		if parents[i].ControllerName == ours && sameParent(&parents[i].ParentRef, &ref) {
			return i
		}
	}
	return -1
}

// joined makes one event of those with the same reason: about one object, the API's
// series would keep the note of the first only.
func joined(events []event) []event {
	var one []event
	for _, e := range events {
		i := slices.IndexFunc(one, func(o event) bool { return o.reason == e.reason && o.action == e.action })
		if i < 0 {
			one = append(one, e)
			continue
		}
		one[i].note += " | " + e.note
	}
	return one
}

// EventQPS is how many Events per second are to be sent, beside the statuses.
const EventQPS = 10

// eventBacklog is how many Events may wait for their turn. Each keeps a goroutine of
// client-go's and a copy of its object: 9000 at once took 100 MB, and a quarter of an
// hour. Whoever needs that many reads the conditions, which say the same.
const eventBacklog = 500

// emit records Events about an object, as long as there is room for them.
func (w *writer) emit(about runtime.Object, events []event) {
	const maxNote = 1024 // the API's limit in bytes
	for _, e := range joined(events) {
		if !w.events.TryAccept() {
			droppedEvents.Inc()
			continue
		}
		w.recorder.Eventf(about, nil, corev1.EventTypeWarning, e.reason, e.action, "%s", shorten.To(e.note, maxNote))
	}
}
