package controller

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
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
		writer: newWriter(newClients(client, nil, nil, served), clock.RealClock{}, &eventLog{}, config.Workers),
	}
	loop := newController(config, r.store, r.writer, clock.RealClock{}, nil)
	election := DefaultLeaderElection()
	election.Namespace, election.Identity = "portway-system", name
	var running sync.WaitGroup
	running.Go(func() { loop.run(ctx) })
	running.Go(func() {
		if err := lead(ctx, election, election.lock(leases.CoordinationV1()), r.writer); err != nil {
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

// hangingLock is a Lease whose calls end with the client's timeout while hang is set.
type hangingLock struct {
	resourcelock.Interface
	hang *atomic.Bool
}

func (l hangingLock) wait() error {
	if l.hang.Load() {
		time.Sleep(DefaultLeaderElection().RenewDeadline / 2)
		return context.DeadlineExceeded
	}
	return nil
}

func (l hangingLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	if err := l.wait(); err != nil {
		return nil, nil, err
	}
	return l.Interface.Get(ctx)
}

func (l hangingLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if err := l.wait(); err != nil {
		return err
	}
	return l.Interface.Update(ctx, record)
}

// TestTermEndsBeforeTheLease: a leader whose renewals hang stops writing, and ends
// the write under way, when the last one is as old as the deadline; it gives nothing
// up, and leads again when it can renew.
func TestTermEndsBeforeTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hang atomic.Bool
		leases := kubefake.NewClientset()
		_, ctx := ktesting.NewTestContext(t)
		ctx, stop := context.WithCancel(ctx)
		w := newWriter(clients{listGateways: noGateways}, clock.RealClock{}, &eventLog{}, 2)
		e := DefaultLeaderElection()
		e.Namespace, e.Identity = "portway-system", "one"
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := lead(ctx, e, hangingLock{e.lock(leases.CoordinationV1()), &hang}, w); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(10 * time.Second)
		var ended time.Time // of a write that takes for ever
		w.offer(w.presentTerm(), []*change{{
			key:   objectKey{kind: "Gateway"},
			wants: func(any) bool { return true },
			write: func(ctx context.Context, _ *writer) (outcome, error) {
				<-ctx.Done()
				ended = time.Now()
				return outcomeFailed, ctx.Err()
			},
		}})
		time.Sleep(time.Second)
		broken := time.Now()
		hang.Store(true)
		time.Sleep(e.RenewDeadline)
		synctest.Wait()
		if w.leads() || ended.IsZero() {
			t.Errorf("%s after the last renewal that can have been: leads %t, the last write ended %v", time.Since(broken), w.leads(), ended)
		}
		hang.Store(false)
		lease, err := leases.CoordinationV1().Leases(e.Namespace).Get(ctx, e.Name, metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != "one" {
			t.Errorf("lease %+v, %v", lease, err)
		}
		time.Sleep(e.LeaseDuration)
		if !w.leads() {
			t.Error("does not lead again")
		}
		stop()
		<-done
	})
}

// TestLeaseIsGivenUpAfterTheLastWrite, which takes its time to end, and is renewed
// until then.
func TestLeaseIsGivenUpAfterTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases := kubefake.NewClientset()
		_, ctx := ktesting.NewTestContext(t)
		ctx, stop := context.WithCancel(ctx)
		w := newWriter(clients{listGateways: noGateways}, clock.RealClock{}, &eventLog{}, 2)
		e := DefaultLeaderElection()
		e.Namespace, e.Identity = "portway-system", "one"
		holder := func() (who string, renewed time.Time) {
			lease, err := leases.CoordinationV1().Leases(e.Namespace).Get(t.Context(), e.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return *lease.Spec.HolderIdentity, lease.Spec.RenewTime.Time
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := lead(ctx, e, e.lock(leases.CoordinationV1()), w); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		w.offer(w.presentTerm(), []*change{{
			key:   objectKey{kind: "Gateway"},
			wants: func(any) bool { return true },
			write: func(ctx context.Context, _ *writer) (outcome, error) {
				<-ctx.Done()
				time.Sleep(20 * time.Second)
				return outcomeFailed, ctx.Err()
			},
		}})
		time.Sleep(time.Second)
		stop()
		time.Sleep(19 * time.Second)
		if got, renewed := holder(); got != "one" || time.Since(renewed) > e.RenewDeadline {
			t.Errorf("during the last write the Lease is %q's, renewed %s ago", got, time.Since(renewed))
		}
		<-done
		if got, _ := holder(); got != "" {
			t.Errorf("the Lease is still %q's", got)
		}
	})
}

func noGateways(context.Context, metav1.ListOptions) (*gatewayv1.GatewayList, error) {
	return &gatewayv1.GatewayList{}, nil
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
