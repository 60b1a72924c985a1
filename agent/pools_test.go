package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

// fakeOwn is the clients for AddressPools and GatewayParameters.
type fakeOwn struct {
	clienttesting.Fake
	tracker clienttesting.ObjectTracker
}

func newFakeOwn(t *testing.T) *fakeOwn {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	own := &fakeOwn{tracker: clienttesting.NewObjectTracker(scheme, serializer.NewCodecFactory(scheme).UniversalDecoder())}
	own.AddReactor("*", "*", clienttesting.ObjectReaction(own.tracker))
	return own
}

type fakePools struct {
	*gentype.FakeClientWithList[*v1alpha1.AddressPool, *v1alpha1.AddressPoolList]
}

func (fakePools) IsWatchListSemanticsUnSupported() bool { return true }

func (f *fakeOwn) pools() fakePools {
	return fakePools{gentype.NewFakeClientWithList(
		&f.Fake, metav1.NamespaceAll, v1alpha1.GroupVersion.WithResource("addresspools"), v1alpha1.GroupVersion.WithKind("AddressPool"),
		func() *v1alpha1.AddressPool { return &v1alpha1.AddressPool{} },
		func() *v1alpha1.AddressPoolList { return &v1alpha1.AddressPoolList{} },
		func(to, from *v1alpha1.AddressPoolList) { to.ListMeta = from.ListMeta },
		func(list *v1alpha1.AddressPoolList) []*v1alpha1.AddressPool {
			return gentype.ToPointerSlice(list.Items)
		},
		func(list *v1alpha1.AddressPoolList, items []*v1alpha1.AddressPool) {
			list.Items = gentype.FromPointerSlice(items)
		})}
}

type fakeParameters struct {
	*gentype.FakeClientWithList[*v1alpha1.GatewayParameters, *v1alpha1.GatewayParametersList]
}

func (fakeParameters) IsWatchListSemanticsUnSupported() bool { return true }

func (f *fakeOwn) parameters(namespace string) fakeParameters {
	return fakeParameters{gentype.NewFakeClientWithList(
		&f.Fake, namespace, v1alpha1.GroupVersion.WithResource("gatewayparameters"), v1alpha1.GroupVersion.WithKind("GatewayParameters"),
		func() *v1alpha1.GatewayParameters { return &v1alpha1.GatewayParameters{} },
		func() *v1alpha1.GatewayParametersList { return &v1alpha1.GatewayParametersList{} },
		func(to, from *v1alpha1.GatewayParametersList) { to.ListMeta = from.ListMeta },
		func(list *v1alpha1.GatewayParametersList) []*v1alpha1.GatewayParameters {
			return gentype.ToPointerSlice(list.Items)
		},
		func(list *v1alpha1.GatewayParametersList, items []*v1alpha1.GatewayParameters) {
			list.Items = gentype.FromPointerSlice(items)
		})}
}

func edge() *v1alpha1.GatewayParameters {
	parameters := &v1alpha1.GatewayParameters{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "edge"}}
	parameters.Spec.Mode = v1alpha1.AddressModePool
	return parameters
}

// createPooled creates the guide's Gateway with an address of the pool that it returns.
func (b *clusterBench) createPooled() *v1alpha1.AddressPool {
	b.t.Helper()
	ctx, c := b.t.Context(), b.cluster
	c.createGuide(b.t)
	must := func(_ any, err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	pool := &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "public"}}
	pool.Spec.Addresses = []v1alpha1.AddressRange{"203.0.113.0/24"}
	pool, err := c.own.pools().Create(ctx, pool, metav1.CreateOptions{})
	must(pool, err)
	must(c.own.parameters("default").Create(ctx, edge(), metav1.CreateOptions{}))
	class, err := c.gateway.GatewayV1().GatewayClasses().Get(ctx, "portway", metav1.GetOptions{})
	must(class, err)
	class.Spec.ParametersRef = &gatewayv1.ParametersReference{
		Group: v1alpha1.GroupName, Kind: topology.KindGatewayParameters, Namespace: ptr.To(gatewayv1.Namespace("default")), Name: "edge",
	}
	must(c.gateway.GatewayV1().GatewayClasses().Update(ctx, class, metav1.UpdateOptions{}))
	web, err := c.gateway.GatewayV1().Gateways("default").Get(ctx, "web", metav1.GetOptions{})
	must(web, err)
	web.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "203.0.113.7"}, {Value: "8.8.8.8"}}
	web.Status.Conditions = []metav1.Condition{{Type: topology.ConditionAddressMode, Status: metav1.ConditionTrue, Reason: "Pool"}}
	must(c.gateway.GatewayV1().Gateways("default").UpdateStatus(ctx, web, metav1.UpdateOptions{}))
	return pool
}

// TestClusterServesAddressesOfPools: an agent goes by what the controller published and
// a pool vouches for, and stays there when parameters or the pool go.
func TestClusterServesAddressesOfPools(t *testing.T) {
	inCluster(t, func(b *clusterBench) { b.createPooled() }, func(b *clusterBench) {
		ctx, pools := b.t.Context(), b.cluster.own.pools()
		serves := func(when string) {
			b.t.Helper()
			b.settle(time.Second)
			if got := fmt.Sprint(b.kernel.last().Keys()); got != "[203.0.113.7 tcp 8080]" {
				b.t.Errorf("%s: frontends %s", when, got)
			}
		}
		serves("at first")
		committed := b.cluster.reports.report("demo-node").Committed
		if err := b.cluster.own.parameters("default").Delete(ctx, "edge", metav1.DeleteOptions{}); err != nil {
			b.t.Fatal(err)
		}
		serves("without parameters")
		pool, err := pools.Get(ctx, "public", metav1.GetOptions{})
		if err != nil {
			b.t.Fatal(err)
		}
		pool.Status.Retained = []string{"203.0.113.7"}
		pool.Spec.Addresses = []v1alpha1.AddressRange{"198.51.100.0/24"}
		if _, err := pools.Update(ctx, pool, metav1.UpdateOptions{}); err != nil {
			b.t.Fatal(err)
		}
		serves("outside the pool")
		if got := b.cluster.reports.report("demo-node").Committed; !slices.Equal(got, committed) {
			b.t.Errorf("another configuration than before is committed: %v, %v", committed, got)
		}
		if _, err := b.cluster.own.parameters("default").Create(ctx, edge(), metav1.CreateOptions{}); err != nil {
			b.t.Fatal(err)
		}
		serves("with parameters again")
		if err := pools.Delete(ctx, "public", metav1.DeleteOptions{}); err != nil {
			b.t.Fatal(err)
		}
		b.settle(time.Second)
		if n := b.kernel.last().Len(); n != 0 {
			b.t.Errorf("serves an address that no pool has: %v", b.kernel.last().Keys())
		}
	})
}
