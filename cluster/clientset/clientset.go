// Package clientset has clients for every kind of Kubernetes and of the Gateway API, for
// programs of which a cluster runs one or two. Agents do without: to know all these kinds
// takes a process about 10 MiB, on every node.
package clientset

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"

	"github.com/portway-dev/portway/cluster"
)

// Clients are those of package cluster and clientsets beside them.
type Clients struct {
	cluster.Clients
	Core    kubernetes.Interface
	Gateway gatewayclient.Interface
}

// New returns clients that share the rate limit of the configuration.
func New(config *rest.Config) (Clients, error) {
	config = cluster.Shared(config)
	clients, err := cluster.NewClients(config)
	if err != nil {
		return Clients{}, err
	}
	core, err := kubernetes.NewForConfig(cluster.Binary(config))
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for Kubernetes: %w", err)
	}
	gateway, err := gatewayclient.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("set up the client for the Gateway API: %w", err)
	}
	return Clients{Clients: clients, Core: core, Gateway: gateway}, nil
}
