package cluster

import (
	"context"
	"fmt"
	"net/http"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// NewClients returns clients that share one connection pool and the rate limit of
// the configuration. Kinds of Kubernetes itself travel as protobuf, custom
// resources as JSON: the API server has no protobuf for them.
func NewClients(config *rest.Config) (Clients, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the API connection: %w", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return Clients{}, fmt.Errorf("register API types: %w", err)
	}
	config = Shared(config)
	meta, err := metadata.NewForConfigAndClient(config, client)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for metadata: %w", err)
	}
	c := connector{
		config: config, client: client,
		serializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
		parameters: runtime.NewParameterCodec(scheme),
	}
	clients := Clients{Metadata: meta, CRDs: meta.Resource(crdResource)}
	for _, add := range []func(*Clients) error{c.addKubernetes, c.addGateway, c.addOwn} {
		if err := add(&clients); err != nil {
			return Clients{}, err
		}
	}
	return clients, nil
}

// Shared returns a copy of a configuration whose clients share its rate limit; each
// would have one of its own otherwise.
func Shared(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	if config.WarningHandler == nil && config.WarningHandlerWithContext == nil {
		// It would warn of v1alpha2 with every list, which is read for a reason.
		config.WarningHandlerWithContext = rest.NoWarnings{}
	}
	if config.RateLimiter == nil && config.QPS > 0 {
		config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(config.QPS, config.Burst)
	}
	return config
}

// Binary returns a copy of a configuration for kinds that travel as protobuf.
func Binary(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.ContentType = runtime.ContentTypeProtobuf
	return config
}

// newScheme returns a scheme of the kinds that Clients has, and no others.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for version, types := range map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion: {
			&corev1.Node{}, &corev1.NodeList{},
			&corev1.Namespace{}, &corev1.NamespaceList{},
			&corev1.Service{}, &corev1.ServiceList{},
		},
		discoveryv1.SchemeGroupVersion:    {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
		coordinationv1.SchemeGroupVersion: {&coordinationv1.Lease{}, &coordinationv1.LeaseList{}},
		gatewayVersion("v1"): {
			&gatewayv1.GatewayClass{}, &gatewayv1.GatewayClassList{},
			&gatewayv1.Gateway{}, &gatewayv1.GatewayList{},
			&gatewayv1.ListenerSet{}, &gatewayv1.ListenerSetList{},
			&gatewayv1.TCPRoute{}, &gatewayv1.TCPRouteList{},
			&gatewayv1.UDPRoute{}, &gatewayv1.UDPRouteList{},
			&gatewayv1.ReferenceGrant{}, &gatewayv1.ReferenceGrantList{},
		},
		gatewayVersion("v1beta1"): {&gatewayv1beta1.ReferenceGrant{}, &gatewayv1beta1.ReferenceGrantList{}},
		gatewayVersion("v1alpha2"): {
			&gatewayv1alpha2.TCPRoute{}, &gatewayv1alpha2.TCPRouteList{},
			&gatewayv1alpha2.UDPRoute{}, &gatewayv1alpha2.UDPRouteList{},
		},
	} {
		scheme.AddKnownTypes(version, types...)
		metav1.AddToGroupVersion(scheme, version)
	}
	return scheme, v1alpha1.AddToScheme(scheme)
}

func gatewayVersion(version string) schema.GroupVersion {
	return schema.GroupVersion{Group: gatewayGroup, Version: version}
}

// connector makes clients for the kinds of a scheme.
type connector struct {
	config     *rest.Config
	client     *http.Client
	serializer runtime.NegotiatedSerializer
	parameters runtime.ParameterCodec
}

