package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// StatusObjects returns the objects of ours as the API would carry them after
// their statuses were written: GatewayClasses, AddressPools, Gateways, ListenerSets and
// routes, each kind sorted by namespace and name. They share metadata and spec with
// the Snapshot.
func StatusObjects(s *topology.Snapshot, statuses topology.Statuses) []Object {
	var objects []Object
	for name, status := range statuses.GatewayClasses {
		if source := s.GatewayClasses[name]; source != nil {
			objects = append(objects, &gatewayv1.GatewayClass{TypeMeta: source.TypeMeta, ObjectMeta: source.ObjectMeta, Spec: source.Spec, Status: status})
		}
	}
	for name, status := range statuses.AddressPools {
		if source := s.AddressPools[name]; source != nil {
			objects = append(objects, &v1alpha1.AddressPool{TypeMeta: source.TypeMeta, ObjectMeta: source.ObjectMeta, Spec: source.Spec, Status: status})
		}
	}
	for key, status := range statuses.Gateways {
		if source := s.Gateways[key]; source != nil {
			objects = append(objects, &gatewayv1.Gateway{TypeMeta: source.TypeMeta, ObjectMeta: source.ObjectMeta, Spec: source.Spec, Status: status})
		}
	}
	for key, status := range statuses.ListenerSets {
		if source := s.ListenerSets[key]; source != nil {
			objects = append(objects, &gatewayv1.ListenerSet{TypeMeta: source.TypeMeta, ObjectMeta: source.ObjectMeta, Spec: source.Spec, Status: status})
		}
	}
	for key, status := range statuses.Routes {
		if object := routeWithStatus(s, key, status); object != nil {
			objects = append(objects, object)
		}
	}
	for _, object := range objects {
		completeType(object)
	}
	slices.SortFunc(objects, compareObjects)
	return objects
}

func routeWithStatus(s *topology.Snapshot, key topology.RouteKey, status gatewayv1.RouteStatus) Object {
	switch key.Kind {
	case "TCPRoute":
		if source := s.TCPRoutes[key.NamespacedName]; source != nil {
			return &gatewayv1.TCPRoute{TypeMeta: source.TypeMeta, ObjectMeta: source.ObjectMeta, Spec: source.Spec, Status: gatewayv1.TCPRouteStatus{RouteStatus: status}}
		}
	case "UDPRoute":
		if source := s.UDPRoutes[key.NamespacedName]; source != nil {
			return &gatewayv1.UDPRoute{TypeMeta: source.TypeMeta, ObjectMeta: source.ObjectMeta, Spec: source.Spec, Status: gatewayv1.UDPRouteStatus{RouteStatus: status}}
		}
	}
	return nil
}

// completeType sets apiVersion and kind where an object came without, as those
// from informers do. A version written in a file stays.
func completeType(object Object) {
	kind := object.GetObjectKind()
	if kind.GroupVersionKind().Kind == "" {
		name := kindOf(object)
		kind.SetGroupVersionKind(schema.FromAPIVersionAndKind(kinds[name].versions[0], name))
	}
}

var statusOrder = map[string]int{"GatewayClass": 0, "AddressPool": 1, "Gateway": 2, "ListenerSet": 3, "TCPRoute": 4, "UDPRoute": 5}

func compareObjects(a, b Object) int {
	return cmp.Or(
		cmp.Compare(statusOrder[kindOf(a)], statusOrder[kindOf(b)]),
		cmp.Compare(a.GetNamespace(), b.GetNamespace()),
		cmp.Compare(a.GetName(), b.GetName()),
	)
}

// statusDocument is an object without its spec.
type statusDocument struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   statusMetadata `json:"metadata"`
	Status     any            `json:"status"`
}

// statusMetadata is what identifies the object a status belongs to.
type statusMetadata struct {
	Name              string    `json:"name"`
	Namespace         string    `json:"namespace,omitempty"`
	UID               types.UID `json:"uid,omitempty"`
	Generation        int64     `json:"generation"`
	CreationTimestamp any       `json:"creationTimestamp,omitempty"`
}

// StatusYAML formats objects as YAML documents of apiVersion, kind, metadata and
// status. A condition without a lastTransitionTime is written without one.
func StatusYAML(objects []Object) ([]byte, error) {
	var out bytes.Buffer
	for i, object := range objects {
		if i > 0 {
			out.WriteString("---\n")
		}
		text, err := statusYAML(object)
		if err != nil {
			return nil, fmt.Errorf("format status of %s: %w", keyOf(object), err)
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}

func statusYAML(object Object) ([]byte, error) {
	apiVersion, kind := object.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	document := statusDocument{
		APIVersion: apiVersion, Kind: kind,
		Metadata: statusMetadata{
			Name: object.GetName(), Namespace: object.GetNamespace(),
			UID: object.GetUID(), Generation: object.GetGeneration(),
		},
	}
	if created := object.GetCreationTimestamp(); !created.IsZero() {
		document.Metadata.CreationTimestamp = created
	}
	var err error
	if document.Status, err = statusTree(object); err != nil {
		return nil, err
	}
	return yaml.Marshal(document)
}

// statusTree returns the object's status as encoding/json trees, without the
// nulls of conditions that have no time.
func statusTree(object Object) (any, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var tree struct {
		Status map[string]any `json:"status"`
	}
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	dropNulls(tree.Status)
	return tree.Status, nil
}

func dropNulls(tree any) {
	switch node := tree.(type) {
	case map[string]any:
		for key, value := range node {
			if value == nil {
				delete(node, key)
				continue
			}
			dropNulls(value)
		}
	case []any:
		for _, value := range node {
			dropNulls(value)
		}
	}
}
