package apisim

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kubernetesscheme "k8s.io/client-go/kubernetes/scheme"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// An Object is of any kind that is served.
type Object interface {
	metav1.Object
	runtime.Object
}

// resource is a kind as it is served.
type resource struct {
	schema.GroupVersion
	name       string // plural, as in paths
	kind       string
	namespaced bool
	status     bool // there is a subresource of that name
}

var (
	core      = schema.GroupVersion{Version: "v1"}
	gateway   = schema.GroupVersion(gatewayv1.GroupVersion)
	extension = schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}
)

var resources = []resource{
	{core, "namespaces", "Namespace", false, true},
	{core, "nodes", "Node", false, true},
	{core, "services", "Service", true, true},
	{schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}, "endpointslices", "EndpointSlice", true, false},
	{schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}, "servicecidrs", "ServiceCIDR", false, true},
	{schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}, "leases", "Lease", true, false},
	{schema.GroupVersion{Group: "events.k8s.io", Version: "v1"}, "events", "Event", true, false},
	{extension, "customresourcedefinitions", crdKind, false, true},
	{gateway, "gatewayclasses", "GatewayClass", false, true},
	{gateway, "gateways", "Gateway", true, true},
	{gateway, "listenersets", "ListenerSet", true, true},
	{gateway, "tcproutes", "TCPRoute", true, true},
	{gateway, "udproutes", "UDPRoute", true, true},
	{gateway, "referencegrants", "ReferenceGrant", true, false},
	{v1alpha1.GroupVersion, "nodereports", "NodeReport", false, false},
	{v1alpha1.GroupVersion, "addresspools", "AddressPool", false, true},
	{v1alpha1.GroupVersion, "gatewayparameters", "GatewayParameters", true, false},
}

// crdKind is served as metadata only.
const crdKind = "CustomResourceDefinition"

// events are taken and forgotten.
const eventResource = "events"

var (
	scheme = newScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{kubernetesscheme.AddToScheme, gatewayv1.Install, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // a kind is registered twice
		}
	}
	return s
}

// groupVersionKind of the objects.
func (r *resource) groupVersionKind() schema.GroupVersionKind { return r.WithKind(r.kind) }

func (r *resource) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.name}
}

// empty returns an object without content.
func (r *resource) empty() (Object, error) {
	if r.kind == crdKind {
		return &metav1.PartialObjectMetadata{}, nil
	}
	made, err := scheme.New(r.groupVersionKind())
	if err != nil {
		return nil, err
	}
	o, ok := made.(Object)
	if !ok {
		return nil, fmt.Errorf("%s has no metadata", r.kind)
	}
	return o, nil
}

// kindOf returns which kind an object is of; PartialObjectMetadata is a CRD's.
func kindOf(o Object) (schema.GroupVersionKind, error) {
	if _, ok := o.(*metav1.PartialObjectMetadata); ok {
		return extension.WithKind(crdKind), nil
	}
	kinds, _, err := scheme.ObjectKinds(o)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return kinds[0], nil
}
