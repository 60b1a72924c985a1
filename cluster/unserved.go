package cluster

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/topology"
)

// Unserved returns, in order, one line per object that nobody serves because
// something it names does not exist. The API gives such objects no status, so
// without this a typing mistake in a name would look like success. Objects of
// other controllers are not ours to speak about.
func Unserved(s *topology.Snapshot) []string {
	var lines []string
	for key, gateway := range s.Gateways {
		if class := string(gateway.Spec.GatewayClassName); s.GatewayClasses[class] == nil {
			lines = append(lines, fmt.Sprintf("Gateway %s is not served: GatewayClass %q does not exist; add it, with controllerName %s",
				key, class, topology.ControllerName))
		}
	}
	for key, set := range s.ListenerSets {
		ref := set.Spec.ParentRef
		parent := gatewayv1.ParentReference{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
		if missing := missingParent(s, key.Namespace, parent); missing != "" {
			lines = append(lines, fmt.Sprintf("ListenerSet %s is not served: %s does not exist; add it or correct spec.parentRef", key, missing))
		}
	}
	for key, route := range s.TCPRoutes {
		lines = append(lines, orphan(s, "TCPRoute", key, route.Spec.ParentRefs)...)
	}
	for key, route := range s.UDPRoutes {
		lines = append(lines, orphan(s, "UDPRoute", key, route.Spec.ParentRefs)...)
	}
	slices.Sort(lines)
	return lines
}

func orphan(s *topology.Snapshot, kind string, key types.NamespacedName, refs []gatewayv1.ParentReference) []string {
	if len(refs) == 0 {
		return []string{fmt.Sprintf("%s %s is not served: it names no Gateway; add spec.parentRefs", kind, key)}
	}
	var lines []string
	for i, ref := range refs {
		if missing := missingParent(s, key.Namespace, ref); missing != "" {
			lines = append(lines, fmt.Sprintf("%s %s is not served by spec.parentRefs[%d]: %s does not exist; add it or correct the name",
				kind, key, i, missing))
		}
	}
	return lines
}

// missingParent names the parent that does not exist; empty when it does or is
// of a kind we do not read.
func missingParent(s *topology.Snapshot, home string, ref gatewayv1.ParentReference) string {
	key := types.NamespacedName{
		Namespace: string(ptr.Deref(ref.Namespace, gatewayv1.Namespace(home))),
		Name:      string(ref.Name),
	}
	if ptr.Deref(ref.Group, gatewayGroup) != gatewayGroup {
		return ""
	}
	switch kind := ptr.Deref(ref.Kind, "Gateway"); kind {
	case "Gateway":
		if s.Gateways[key] == nil {
			return "Gateway " + key.String()
		}
	case "ListenerSet":
		if s.ListenerSets[key] == nil {
			return "ListenerSet " + key.String()
		}
	}
	return ""
}
