package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
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
	// NodeReports are cluster-scoped.
	NodeReports NodeReports
	Discovery   Discovery
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
	reports, err := newNodeReports(config, client)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for NodeReports: %w", err)
	}
	return Clients{Core: core, Gateway: gateway, Metadata: meta, NodeReports: reports, Discovery: core.DiscoveryClient}, nil
}

func newNodeReports(config *rest.Config, client *http.Client) (NodeReports, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.GroupVersion = &v1alpha1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	restClient, err := rest.RESTClientForConfigAndClient(config, client)
	if err != nil {
		return nil, err
	}
	return gentype.NewClientWithList[*v1alpha1.NodeReport, *v1alpha1.NodeReportList](
		"nodereports", restClient, runtime.NewParameterCodec(scheme), "",
		func() *v1alpha1.NodeReport { return &v1alpha1.NodeReport{} },
		func() *v1alpha1.NodeReportList { return &v1alpha1.NodeReportList{} },
	), nil
}
