package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listenerSetConflicts: several have the same port at one Gateway. The Gateway itself
// wins, then the oldest set, then the first by namespace and name; the winner's routes
// have the traffic, and when it goes the other one takes over.
func listenerSetConflicts(t *testing.T, c *Cluster) { //nolint:thelper // a case of TestCluster
	const own, elsewhere, byAge, byName = 7040, 7043, 7041, 7042
	s, other := c.space(t, "sets"), c.space(t, "other-sets")
	gw := func(port int) string {
		return strings.Replace(gateway("gw", port), "listeners:", "allowedListeners: {namespaces: {from: All}}\n  listeners:", 1)
	}
	s.apply(t, backend("gateway", 1), backend("one", 1), backend("two", 1), gw(own), route("TCPRoute", "r", "gw", "gateway"))
	other.apply(t, backend("other", 1))
	addr := addresses(t, s.programmed(t, "gw"))[0]
	serves := func(port int, backend string) {
		t.Helper()
		c.reach(t, "tcp", join(addr, port), backend)
	}

	s.apply(t, listenerSet("of-the-gateways-port", own), setRoute("of-the-gateways-port", "one"))
	s.loses(t, "of-the-gateways-port")
	serves(own, "gateway")
	s.apply(t, gw(elsewhere))
	s.wins(t, "of-the-gateways-port")
	serves(own, "one")
	serves(elsewhere, "gateway")
	s.apply(t, gw(own)) // the set was there first, and yet
	s.loses(t, "of-the-gateways-port")
	serves(own, "gateway")

	s.apply(t, listenerSet("z-older", byAge), setRoute("z-older", "one"))
	s.wins(t, "z-older")
	time.Sleep(1100 * time.Millisecond) // creation times have seconds: the next one is younger
	s.apply(t, listenerSet("a-younger", byAge), setRoute("a-younger", "two"))
	s.loses(t, "a-younger")
	s.wins(t, "z-older")
	serves(byAge, "one")
	s.kubectl(t, "delete", "listenerset", "z-older")
	s.wins(t, "a-younger")
	serves(byAge, "two")

	s.atOnce(t, other, byName)
	s.apply(t, setRoute("a", "one"))
	other.apply(t, setRoute("z", "other"))
	other.wins(t, "z")
	s.loses(t, "a")
	serves(byName, "other")
	other.kubectl(t, "delete", "listenerset", "z")
	s.wins(t, "a")
	serves(byName, "one")
}

// atOnce makes the ListenerSets sets/a and other-sets/z, in this order and in the same
// second, which is all that creation times tell.
func (s *space) atOnce(t *testing.T, other *space, port int) {
	t.Helper()
	eventually(t, settle, func() error {
		s.apply(t, listenerSet("a", port))
		other.apply(t, listenerSet("z", port))
		if a, z := s.listenerSet(t, "a"), other.listenerSet(t, "z"); !a.CreationTimestamp.Equal(&z.CreationTimestamp) {
			s.kubectl(t, "delete", "listenerset", "a")
			other.kubectl(t, "delete", "listenerset", "z")
			return fmt.Errorf("made at %s and %s", a.CreationTimestamp, z.CreationTimestamp)
		}
		return nil
	})
}

func (s *space) listenerSet(t *testing.T, name string) *gatewayv1.ListenerSet {
	t.Helper()
	set, err := s.Gateway.GatewayV1().ListenerSets(s.name).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// wins waits until the one listener of a set is without conflict.
func (s *space) wins(t *testing.T, name string) {
	t.Helper()
	s.entry(t, name, metav1.ConditionTrue, "")
}

// loses waits until it has one, which all of its conditions say.
func (s *space) loses(t *testing.T, name string) {
	t.Helper()
	s.entry(t, name, metav1.ConditionFalse, gatewayv1.ListenerEntryReasonProtocolConflict)
}

func (s *space) entry(t *testing.T, name string, status metav1.ConditionStatus, reason gatewayv1.ListenerEntryConditionReason) {
	t.Helper()
	eventually(t, settle, func() error {
		set := s.listenerSet(t, name)
		if len(set.Status.Listeners) != 1 {
			return fmt.Errorf("ListenerSet %s has %d listeners in its status", name, len(set.Status.Listeners))
		}
		conditions := set.Status.Listeners[0].Conditions
		for _, condition := range []gatewayv1.ListenerEntryConditionType{gatewayv1.ListenerEntryConditionAccepted, gatewayv1.ListenerEntryConditionProgrammed} {
			if err := current(conditions, set.Generation, string(condition), status, string(reason)); err != nil {
				return err
			}
		}
		const conflicted = string(gatewayv1.ListenerEntryConditionConflicted)
		if status == metav1.ConditionFalse {
			return current(conditions, set.Generation, conflicted, metav1.ConditionTrue, string(reason))
		}
		if meta.IsStatusConditionTrue(conditions, conflicted) {
			return fmt.Errorf("ListenerSet %s is served and conflicted: %+v", name, conditions)
		}
		return nil
	})
}

// listenerSet has one TCP listener at Gateway sets/gw.
func listenerSet(name string, port int) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: %s}
spec:
  parentRef: {name: gw, namespace: sets}
  listeners: [{name: tcp, protocol: TCP, port: %d}]
`, name, port)
}

// setRoute is a TCPRoute from the ListenerSet of its name.
func setRoute(name, backend string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: %s}
spec:
  parentRefs: [{kind: ListenerSet, group: gateway.networking.k8s.io, name: %[1]s}]
  rules: [{backendRefs: [{name: %s, port: %d}]}]
`, name, backend, echoPort)
}
