package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Clients are what this project talks to an API server with.
type Clients struct {
	Core     kubernetes.Interface
	Gateway  gatewayclient.Interface
	Metadata metadata.Interface
	// NodeReports and AddressPools are cluster-scoped.
	NodeReports  NodeReports
	AddressPools AddressPools
	// GatewayParameters of all namespaces.
	GatewayParameters GatewayParameters
	Discovery         Discovery
}

// AddressPools reads AddressPools, and writes their statuses and finalizers.
type AddressPools interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.AddressPool, error)
	List(ctx context.Context, options metav1.ListOptions) (*v1alpha1.AddressPoolList, error)
	Watch(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error)
	UpdateStatus(ctx context.Context, pool *v1alpha1.AddressPool, options metav1.UpdateOptions) (*v1alpha1.AddressPool, error)
	Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, options metav1.PatchOptions, subresources ...string) (*v1alpha1.AddressPool, error)
}

// GatewayParameters reads GatewayParameters.
type GatewayParameters interface {
	List(ctx context.Context, options metav1.ListOptions) (*v1alpha1.GatewayParametersList, error)
	Watch(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error)
}

// NodeReports reads and writes NodeReports.
type NodeReports interface {
	NodeReportWriter
	List(ctx context.Context, options metav1.ListOptions) (*v1alpha1.NodeReportList, error)
	Watch(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error)
}

// NodeReportWriter is what an agent needs to keep its own NodeReport.
type NodeReportWriter interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.NodeReport, error)
	Create(ctx context.Context, report *v1alpha1.NodeReport, options metav1.CreateOptions) (*v1alpha1.NodeReport, error)
	Update(ctx context.Context, report *v1alpha1.NodeReport, options metav1.UpdateOptions) (*v1alpha1.NodeReport, error)
}

// Discovery tells what an API server serves.
type Discovery interface {
	ServerResourcesForGroupVersionWithContext(ctx context.Context, groupVersion string) (*metav1.APIResourceList, error)
}

// ErrNoCluster says that there is no kubeconfig and that this is not a pod.
var ErrNoCluster = errors.New("no kubeconfig is given and this is not a pod of a cluster")

// ClientConfig returns how to reach the API server: as a kubeconfig file says, or
// without one as the pod this process runs in may (ErrNoCluster if it is none).
func ClientConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, ErrNoCluster
	case err != nil:
		return nil, fmt.Errorf("read the pod's API credentials: %w", err)
	}
	return config, nil
}

// NewClients returns clients that share one connection pool and the rate limit of
// the configuration. Kinds of Kubernetes itself travel as protobuf, custom
// resources as JSON: the API server has no protobuf for them.
func NewClients(config *rest.Config) (Clients, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the API connection: %w", err)
	}
	config = rest.CopyConfig(config)
	if config.WarningHandler == nil && config.WarningHandlerWithContext == nil {
		// It would warn of v1alpha2 with every list, which is read for a reason.
		config.WarningHandlerWithContext = rest.NoWarnings{}
	}
	if config.RateLimiter == nil && config.QPS > 0 {
		// One for all of them; each would make its own otherwise.
		config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(config.QPS, config.Burst)
	}
	binary := rest.CopyConfig(config)
	binary.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	binary.ContentType = runtime.ContentTypeProtobuf

	core, err := kubernetes.NewForConfigAndClient(binary, client)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for Kubernetes: %w", err)
	}
	gateway, err := gatewayclient.NewForConfigAndClient(config, client)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for the Gateway API: %w", err)
	}
	meta, err := metadata.NewForConfigAndClient(config, client)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for metadata: %w", err)
	}
	clients := Clients{Core: core, Gateway: gateway, Metadata: meta, Discovery: core.DiscoveryClient}
	if err := clients.addOwn(config, client); err != nil {
		return Clients{}, fmt.Errorf("set up the client for %s: %w", v1alpha1.GroupName, err)
	}
	return clients, nil
}

// addOwn adds the clients for kinds of our own.
func (c *Clients) addOwn(config *rest.Config, client *http.Client) error {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.GroupVersion = &v1alpha1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	restClient, err := rest.RESTClientForConfigAndClient(config, client)
	if err != nil {
		return err
	}
	codec := runtime.NewParameterCodec(scheme)
	c.NodeReports = gentype.NewClientWithList[*v1alpha1.NodeReport, *v1alpha1.NodeReportList](
		nodeReportResource.Resource, restClient, codec, metav1.NamespaceAll,
		func() *v1alpha1.NodeReport { return &v1alpha1.NodeReport{} },
		func() *v1alpha1.NodeReportList { return &v1alpha1.NodeReportList{} },
	)
	c.AddressPools = gentype.NewClientWithList[*v1alpha1.AddressPool, *v1alpha1.AddressPoolList](
		addressPoolResource.Resource, restClient, codec, metav1.NamespaceAll,
		func() *v1alpha1.AddressPool { return &v1alpha1.AddressPool{} },
		func() *v1alpha1.AddressPoolList { return &v1alpha1.AddressPoolList{} },
	)
	c.GatewayParameters = gentype.NewClientWithList[*v1alpha1.GatewayParameters, *v1alpha1.GatewayParametersList](
		gatewayParametersResource.Resource, restClient, codec, metav1.NamespaceAll,
		func() *v1alpha1.GatewayParameters { return &v1alpha1.GatewayParameters{} },
		func() *v1alpha1.GatewayParametersList { return &v1alpha1.GatewayParametersList{} },
	)
	return nil
}
