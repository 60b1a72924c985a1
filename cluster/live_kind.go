package cluster

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// liveKind is a kind of object that is watched.
type liveKind struct {
	name string
	// Every API server serves it (builtin), or it is a custom resource, in versions
	// that come and go.
	builtin  bool
	group    string
	resource string
	versions []liveVersion // the preferred one first

	active    *feed     // the one whose objects are in the Store
	candidate *feed     // the one that is to take its place once it has synced
	missing   time.Time // since when looks miss it; zero: the last one did not
	gone      bool      // missing for so long that it counts as one without objects
	told      string
}

// reading is the version that is read or about to be, empty for none.
func (k *liveKind) reading() string {
	switch {
	case k.candidate != nil:
		return k.candidate.version.name
	case k.active != nil:
		return k.active.version.name
	default:
		return ""
	}
}

// tell logs news about a custom kind once.
func (k *liveKind) tell(ctx context.Context, news string) {
	if k.builtin || k.told == news {
		return
	}
	k.told = news
	klog.FromContext(ctx).Info(news, "kind", k.name, "crd", k.resource+"."+k.group)
}

// liveVersion is how a version of a kind is read.
type liveVersion struct {
	name    string
	source  cache.ListWatch
	client  any // tells whether it can list by watching
	example runtime.Object
	trim    func(any) (any, error)
}

// versionOf makes a liveVersion; selector narrows what is read, empty for all.
func versionOf[P Object, L runtime.Object](name string, client Reader[L], selector string, example P, trim func(P) Object) liveVersion {
	return liveVersion{
		name:    name,
		client:  client,
		example: example,
		source: cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				options.LabelSelector = selector
				return client.List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
				options.LabelSelector = selector
				return client.Watch(ctx, options)
			},
		},
		// A reflector may hand over what it had trimmed while it listed; after a conversion that is of
		// another type.
		trim: func(object any) (any, error) {
			if o, ok := object.(P); ok {
				return trim(o), nil
			}
			return object, nil
		},
	}
}

var (
	crdResource               = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	nodeReportResource        = v1alpha1.GroupVersion.WithResource("nodereports")
	addressPoolResource       = v1alpha1.GroupVersion.WithResource("addresspools")
	gatewayParametersResource = v1alpha1.GroupVersion.WithResource("gatewayparameters")
)

// liveKinds are the kinds that a program watches, and nothing else; above all, no
// Secrets. It needs the verbs list and watch for each, in all namespaces; for Leases
// in theirs only.
func liveKinds(c Clients, role Role, namespace string) []*liveKind {
	t := trimmer{statuses: role == ForController}
	kinds := append(gatewayKinds(c, t),
		&liveKind{name: "Namespace", builtin: true, versions: []liveVersion{
			versionOf("v1", c.Namespaces, "", &corev1.Namespace{}, t.namespace),
		}},
		&liveKind{name: "Service", builtin: true, versions: []liveVersion{
			versionOf("v1", c.Services, "", &corev1.Service{}, t.service),
		}},
		ownKind("AddressPool", addressPoolResource,
			versionOf(addressPoolResource.Version, c.AddressPools, "", &v1alpha1.AddressPool{}, t.addressPool)),
		ownKind("GatewayParameters", gatewayParametersResource,
			versionOf(gatewayParametersResource.Version, c.GatewayParameters, "", &v1alpha1.GatewayParameters{}, t.gatewayParameters)),
	)
	if role == ForAgent {
		return append(kinds, &liveKind{name: "EndpointSlice", builtin: true, versions: []liveVersion{
			versionOf("v1", c.EndpointSlices, discoveryv1.LabelServiceName, &discoveryv1.EndpointSlice{}, t.endpointSlice),
		}})
	}
	return append(kinds,
		&liveKind{name: "Node", builtin: true, versions: []liveVersion{
			versionOf("v1", c.Nodes, "", &corev1.Node{}, t.node),
		}},
		&liveKind{name: "Lease", builtin: true, versions: []liveVersion{
			versionOf("v1", c.Leases(namespace), AgentLabel+"=true", &coordinationv1.Lease{}, t.lease),
		}},
		&liveKind{name: "CustomResourceDefinition", builtin: true, versions: []liveVersion{
			versionOf("v1", c.CRDs, "", &metav1.PartialObjectMetadata{}, t.crd),
		}},
		ownKind("NodeReport", nodeReportResource,
			versionOf(nodeReportResource.Version, c.NodeReports, "", &v1alpha1.NodeReport{}, t.nodeReport)),
	)
}

// ownKind is a kind of our own API group, of which there is one version.
func ownKind(name string, resource schema.GroupVersionResource, version liveVersion) *liveKind {
	return &liveKind{name: name, group: resource.Group, resource: resource.Resource, versions: []liveVersion{version}}
}

func gatewayKinds(c Clients, t trimmer) []*liveKind {
	return []*liveKind{
		{name: "GatewayClass", group: gatewayGroup, resource: "gatewayclasses", versions: []liveVersion{
			versionOf("v1", c.GatewayClasses, "", &gatewayv1.GatewayClass{}, t.gatewayClass),
		}},
		{name: "Gateway", group: gatewayGroup, resource: "gateways", versions: []liveVersion{
			versionOf("v1", c.Gateways, "", &gatewayv1.Gateway{}, t.gateway),
		}},
		{name: "ListenerSet", group: gatewayGroup, resource: "listenersets", versions: []liveVersion{
			versionOf("v1", c.ListenerSets, "", &gatewayv1.ListenerSet{}, t.listenerSet),
		}},
		{name: "TCPRoute", group: gatewayGroup, resource: "tcproutes", versions: []liveVersion{
			versionOf("v1", c.TCPRoutes, "", &gatewayv1.TCPRoute{}, t.tcpRoute),
			versionOf("v1alpha2", c.TCPRoutesV1alpha2, "", &gatewayv1alpha2.TCPRoute{}, t.tcpRouteV1alpha2),
		}},
		{name: "UDPRoute", group: gatewayGroup, resource: "udproutes", versions: []liveVersion{
			versionOf("v1", c.UDPRoutes, "", &gatewayv1.UDPRoute{}, t.udpRoute),
			versionOf("v1alpha2", c.UDPRoutesV1alpha2, "", &gatewayv1alpha2.UDPRoute{}, t.udpRouteV1alpha2),
		}},
		{name: "ReferenceGrant", group: gatewayGroup, resource: "referencegrants", versions: []liveVersion{
			versionOf("v1", c.ReferenceGrants, "", &gatewayv1.ReferenceGrant{}, t.referenceGrant),
			versionOf("v1beta1", c.ReferenceGrantsV1beta1, "", &gatewayv1beta1.ReferenceGrant{}, t.referenceGrantV1beta1),
		}},
	}
}
