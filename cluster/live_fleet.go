package cluster

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// What agents and controller agree on about the Lease by which an agent shows
// that it is alive. spec.holderIdentity is the node's name.
const (
	// AgentLabel marks the Leases of agents; its value is "true".
	AgentLabel = "portway.dev/agent"
	// AgentLeasePrefix and the node's name make the name of its Lease.
	AgentLeasePrefix = "agent-"
)

// Fleet is the nodes and what their agents say, each by the node's name. Its maps
// and objects are never mutated.
type Fleet struct {
	Nodes   map[string]*corev1.Node
	Reports map[string]*v1alpha1.NodeReport
	Leases  map[string]*coordinationv1.Lease
}

// fleet is the part of a Store that decisions about traffic do not see: a renewed
// Lease must not lead to a new Graph.
type fleet struct {
	nodes   table[string, corev1.Node, *corev1.Node]
	reports table[string, v1alpha1.NodeReport, *v1alpha1.NodeReport]
	leases  table[string, coordinationv1.Lease, *coordinationv1.Lease]
	stale   bool
}

func (f *fleet) put(object Object) (changed bool) {
	switch o := object.(type) {
	case *corev1.Node:
		changed, _ = f.nodes.set(o.Name, o)
	case *v1alpha1.NodeReport:
		changed, _ = f.reports.set(o.Name, o)
	case *coordinationv1.Lease:
		changed, _ = f.leases.set(strings.TrimPrefix(o.Name, AgentLeasePrefix), o)
	}
	f.stale = f.stale || changed
	return changed
}

func (f *fleet) remove(object Object) (changed bool) {
	switch o := object.(type) {
	case *corev1.Node:
		changed = f.nodes.remove(o.Name)
	case *v1alpha1.NodeReport:
		changed = f.reports.remove(o.Name)
	case *coordinationv1.Lease:
		changed = f.leases.remove(strings.TrimPrefix(o.Name, AgentLeasePrefix))
	}
	f.stale = f.stale || changed
	return changed
}

func (f *fleet) next() *Fleet {
	if !f.stale {
		return nil
	}
	f.stale = false
	return &Fleet{Nodes: f.nodes.share(), Reports: f.reports.share(), Leases: f.leases.share()}
}

// lookAtCRDs makes Snapshots say which CRDs there are, even if there are none.
func (s *Store) lookAtCRDs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crds.own()
}

func isGatewayCRD(crd *metav1.PartialObjectMetadata) bool {
	return strings.HasSuffix(crd.Name, "."+gatewayGroup)
}

// isOwnCRD reports whether a CustomResourceDefinition is of a kind of this project.
func isOwnCRD(crd *metav1.PartialObjectMetadata) bool {
	return strings.HasSuffix(crd.Name, "."+v1alpha1.GroupVersion.Group)
}

// bundleVersions of the CRDs by their names; nil when nobody looked.
func bundleVersions(crds map[string]*metav1.PartialObjectMetadata) map[string]string {
	if crds == nil {
		return nil
	}
	versions := make(map[string]string, len(crds))
	for name, crd := range crds {
		versions[name] = crd.Annotations[consts.BundleVersionAnnotation]
	}
	return versions
}
