package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/cluster"
)

// wroteAll is what the API server notes of a status written by us alone, but for
// one condition that another controller has since written over: of that, only the
// generation and what else it says anew is the other's.
const wroteAll = `{"f:status":{"f:addresses":{},"f:attachedListenerSets":{},
 "f:conditions":{"k:{\"type\":\"Accepted\"}":{".":{},"f:type":{},"f:status":{},"f:reason":{}},
                 "k:{\"type\":\"portway.dev/AddressMode\"}":{".":{},"f:type":{},"f:status":{},"f:observedGeneration":{}},
                 "k:{\"type\":\"Programmed\"}":{".":{},"f:type":{},"f:status":{},"f:observedGeneration":{}}},
 "f:listeners":{"k:{\"name\":\"p80\"}":{".":{},"f:name":{},"f:attachedRoutes":{},
   "f:conditions":{"k:{\"type\":\"Accepted\"}":{"f:observedGeneration":{}},"k:{\"type\":\"Programmed\"}":{"f:observedGeneration":{}},"k:{\"type\":\"ResolvedRefs\"}":{"f:observedGeneration":{}}}}}}}`

func writtenBy(manager, fields string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Subresource: "status",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
	}}
}

// TestGatewayOfAnotherClassLosesWhatWeWrote and nothing else, in one write.
func TestGatewayOfAnotherClassLosesWhatWeWrote(t *testing.T) {
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	b.put(testGateway("g", 80), testRoute("r", "g"))
	b.settleAll()

	away := b.gateway("g").DeepCopy()
	away.Spec.GatewayClassName = "other"
	away.Generation++
	away.ManagedFields = writtenBy(cluster.FieldManager, wroteAll)
	taken := condition(away.Status.Conditions, "Accepted")
	taken.ObservedGeneration = away.Generation
	mode := record(testGateway("recorded", 80)).Status.Conditions[0]
	kept := metav1.Condition{Type: "example.com/Foreign", Status: metav1.ConditionTrue, Reason: "Foreign", LastTransitionTime: metav1.NewTime(epoch)}
	away.Status.Conditions = append(away.Status.Conditions, kept, mode)
	want := gatewayv1.GatewayStatus{Conditions: []metav1.Condition{*taken, kept}}
	b.put(away)
	b.settleAll()
	if diff := cmp.Diff(want, b.gateway("g").Status); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if parents := b.route("r").Status.Parents; len(parents) > 0 {
		t.Errorf("the route still has %v", parents)
	}
	b.calls()
	b.settleAll()
	if calls := b.calls(); len(calls) > 0 {
		t.Errorf("again: %v", calls)
	}
}

// TestGatewaysOfOthersAreNotTouched, whatever class they have had.
func TestGatewaysOfOthersAreNotTouched(t *testing.T) {
	for name, fields := range map[string][]metav1.ManagedFieldsEntry{
		"never ours":        nil,
		"another's":         writtenBy("other", wroteAll),
		"taken over in all": writtenBy(cluster.FieldManager, `{"f:status":{"f:conditions":{"k:{\"type\":\"Accepted\"}":{".":{},"f:type":{}}}}}`),
		"not readable":      writtenBy(cluster.FieldManager, `{"f:status":`),
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestbench(t)
			g := testGateway("g", 80)
			g.Spec.GatewayClassName = "other"
			g.ManagedFields = fields
			g.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: 1}}
			g.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.1"}}
			g.Status.AttachedListenerSets = ptr.To[int32](1)
			b.put(g)
			b.settleAll()
			if diff := cmp.Diff(g.Status, b.gateway("g").Status); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
