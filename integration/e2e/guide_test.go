package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// TestGuide applies the manifest of the Gateway API's TCP guide as it is, with routes
// of v1alpha2: where v1 is served beside it, and where it is all there is. Both ports
// answer on every address of every node, and every status says so.
func TestGuide(t *testing.T) {
	for _, crds := range []string{lab.CRDsExperimental, lab.CRDsV1Alpha2} {
		t.Run(crds, func(t *testing.T) {
			c := start(t, crds)
			if err := c.Deploy(t.Context(), true); err != nil {
				t.Fatal(err)
			}
			guide(t, c)
		})
	}
}

func guide(t *testing.T, c *Cluster) {
	t.Helper()
	guideServed(t, guideObjects(t, c))
}

// guideObjects applies the guide's example; its pods are ready.
func guideObjects(t *testing.T, c *Cluster) *space {
	t.Helper()
	manifest, err := os.ReadFile(filepath.Join(c.root, "examples", "tcp-routing.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return guideObjectsOf(t, c, string(manifest), strings.Replace(class, ClassName, "my-tcp-gateway-class", 1))
}

// guideObjectsToday does so as docs/install.md does: with TCPRoutes of today's version, and the
// class is there.
func guideObjectsToday(t *testing.T, c *Cluster) *space {
	t.Helper()
	manifest, err := os.ReadFile(filepath.Join(c.root, "examples", "tcp-routing.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return guideObjectsOf(t, c, strings.ReplaceAll(string(manifest), "v1alpha2", "v1"))
}

func guideObjectsOf(t *testing.T, c *Cluster, manifests ...string) *space {
	t.Helper()
	s := c.space(t, "guide")
	s.apply(t, append(manifests,
		strings.ReplaceAll(backend("foo", 2), "Service\nmetadata: {name: foo", "Service\nmetadata: {name: my-foo-service"),
		strings.ReplaceAll(backend("bar", 2), "Service\nmetadata: {name: bar", "Service\nmetadata: {name: my-bar-service"))...)
	s.ready(t, "foo", 2)
	s.ready(t, "bar", 2)
	return s
}

// guideServed waits until all that the guide promises is so.
func guideServed(t *testing.T, s *space) {
	t.Helper()
	// A node counts from what its agent first proves, a moment after it is ready.
	took := eventually(t, settle, func() error {
		got, want := sorted(addresses(t, s.programmed(t, "my-tcp-gateway"))), sorted(everyNode(s.Cluster))
		if !slices.Equal(got, want) {
			return fmt.Errorf("the Gateway has addresses %v, not those of all nodes, %v", got, want)
		}
		return nil
	})
	t.Logf("all nodes serve it after %s", took.Round(time.Millisecond))
	eventually(t, settle, func() error { return allTrue(t, s) })
	for _, addr := range everyNode(s.Cluster) {
		s.reach(t, "tcp", join(addr, 8080), "foo")
		s.reach(t, "tcp", join(addr, 8090), "bar")
	}
}

// allTrue returns an error unless all conditions of the guide's objects are True.
func allTrue(t *testing.T, s *space) error {
	t.Helper()
	gc, err := s.Gateway.GatewayV1().GatewayClasses().Get(t.Context(), "my-tcp-gateway-class", metav1.GetOptions{})
	if err != nil {
		return err
	}
	gw, err := s.Gateway.GatewayV1().Gateways(s.name).Get(t.Context(), "my-tcp-gateway", metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions := map[string][]metav1.Condition{"GatewayClass": gc.Status.Conditions, "Gateway": gw.Status.Conditions}
	wanted := map[string][]string{
		"GatewayClass": {string(gatewayv1.GatewayClassConditionStatusAccepted), string(gatewayv1.GatewayClassConditionStatusSupportedVersion)},
		"Gateway":      {string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayConditionProgrammed)},
	}
	for _, l := range gw.Status.Listeners {
		name := "listener " + string(l.Name)
		conditions[name] = l.Conditions
		wanted[name] = []string{string(gatewayv1.ListenerConditionAccepted), string(gatewayv1.ListenerConditionResolvedRefs), string(gatewayv1.ListenerConditionProgrammed)}
		if l.AttachedRoutes != 1 {
			return fmt.Errorf("listener %s has %d routes", l.Name, l.AttachedRoutes)
		}
	}
	routes, err := s.guideRoutes(t)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if len(r.Status.Parents) != 1 {
			return fmt.Errorf("TCPRoute %s has %d parents", r.Name, len(r.Status.Parents))
		}
		conditions[r.Name] = r.Status.Parents[0].Conditions
		wanted[r.Name] = []string{string(gatewayv1.RouteConditionAccepted), string(gatewayv1.RouteConditionResolvedRefs)}
	}
	if len(wanted) != 6 {
		return fmt.Errorf("%d objects have statuses, not 6", len(wanted))
	}
	for name, list := range wanted {
		for _, condition := range list {
			if !meta.IsStatusConditionTrue(conditions[name], condition) {
				return fmt.Errorf("%s: %s is not True: %+v", name, condition, conditions[name])
			}
		}
	}
	return nil
}

// guideRoutes are the TCPRoutes as v1alpha2, where that is served, otherwise as v1.
func (s *space) guideRoutes(t *testing.T) ([]gatewayv1.TCPRoute, error) {
	t.Helper()
	old, err := s.Gateway.GatewayV1alpha2().TCPRoutes(s.name).List(t.Context(), metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		list, err := s.Gateway.GatewayV1().TCPRoutes(s.name).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}
	if err != nil {
		return nil, err
	}
	routes := make([]gatewayv1.TCPRoute, len(old.Items))
	for i := range old.Items {
		routes[i] = gatewayv1.TCPRoute{ObjectMeta: old.Items[i].ObjectMeta, Status: gatewayv1.TCPRouteStatus{RouteStatus: old.Items[i].Status.RouteStatus}}
	}
	return routes, nil
}
