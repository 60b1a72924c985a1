package cluster

import (
	"fmt"
	"strings"
	"sync"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// Update is what changed in a Store since the previous one was taken.
type Update struct {
	// Snapshot is nil when nothing but EndpointSlices and the Fleet changed. The first
	// Update of a Store always has one. Addresses are left to the caller, see Assign
	// and Assigned.
	Snapshot *topology.Snapshot
	// StatusOnly: since the last Snapshot nothing changed but statuses, of which only
	// the addresses of Gateways are an input of any decision. What an AddressPool's
	// status says of addresses counts as a spec.
	StatusOnly bool
	// Slices holds, per Service whose EndpointSlices changed, its complete list
	// sorted by name; an empty list means that none is left.
	Slices map[types.NamespacedName][]*topology.EndpointSlice
	// Fleet is nil unless Nodes, NodeReports or Leases of agents changed.
	Fleet *Fleet
	// Partial: some objects could not be read since the process started, so that
	// the absence of an object proves nothing.
	Partial bool
}

// Store holds the API objects a node works from. Whoever feeds it hands the
// objects over: they must not be mutated afterwards. Safe for concurrent use.
type Store struct {
	changed chan struct{}

	mu         sync.Mutex // guards everything below
	classes    table[string, gatewayv1.GatewayClass, *gatewayv1.GatewayClass]
	gateways   table[types.NamespacedName, gatewayv1.Gateway, *gatewayv1.Gateway]
	sets       table[types.NamespacedName, gatewayv1.ListenerSet, *gatewayv1.ListenerSet]
	tcpRoutes  table[types.NamespacedName, gatewayv1.TCPRoute, *gatewayv1.TCPRoute]
	udpRoutes  table[types.NamespacedName, gatewayv1.UDPRoute, *gatewayv1.UDPRoute]
	grants     table[types.NamespacedName, gatewayv1.ReferenceGrant, *gatewayv1.ReferenceGrant]
	namespaces table[string, corev1.Namespace, *corev1.Namespace]
	services   table[types.NamespacedName, corev1.Service, *corev1.Service]
	pools      table[string, v1alpha1.AddressPool, *v1alpha1.AddressPool]
	parameters table[types.NamespacedName, v1alpha1.GatewayParameters, *v1alpha1.GatewayParameters]
	// crds are nil unless somebody looks at CustomResourceDefinitions.
	crds   table[string, metav1.PartialObjectMetadata, *metav1.PartialObjectMetadata]
	slices sliceIndex
	fleet  fleet
	// stale: the next Update needs a Snapshot.
	stale   bool
	decides bool // not for statuses only
	partial bool
}

// NewStore returns an empty Store.
func NewStore() *Store {
	return &Store{changed: make(chan struct{}, 1), slices: newSliceIndex(), stale: true, decides: true}
}

// Changed signals that Next has something new; signals coalesce.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Put stores an object. An object equal to the stored one, but for
// resourceVersion and managedFields, changes nothing.
func (s *Store) Put(object Object) error { return s.Apply([]Object{object}, nil) }

// Delete removes an object; only its type, namespace and name matter.
func (s *Store) Delete(object Object) error { return s.Apply(nil, []Object{object}) }

// Apply removes and then stores objects as one change: no Update shows half of
// it. The error names the objects that were refused; the others are applied.
func (s *Store) Apply(put, remove []Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []string
	changed := false
	for _, object := range remove {
		one, err := s.remove(object)
		changed = changed || one
		if err != nil {
			failed = append(failed, err.Error())
		}
	}
	for _, object := range put {
		one, err := s.put(object)
		changed = changed || one
		if err != nil {
			failed = append(failed, err.Error())
		}
	}
	if changed {
		s.signal()
	}
	if len(failed) > 0 {
		return fmt.Errorf("store objects: %s", strings.Join(failed, "; "))
	}
	return nil
}

// SetPartial says whether some objects could not be read; see Update.Partial.
func (s *Store) SetPartial(partial bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partial != partial {
		s.partial = partial
		s.signal()
	}
}

// reconsider makes the next Update one to decide upon: objects that are read in another
// version may differ in what was defaulted, at the same generation.
func (s *Store) reconsider() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale, s.decides = true, true
	s.signal()
}

