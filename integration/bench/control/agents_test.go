package control

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/topology"
)

const (
	// agentTurns is how many times a second some of the agents report.
	agentTurns = 10
	// slowest is how many seconds the slowest agent is behind.
	slowest = 10
)

// startAgents lets the first n nodes of a fleet report until the returned function is called:
// each of them once a second and not at the same time, what a node proves that has programmed
// everything that was assigned at a time, the first one now and the last one a while ago. Their
// Leases are renewed. The Gateways have no routes.
func startAgents(t *testing.T, api *apisim.Server, n int) (stop func()) {
	t.Helper()
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(time.Second / agentTurns)
		defer ticker.Stop()
		history := make([][]string, slowest) // digests to prove, the latest first
		for turn := 0; n > 0; turn++ {
			select {
			case <-end:
				return
			case <-ticker.C:
			}
			if turn%agentTurns == 0 {
				digests, err := digestsOf(api)
				if err != nil {
					t.Error(err)
					return
				}
				history = append([][]string{digests}, history[:slowest-1]...)
			}
			var objects []apisim.Object
			for i := turn % agentTurns; i < n; i += agentTurns {
				if turn/agentTurns%10 == 0 {
					objects = append(objects, lease(i, 1+turn/agentTurns/10))
				}
				objects = append(objects, report(i, history[i*slowest/n]...))
			}
			if err := api.Put(objects...); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// digestsOf decides as every agent does.
func digestsOf(api *apisim.Server) ([]string, error) {
	snapshot := topology.Snapshot{
		GatewayClasses: map[string]*gatewayv1.GatewayClass{}, Gateways: map[types.NamespacedName]*gatewayv1.Gateway{},
		AddressPools: map[string]*v1alpha1.AddressPool{}, GatewayParameters: map[types.NamespacedName]*v1alpha1.GatewayParameters{},
	}
	classes, err := apisim.List(api, &gatewayv1.GatewayClass{})
	if err != nil {
		return nil, err
	}
	for _, o := range classes {
		snapshot.GatewayClasses[o.Name] = o
	}
	gateways, err := apisim.List(api, &gatewayv1.Gateway{})
	if err != nil {
		return nil, err
	}
	for _, o := range gateways {
		snapshot.Gateways[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] = o
	}
	pools, err := apisim.List(api, &v1alpha1.AddressPool{})
	if err != nil {
		return nil, err
	}
	for _, o := range pools {
		snapshot.AddressPools[o.Name] = o
	}
	parameters, err := apisim.List(api, &v1alpha1.GatewayParameters{})
	if err != nil {
		return nil, err
	}
	for _, o := range parameters {
		snapshot.GatewayParameters[types.NamespacedName{Namespace: o.Namespace, Name: o.Name}] = o
	}
	resolution := topology.Resolve(snapshot, topology.DefaultConfig())
	var digests []string
	for _, gateway := range resolution.Build(cluster.Assigned(resolution)).Gateways {
		if gateway.Digest != "" && len(gateway.Assignment.Addresses) > 0 {
			digests = append(digests, gateway.Digest)
		}
	}
	slices.Sort(digests)
	return digests, nil
}
