package cluster

import (
	"fmt"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portway-dev/portway/topology"
)

// endpointSlice is an EndpointSlice as small as what is made of it. Immutable.
type endpointSlice struct {
	named
	service string
	content *topology.EndpointSlice
}

func newEndpointSlice(s *discoveryv1.EndpointSlice) *endpointSlice {
	return &endpointSlice{nameOnly(s), s.Labels[discoveryv1.LabelServiceName], topology.NewEndpointSlice(s)}
}

// DeepCopyObject returns a copy that has the content in common.
func (s *endpointSlice) DeepCopyObject() runtime.Object {
	c := *s
	return &c
}

// sliceIndex holds EndpointSlices by the Service they belong to.
type sliceIndex struct {
	byService map[types.NamespacedName][]*endpointSlice     // sorted by name
	owner     map[types.NamespacedName]types.NamespacedName // slice → Service
	dirty     map[types.NamespacedName]bool                 // Services
}

func newSliceIndex() sliceIndex {
	return sliceIndex{
		byService: map[types.NamespacedName][]*endpointSlice{},
		owner:     map[types.NamespacedName]types.NamespacedName{},
		dirty:     map[types.NamespacedName]bool{},
	}
}

// find returns where among those of a Service a slice is or would be.
func (x *sliceIndex) find(service types.NamespacedName, name string) (int, bool) {
	return slices.BinarySearchFunc(x.byService[service], name, func(s *endpointSlice, name string) int { return strings.Compare(s.name, name) })
}

func (x *sliceIndex) set(slice *endpointSlice) (changed bool, err error) {
	key := types.NamespacedName{Namespace: slice.namespace, Name: slice.name}
	if slice.service == "" {
		// A slice that lost its label serves nobody any more.
		changed = x.remove(key)
		return changed, fmt.Errorf("EndpointSlice %s belongs to no Service: add the label %s with the Service's name",
			key, discoveryv1.LabelServiceName)
	}
	service := types.NamespacedName{Namespace: slice.namespace, Name: slice.service}
	if owner, ok := x.owner[key]; ok && owner != service {
		x.remove(key)
	}
	of := x.byService[service]
	switch i, known := x.find(service, slice.name); {
	case !known:
		x.byService[service] = slices.Insert(of, i, slice)
	case of[i].content.Equal(slice.content):
		return false, nil
	default:
		of[i] = slice
	}
	x.owner[key] = service
	x.dirty[service] = true
	return true, nil
}

func (x *sliceIndex) remove(key types.NamespacedName) bool {
	service, ok := x.owner[key]
	if !ok {
		return false
	}
	delete(x.owner, key)
	if i, known := x.find(service, key.Name); known {
		x.byService[service] = slices.Delete(x.byService[service], i, i+1)
	}
	if len(x.byService[service]) == 0 {
		delete(x.byService, service)
	}
	x.dirty[service] = true
	return true
}

func (x *sliceIndex) next() map[types.NamespacedName][]*topology.EndpointSlice {
	lists := make(map[types.NamespacedName][]*topology.EndpointSlice, len(x.dirty))
	for service := range x.dirty {
		list := make([]*topology.EndpointSlice, 0, len(x.byService[service]))
		for _, slice := range x.byService[service] {
			list = append(list, slice.content)
		}
		lists[service] = list
	}
	x.dirty = map[types.NamespacedName]bool{} // a cleared one stays as large as it once was
	return lists
}
