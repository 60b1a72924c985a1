package topology

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reasons are all conditions this package may set: the object, then type, status
// and reason. An object with "entry" is a listener of a ListenerSet.
const reasons = `
class    Accepted True Accepted
class    Accepted False InvalidParameters
class    SupportedVersion True SupportedVersion
class    SupportedVersion False UnsupportedVersion
gateway  Accepted True Accepted
gateway  Accepted True ListenersNotValid
gateway  Accepted False ListenersNotValid
gateway  Accepted False UnsupportedAddress
gateway  Accepted False InvalidParameters
gateway  Accepted False Invalid
gateway  Programmed True Programmed
gateway  Programmed False AddressNotUsable
gateway  Programmed False AddressNotAssigned
gateway  Programmed False Pending
gateway  Programmed False NoResources
gateway  Programmed False Invalid
gateway  Programmed Unknown Pending
gateway  portway.dev/AddressMode True Pool
gateway  portway.dev/AddressMode True LoadBalancer
gateway  portway.dev/AddressRetained True OutsidePool
gateway  portway.dev/AddressRetained True PoolDeleting
gateway  portway.dev/AddressRetained True NotPermitted
gateway  portway.dev/AddressRetained True InvalidParameters
gateway  portway.dev/AddressRetained True ServiceImmutable
pool     Accepted True Accepted
pool     Accepted False Invalid
pool     Accepted False Overlapping
gateway  portway.dev/Impaired True PacketForwarding
gateway  portway.dev/Announced True Announced
gateway  portway.dev/Announced False NotAnnounced
gateway  portway.dev/Announced Unknown AnnouncerUnheard
gateway  portway.dev/Announced False AddressConflict
listener Accepted True Accepted
listener Accepted False UnsupportedProtocol
listener Accepted False PortUnavailable
listener Accepted False UnsupportedValue
listener Accepted False ProtocolConflict
listener Accepted False Invalid
listener Conflicted True ProtocolConflict
listener ResolvedRefs True ResolvedRefs
listener ResolvedRefs False InvalidRouteKinds
listener Programmed True Programmed
listener Programmed False Invalid
listener Programmed False Pending
listener Programmed False ProtocolConflict
listener Programmed Unknown Pending
listener portway.dev/PortContended True NodePort
listener portway.dev/PortContended True HostPort
set      Accepted True Accepted
set      Accepted True ListenersNotValid
set      Accepted False NotAllowed
set      Accepted False ParentNotAccepted
set      Accepted False ListenersNotValid
set      Accepted False Invalid
set      Programmed True Programmed
set      Programmed False NotAllowed
set      Programmed False ListenersNotValid
set      Programmed False Invalid
set      Programmed False ParentNotProgrammed
set      Programmed Unknown Pending
entry    Accepted True Accepted
entry    Accepted False UnsupportedProtocol
entry    Accepted False PortUnavailable
entry    Accepted False UnsupportedValue
entry    Accepted False ProtocolConflict
entry    Accepted False TooManyListeners
entry    Accepted False Invalid
entry    Conflicted True ProtocolConflict
entry    ResolvedRefs True ResolvedRefs
entry    ResolvedRefs False InvalidRouteKinds
entry    Programmed True Programmed
entry    Programmed False Invalid
entry    Programmed False Pending
entry    Programmed False PortUnavailable
entry    Programmed False ProtocolConflict
entry    Programmed Unknown Pending
entry    portway.dev/PortContended True NodePort
entry    portway.dev/PortContended True HostPort
route    Accepted True Accepted
route    Accepted False NoMatchingParent
route    Accepted False NotAllowedByListeners
route    Accepted False UnsupportedValue
route    ResolvedRefs True ResolvedRefs
route    ResolvedRefs False InvalidKind
route    ResolvedRefs False RefNotPermitted
route    ResolvedRefs False BackendNotFound
route    ResolvedRefs False UnsupportedProtocol
route    portway.dev/Superseded True OlderRouteWins
`

// TestEveryReasonHasAGolden: the table and what the goldens show are the same.
func TestEveryReasonHasAGolden(t *testing.T) {
	seen := map[string]bool{}
	note := func(object string, conditions []metav1.Condition) {
		for _, c := range conditions {
			seen[strings.Join([]string{object, c.Type, string(c.Status), c.Reason}, " ")] = true
		}
	}
	for _, name := range goldenNames(t) {
		snapshot, config := readManifest(t, readFile(t, name+".in.yaml"))
		graph := Build(snapshot, config.config())
		statuses := graph.Statuses(config.reports(graph))
		for _, class := range statuses.GatewayClasses {
			note("class", class.Conditions)
		}
		for _, pool := range statuses.AddressPools {
			note("pool", pool.Conditions)
		}
		for _, gateway := range statuses.Gateways {
			note("gateway", gateway.Conditions)
			for _, listener := range gateway.Listeners {
				note("listener", listener.Conditions)
			}
		}
		for _, set := range statuses.ListenerSets {
			note("set", set.Conditions)
			for _, listener := range set.Listeners {
				note("entry", listener.Conditions)
			}
		}
		for _, route := range statuses.Routes {
			for _, parent := range route.Parents {
				note("route", parent.Conditions)
			}
		}
	}
	for _, row := range strings.Split(strings.TrimSpace(reasons), "\n") {
		row = strings.Join(strings.Fields(row), " ")
		if !seen[row] {
			t.Errorf("no golden shows %s", row)
		}
		delete(seen, row)
	}
	for row := range seen {
		t.Errorf("not in the table: %s", row)
	}
}
