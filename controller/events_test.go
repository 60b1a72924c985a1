package controller

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// TestEvents: each transition is told once, whatever passes follow.
func TestEvents(t *testing.T) {
	b := newTestbench(t)
	b.join("a", "10.0.0.1")
	expect := func(what string, want ...string) {
		t.Helper()
		b.settleAll()
		if err := b.pass(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, b.events.take()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	b.put(testGateway("g", 80), testRoute("r", "g"))
	b.step()
	b.prove("a")
	expect("a new Gateway")

	young := testRoute("young", "g")
	young.CreationTimestamp = metav1.NewTime(epoch.Add(time.Minute))
	b.put(young)
	b.step()
	b.prove("a")
	expect("a second route", `young Superseded: serves 0 of 1 listeners; the oldest route has precedence, then the first by name: listener "p80" serves TCPRoute default/r`)

	late := testGateway("late", 80, 81)
	late.CreationTimestamp = metav1.NewTime(epoch.Add(time.Minute))
	b.put(late)
	b.step()
	b.prove("a")
	expect("a port that is taken", `late PortUnavailable: Gateway default/late: spec.listeners[0].port: TCP port 80 of the nodes belongs to listener "p80" of Gateway default/g, which has precedence (oldest, then by name); choose another port`)

	static := requesting("192.0.2.1")
	static.Name, static.Spec.Listeners[0].Port = "static", 83
	b.put(static)
	b.step()
	b.prove("a")
	expect("an address that nobody has", `static AddressNotUsable: spec.addresses[0]: "192.0.2.1" is not an address this Gateway can have; use another one or remove the entry: the nodes with an agent have 10.0.0.1`)
	b.put(testNode("a", false, "10.0.0.1"))
	expect("no node", "g NoResources: no ready node runs an agent; deploy portway-agent", "late NoResources: no ready node runs an agent; deploy portway-agent")
	b.put(testNode("a", true, "10.0.0.1"))
	expect("back")
}

// TestEventsDoNotPileUp: each that waits costs memory, and nobody reads thousands.
func TestEventsDoNotPileUp(t *testing.T) {
	b := newTestbench(t)
	g := testGateway("g", 80)
	const offered = eventBacklog + 1000
	for range offered {
		b.writer.emit(g, []event{{reasonNodeLagging, actionProgram, "n"}})
	}
	// A few more while the loop ran, at ten per second.
	if n := len(b.events.take()); n < eventBacklog || n > eventBacklog+500 {
		t.Errorf("%d of %d Events were sent on, want about %d", n, offered, eventBacklog)
	}
}

// TestNoEventOfWhatPasses: a Gateway that waits for us is nothing to tell; that none is left
// is, also of one that has waited.
func TestNoEventOfWhatPasses(t *testing.T) {
	of := func(message string) *metav1.Condition {
		return &metav1.Condition{Type: programmed, Status: metav1.ConditionFalse, Reason: string(gatewayv1.GatewayReasonAddressNotAssigned), Message: message}
	}
	waits, full := of("no IPv4 address could be assigned: "+waitingForLeader), of("no IPv4 address could be assigned: none is left")
	for _, test := range []struct {
		name          string
		before, after *metav1.Condition
		told          bool
	}{
		{"waits", nil, waits, false},
		{"is full", nil, full, true},
		{"waited, is full", waits, full, true},
		{"is full still", full, full, false},
	} {
		if e, told := programmedEvent(test.before, test.after); told != test.told {
			t.Errorf("%s: told %t: %+v", test.name, told, e)
		}
	}
}

// TestEventsOfAnnouncers: that a new Gateway is announced is nothing to tell; that one is
// again, after nobody did for a moment, is.
func TestEventsOfAnnouncers(t *testing.T) {
	of := func(age time.Duration, status metav1.ConditionStatus, reason string) []metav1.Condition {
		then := func(ago time.Duration) metav1.Time { return metav1.NewTime(epoch.Add(-ago)) }
		return []metav1.Condition{
			{Type: string(gatewayv1.GatewayConditionAccepted), Status: metav1.ConditionTrue, LastTransitionTime: then(time.Hour)},
			{Type: topology.ConditionAnnounced, Status: status, Reason: reason, Message: reason, LastTransitionTime: then(age)},
		}
	}
	announced := of(0, metav1.ConditionTrue, topology.ReasonAnnounced)
	for _, test := range []struct {
		name   string
		before []metav1.Condition
		told   int
	}{
		{"new, and nobody yet", nil, 0},
		{"new, and now somebody", of(time.Hour, metav1.ConditionFalse, topology.ReasonNotAnnounced), 0},
		{"again", of(time.Minute, metav1.ConditionFalse, topology.ReasonNotAnnounced), 1},
		{"by somebody who is heard of", of(time.Minute, metav1.ConditionUnknown, topology.ReasonAnnouncerUnheard), 1},
		{"as before", announced, 0},
	} {
		if got := announcerEvents(test.before, announced); len(got) != test.told {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}
