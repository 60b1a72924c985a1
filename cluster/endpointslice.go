package cluster

import (
	"fmt"
	"slices"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// sliceIndex holds EndpointSlices by the Service they belong to.
type sliceIndex struct {
	byService map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	owner     map[types.NamespacedName]types.NamespacedName // slice → Service
	dirty     map[types.NamespacedName]bool                 // Services
}

func newSliceIndex() sliceIndex {
	return sliceIndex{
		byService: map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		owner:     map[types.NamespacedName]types.NamespacedName{},
		dirty:     map[types.NamespacedName]bool{},
	}
}

func (x *sliceIndex) set(slice *discoveryv1.EndpointSlice) (changed bool, err error) {
	key := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
	name := slice.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		// A slice that lost its label serves nobody any more.
		changed = x.remove(key)
		return changed, fmt.Errorf("EndpointSlice %s belongs to no Service: add the label %s with the Service's name",
			key, discoveryv1.LabelServiceName)
	}
	service := types.NamespacedName{Namespace: slice.Namespace, Name: name}
	if owner, ok := x.owner[key]; ok && owner != service {
		x.remove(key)
	}
	of := x.byService[service]
	if old := of[slice.Name]; old != nil && sameObject[discoveryv1.EndpointSlice](old, slice) {
		return false, nil
	}
	if of == nil {
		of = map[string]*discoveryv1.EndpointSlice{}
		x.byService[service] = of
	}
	of[slice.Name] = slice
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
	delete(x.byService[service], key.Name)
	if len(x.byService[service]) == 0 {
		delete(x.byService, service)
	}
	x.dirty[service] = true
	return true
}

func (x *sliceIndex) next() map[types.NamespacedName][]*discoveryv1.EndpointSlice {
	lists := make(map[types.NamespacedName][]*discoveryv1.EndpointSlice, len(x.dirty))
	for service := range x.dirty {
		list := make([]*discoveryv1.EndpointSlice, 0, len(x.byService[service]))
		for _, slice := range x.byService[service] {
			list = append(list, slice)
		}
		slices.SortFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
		lists[service] = list
	}
	clear(x.dirty)
	return lists
}