// signal makes Changed ready.
func (s *Store) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Next returns what changed since the previous call.
func (s *Store) Next() Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.changed: // told by what is returned now
	default:
	}
	update := Update{Slices: s.slices.next(), Fleet: s.fleet.next(), Partial: s.partial}
	if s.stale {
		update.StatusOnly = !s.decides
		s.stale, s.decides = false, false
		update.Snapshot = &topology.Snapshot{
			GatewayClasses:  s.classes.share(),
			Gateways:        s.gateways.share(),
			ListenerSets:    s.sets.share(),
			TCPRoutes:       s.tcpRoutes.share(),
			UDPRoutes:       s.udpRoutes.share(),
			ReferenceGrants: s.grants.share(),
			Namespaces:      s.namespaces.share(),
			Services:        s.services.share(),
			CRDVersions:     bundleVersions(s.crds.objects),

			AddressPools:      s.pools.share(),
			GatewayParameters: s.parameters.share(),
		}
	}
	return update
}

func (s *Store) put(object Object) (changed bool, err error) {
	decides := false
	key := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
	switch o := object.(type) {
	case *gatewayv1.GatewayClass:
		changed, decides = s.classes.set(key.Name, o)
	case *gatewayv1.Gateway:
		changed, decides = s.gateways.set(key, o)
	case *gatewayv1.ListenerSet:
		changed, decides = s.sets.set(key, o)
	case *gatewayv1.TCPRoute:
		changed, decides = s.tcpRoutes.set(key, o)
	case *gatewayv1.UDPRoute:
		changed, decides = s.udpRoutes.set(key, o)
	case *gatewayv1.ReferenceGrant:
		changed, decides = s.grants.set(key, o)
	case *corev1.Namespace:
		changed, decides = s.namespaces.set(key.Name, o)
	case *corev1.Service:
		changed, _ = s.services.set(key, o)
		decides = changed // of a status is kept what decides
	case *plainService:
		changed, _ = s.services.set(key, o.content)
		decides = changed
	case *v1alpha1.AddressPool:
		old := s.pools.objects[key.Name]
		changed, decides = s.pools.set(key.Name, o)
		decides = decides || changed && !sameHeld(old, o)
	case *v1alpha1.GatewayParameters:
		changed, decides = s.parameters.set(key, o)
	case *discoveryv1.EndpointSlice:
		return s.slices.set(newEndpointSlice(o))
	case *endpointSlice:
		return s.slices.set(o)
	case *metav1.PartialObjectMetadata:
		if isGatewayCRD(o) {
			changed, decides = s.crds.set(key.Name, o)
		}
	case *corev1.Node, *v1alpha1.NodeReport, *coordinationv1.Lease:
		return s.fleet.put(object), nil
	default:
		return false, fmt.Errorf("%T %s is not a kind this store holds", object, key)
	}
	s.stale, s.decides = s.stale || changed, s.decides || decides
	return changed, nil
}

func (s *Store) remove(object Object) (changed bool, err error) {
	key := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
	switch o := object.(type) {
	case *gatewayv1.GatewayClass:
		changed = s.classes.remove(key.Name)
	case *gatewayv1.Gateway:
		changed = s.gateways.remove(key)
	case *gatewayv1.ListenerSet:
		changed = s.sets.remove(key)
	case *gatewayv1.TCPRoute:
		changed = s.tcpRoutes.remove(key)
	case *gatewayv1.UDPRoute:
		changed = s.udpRoutes.remove(key)
	case *gatewayv1.ReferenceGrant:
		changed = s.grants.remove(key)
	case *corev1.Namespace:
		changed = s.namespaces.remove(key.Name)
	case *corev1.Service, *plainService:
		changed = s.services.remove(key)
	case *v1alpha1.AddressPool:
		changed = s.pools.remove(key.Name)
	case *v1alpha1.GatewayParameters:
		changed = s.parameters.remove(key)
	case *discoveryv1.EndpointSlice, *endpointSlice:
		return s.slices.remove(key), nil
	case *metav1.PartialObjectMetadata:
		changed = isGatewayCRD(o) && s.crds.remove(key.Name)
	case *corev1.Node, *v1alpha1.NodeReport, *coordinationv1.Lease:
		return s.fleet.remove(object), nil
	default:
		return false, fmt.Errorf("%T %s is not a kind this store holds", object, key)
	}
	s.stale, s.decides = s.stale || changed, s.decides || changed
	return changed, nil
}