func (c *connector) addKubernetes(clients *Clients) error {
	config := Binary(c.config)
	core, err := c.group(config, corev1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	discovery, err := c.group(config, discoveryv1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	coordination, err := c.group(config, coordinationv1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	clients.Nodes = clientFor[corev1.Node, corev1.NodeList](core, "nodes", metav1.NamespaceAll)
	clients.Namespaces = clientFor[corev1.Namespace, corev1.NamespaceList](core, "namespaces", metav1.NamespaceAll)
	clients.Services = clientFor[corev1.Service, corev1.ServiceList](core, "services", metav1.NamespaceAll)
	clients.EndpointSlices = clientFor[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discovery, "endpointslices", metav1.NamespaceAll)
	clients.Leases = func(namespace string) Leases {
		return clientFor[coordinationv1.Lease, coordinationv1.LeaseList](coordination, "leases", namespace)
	}
	clients.Discovery = served{core.rest}
	return nil
}

func (c *connector) addGateway(clients *Clients) error {
	v1, err := c.group(c.config, gatewayVersion("v1"))
	if err != nil {
		return err
	}
	v1beta1, err := c.group(c.config, gatewayVersion("v1beta1"))
	if err != nil {
		return err
	}
	v1alpha2, err := c.group(c.config, gatewayVersion("v1alpha2"))
	if err != nil {
		return err
	}
	const all = metav1.NamespaceAll
	clients.GatewayClasses = clientFor[gatewayv1.GatewayClass, gatewayv1.GatewayClassList](v1, "gatewayclasses", all)
	clients.Gateways = clientFor[gatewayv1.Gateway, gatewayv1.GatewayList](v1, "gateways", all)
	clients.ListenerSets = clientFor[gatewayv1.ListenerSet, gatewayv1.ListenerSetList](v1, "listenersets", all)
	clients.TCPRoutes = clientFor[gatewayv1.TCPRoute, gatewayv1.TCPRouteList](v1, "tcproutes", all)
	clients.TCPRoutesV1alpha2 = clientFor[gatewayv1alpha2.TCPRoute, gatewayv1alpha2.TCPRouteList](v1alpha2, "tcproutes", all)
	clients.UDPRoutes = clientFor[gatewayv1.UDPRoute, gatewayv1.UDPRouteList](v1, "udproutes", all)
	clients.UDPRoutesV1alpha2 = clientFor[gatewayv1alpha2.UDPRoute, gatewayv1alpha2.UDPRouteList](v1alpha2, "udproutes", all)
	clients.ReferenceGrants = clientFor[gatewayv1.ReferenceGrant, gatewayv1.ReferenceGrantList](v1, "referencegrants", all)
	clients.ReferenceGrantsV1beta1 = clientFor[gatewayv1beta1.ReferenceGrant, gatewayv1beta1.ReferenceGrantList](v1beta1, "referencegrants", all)
	return nil
}

func (c *connector) addOwn(clients *Clients) error {
	own, err := c.group(c.config, v1alpha1.GroupVersion)
	if err != nil {
		return err
	}
	clients.NodeReports = clientFor[v1alpha1.NodeReport, v1alpha1.NodeReportList](own, nodeReportResource.Resource, metav1.NamespaceAll)
	clients.AddressPools = clientFor[v1alpha1.AddressPool, v1alpha1.AddressPoolList](own, addressPoolResource.Resource, metav1.NamespaceAll)
	clients.GatewayParameters = clientFor[v1alpha1.GatewayParameters, v1alpha1.GatewayParametersList](own, gatewayParametersResource.Resource, metav1.NamespaceAll)
	return nil
}

// groupClient talks about the kinds of one version of an API group.
type groupClient struct {
	rest       rest.Interface
	parameters runtime.ParameterCodec
}

func (c *connector) group(config *rest.Config, version schema.GroupVersion) (groupClient, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion = &version
	config.APIPath = "/apis"
	if version.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = c.serializer
	client, err := rest.RESTClientForConfigAndClient(config, c.client)
	if err != nil {
		return groupClient{}, fmt.Errorf("set up the client for %s: %w", version, err)
	}
	return groupClient{client, c.parameters}, nil
}

// clientFor returns the client for a kind, given as the types of an object and of a list.
func clientFor[T, L any, P interface {
	*T
	Object
}, PL interface {
	*L
	runtime.Object
}](g groupClient, resource, namespace string) *gentype.ClientWithList[P, PL] {
	return gentype.NewClientWithList[P, PL](resource, g.rest, g.parameters, namespace, func() P { return new(T) }, func() PL { return new(L) })
}

// served tells what an API server serves.
type served struct{ client rest.Interface }

func (s served) ServerResourcesForGroupVersionWithContext(ctx context.Context, groupVersion string) (*metav1.APIResourceList, error) {
	list := &metav1.APIResourceList{}
	return list, s.client.Get().AbsPath("/apis", groupVersion).Do(ctx).Into(list)
}
