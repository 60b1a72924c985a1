package controller

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// replica is one of several controllers on one API server.
type replica struct {
	store  *cluster.Store
	writer *writer
	stop   context.CancelFunc
	done   chan struct{}
}

// startReplica runs a controller with its own informers and leader election.
func startReplica(t *testing.T, name string, api *gatewayfake.Clientset, leases kubernetes.Interface) *replica {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, stop := context.WithCancel(ctx)
	config := DefaultConfig()
	served := func() map[string]string { return map[string]string{"TCPRoute": "v1", "UDPRoute": "v1"} }
	var client gatewayclient.Interface = api
	r := &replica{
		store: cluster.NewStore(), stop: stop, done: make(chan struct{}),
		writer: newWriter(newClients(client, served), clock.RealClock{}, &eventLog{}, config.Workers),
	}
	loop := newController(config, r.store, r.writer, clock.RealClock{})
	election := DefaultLeaderElection()
	election.Namespace, election.Identity = "portway-system", name
	var running sync.WaitGroup
	running.Go(func() { loop.run(ctx) })
	running.Go(func() {
		if err := lead(ctx, election, leases.CoordinationV1(), r.writer); err != nil {
			t.Error(err)
		}
	})
	go func() {
		defer close(r.done)
		running.Wait()
	}()
	return r
}

// TestHandOver: the one that leads writes and no other; one that stops lets the
// next one write within the retry period, and it writes only what is left.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, leases := newFakeAPI(), kubefake.NewClientset()
		var replicas []*replica
		for _, name := range []string{"one", "two"} {
			replicas = append(replicas, startReplica(t, name, api, leases))
			time.Sleep(time.Second)
		}
		put := func(objects ...cluster.Object) {
			t.Helper()
			for _, r := range replicas {
				for _, o := range objects {
					if err := r.store.Put(o.DeepCopyObject().(cluster.Object)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "portway"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName}}
		g := testGateway("g", 80)
		for resource, o := range map[string]cluster.Object{"gatewayclasses": class, "gateways": g} {
			if err := api.Tracker().Create(resourceOf("v1", resource), o.DeepCopyObject(), o.GetNamespace()); err != nil {
				t.Fatal(err)
			}
		}
		put(class, g, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
		time.Sleep(time.Second)
		if !replicas[0].writer.leads() || replicas[1].writer.leads() {
			t.Fatalf("leading: %t, %t", replicas[0].writer.leads(), replicas[1].writer.leads())
		}
		first := updates(api)
		if !slices.Contains(first, "gateways") {
			t.Errorf("the leader wrote %v", first)
		}
		if pending := len(replicas[1].writer.pending); pending == 0 {
			t.Error("the follower does not know what it would have to write")
		}

		replicas[0].stop()
		<-replicas[0].done
		edited, err := api.GatewayV1().Gateways("default").Get(t.Context(), "g", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		edited = edited.DeepCopy()
		edited.Generation, edited.Spec.Listeners[0].Port = 2, 81
		edited.ResourceVersion = "5000"
		if err := api.Tracker().Update(resourceOf("v1", "gateways"), edited.DeepCopy(), "default"); err != nil {
			t.Fatal(err)
		}
		put(edited)
		time.Sleep(3 * time.Second) // the retry period and its jitter
		if !replicas[1].writer.leads() {
			t.Fatal("nobody took over")
		}
		got, err := api.GatewayV1().Gateways("default").Get(t.Context(), "g", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := condition(got.Status.Conditions, "Accepted"); c == nil || c.ObservedGeneration != 2 {
			t.Errorf("status %+v", got.Status)
		}
		replicas[1].stop()
		<-replicas[1].done
	})
}

func updates(api *gatewayfake.Clientset) []string {
	var resources []string
	for _, a := range api.Actions() {
		if a.GetVerb() == "update" {
			resources = append(resources, a.GetResource().Resource)
		}
	}
	return resources
}
