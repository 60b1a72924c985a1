package cluster

import (
	"context"
	"errors"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// Clients are what Live reads with, and agents write with. They know the kinds that they
// name and no others: a clientset of client-go knows all kinds of Kubernetes, which is
// paid for in memory on every node. Package clientset has those as well.
type Clients struct {
	// Kinds of Kubernetes itself, in all namespaces.
	Nodes          Nodes
	Namespaces     Reader[*corev1.NamespaceList]
	Services       Reader[*corev1.ServiceList]
	EndpointSlices Reader[*discoveryv1.EndpointSliceList]
	// Leases of one namespace.
	Leases func(namespace string) Leases
	// CRDs is the metadata of CustomResourceDefinitions.
	CRDs Reader[*metav1.PartialObjectMetadataList]

	// Kinds of the Gateway API, in all namespaces.
	GatewayClasses         Reader[*gatewayv1.GatewayClassList]
	Gateways               Reader[*gatewayv1.GatewayList]
	ListenerSets           Reader[*gatewayv1.ListenerSetList]
	TCPRoutes              Reader[*gatewayv1.TCPRouteList]
	TCPRoutesV1alpha2      Reader[*gatewayv1alpha2.TCPRouteList]
	UDPRoutes              Reader[*gatewayv1.UDPRouteList]
	UDPRoutesV1alpha2      Reader[*gatewayv1alpha2.UDPRouteList]
	ReferenceGrants        Reader[*gatewayv1.ReferenceGrantList]
	ReferenceGrantsV1beta1 Reader[*gatewayv1beta1.ReferenceGrantList]

	// Kinds of our own, in all namespaces.
	NodeReports       NodeReports
	AddressPools      AddressPools
	GatewayParameters Reader[*v1alpha1.GatewayParametersList]

	Metadata  metadata.Interface
	Discovery Discovery
}

// Reader lists and follows the objects of a kind. One that cannot list by watching says
// so as client-go's fakes do, with IsWatchListSemanticsUnSupported.
type Reader[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error)
}

// Nodes reads Nodes.
type Nodes interface {
	Reader[*corev1.NodeList]
	Get(ctx context.Context, name string, options metav1.GetOptions) (*corev1.Node, error)
}

// Leases reads and writes Leases.
type Leases interface {
	Reader[*coordinationv1.LeaseList]
	Get(ctx context.Context, name string, options metav1.GetOptions) (*coordinationv1.Lease, error)
	Create(ctx context.Context, lease *coordinationv1.Lease, options metav1.CreateOptions) (*coordinationv1.Lease, error)
	Update(ctx context.Context, lease *coordinationv1.Lease, options metav1.UpdateOptions) (*coordinationv1.Lease, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}

// AddressPools reads AddressPools, and writes their statuses and finalizers.
type AddressPools interface {
	Reader[*v1alpha1.AddressPoolList]
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.AddressPool, error)
	UpdateStatus(ctx context.Context, pool *v1alpha1.AddressPool, options metav1.UpdateOptions) (*v1alpha1.AddressPool, error)
	Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, options metav1.PatchOptions, subresources ...string) (*v1alpha1.AddressPool, error)
}

// NodeReports reads and writes NodeReports.
type NodeReports interface {
	Reader[*v1alpha1.NodeReportList]
	NodeReportWriter
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
