package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/topology"
)

func klogContext(logs *ktesting.BufferTL) context.Context {
	return klog.NewContext(context.Background(), ktesting.NewLogger(logs, ktesting.NewConfig(ktesting.Verbosity(1))))
}

// logged counts the lines with a text.
func (b *liveBench) logged(text string) int {
	b.t.Helper()
	synctest.Wait()
	return strings.Count(b.logs.String(), text)
}

func (b *liveBench) isSynced() bool {
	select {
	case <-b.Synced():
		return true
	default:
		return false
	}
}

func (b *liveBench) must(_ any, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// after lets time pass and everything settle.
func after(d time.Duration) {
	time.Sleep(d) // of the bubble: costs nothing
	synctest.Wait()
}

func (b *liveBench) createGateway(g *gatewayv1.Gateway) {
	b.t.Helper()
	b.must(b.api.gateway.GatewayV1().Gateways(g.Namespace).Create(b.t.Context(), g, metav1.CreateOptions{}))
}

func tcpRoute(name string, rules int) *gatewayv1.TCPRoute {
	r := &gatewayv1.TCPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	r.Spec.Rules = make([]gatewayv1.TCPRouteRule, rules)
	return r
}

func oldTCPRoute(name string, rules int) *gatewayv1alpha2.TCPRoute {
	r := &gatewayv1alpha2.TCPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	r.Spec.Rules = make([]gatewayv1alpha2.TCPRouteRule, rules)
	return r
}

// routes returns the routes of a new Snapshot with the number of their rules, nil
// without one.
func (b *liveBench) routes() map[string]int {
	b.t.Helper()
	synctest.Wait()
	snapshot := b.store.Next().Snapshot
	if snapshot == nil {
		return nil
	}
	routes := map[string]int{}
	for key, route := range snapshot.TCPRoutes {
		routes[key.Name] = len(route.Spec.Rules)
	}
	return routes
}

func (b *liveBench) wantRoutes(want map[string]int) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.routes()); diff != "" {
		b.t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestLiveSignalsNothingBeforeAllIsRead(t *testing.T) {
	prepare := func(api *fakeAPI) {
		api.failWith(func(verb, resource string) error {
			if verb == "list" && resource == "services" {
				return syscall.ECONNREFUSED
			}
			return nil
		})
		if _, err := api.gateway.GatewayV1().Gateways("default").Create(t.Context(), gateway("web", "c"), metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := api.core.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		b.createGateway(gateway("late", "c")) // by watch, before the rest was listed
		after(time.Minute)
		if b.isSynced() || signalled(b.store) || len(b.Served()) != 0 {
			t.Error("something was told before everything was read")
		}
		if u := b.store.Next(); len(u.Snapshot.Gateways) != 0 {
			t.Errorf("half of the objects are in the store: %v", u.Snapshot.Gateways)
		}
		b.api.failWith(nil)
		after(maxPause)
		if !b.isSynced() || !signalled(b.store) {
			t.Fatal("nothing was told after everything was read")
		}
		if u := b.store.Next(); len(u.Snapshot.Gateways) != 2 || len(u.Snapshot.Services) != 1 {
			t.Errorf("first snapshot: %v %v", u.Snapshot.Gateways, u.Snapshot.Services)
		}
		if signalled(b.store) {
			t.Error("the first objects came as more than one change")
		}
	})
}

func TestLiveFollowsObjects(t *testing.T) {
	inBubble(t, ForAgent, nil, func(b *liveBench) {
		if !b.isSynced() {
			t.Fatal("not synced")
		}
		b.createGateway(gateway("web", "c"))
		slice := slice("a", "s", "10.0.0.1")
		b.must(b.api.core.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{}))
		synctest.Wait()
		u := b.store.Next()
		if u.Snapshot.Gateways[key("web")] == nil || len(u.Slices[key("s")]) != 1 || u.Fleet != nil || u.Snapshot.CRDVersions != nil {
			t.Errorf("update %+v", u)
		}
		changed := gateway("web", "d")
		b.must(b.api.gateway.GatewayV1().Gateways("default").Update(t.Context(), changed, metav1.UpdateOptions{}))
		synctest.Wait()
		if got := b.store.Next().Snapshot.Gateways[key("web")].Spec.GatewayClassName; got != "d" {
			t.Errorf("class %s", got)
		}
		// A status that is none of the agent's business is no change.
		changed.Status.Conditions = []metav1.Condition{{Type: "Accepted"}}
		b.must(b.api.gateway.GatewayV1().Gateways("default").UpdateStatus(t.Context(), changed, metav1.UpdateOptions{}))
		synctest.Wait()
		if signalled(b.store) {
			t.Error("a condition is news to an agent")
		}
		changed.Status.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.1"}}
		b.must(b.api.gateway.GatewayV1().Gateways("default").UpdateStatus(t.Context(), changed, metav1.UpdateOptions{}))
		synctest.Wait()
		gateways := b.store.Next().Snapshot.Gateways
		assigned := Assigned(resolved(gateways[key("web")]))[key("web")]
		want := topology.Assignment{NodeMode: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		if diff := cmp.Diff(want, assigned, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("assignment (-want +got):\n%s", diff)
		}
		b.must(nil, b.api.gateway.GatewayV1().Gateways("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
		b.must(nil, b.api.core.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "a", metav1.DeleteOptions{}))
		synctest.Wait()
		if u := b.store.Next(); len(u.Snapshot.Gateways) != 0 || u.Slices[key("s")] == nil || len(u.Slices[key("s")]) != 0 {
			t.Errorf("after deletion: %+v", u)
		}
	})
}

func TestLiveReadsNothingElse(t *testing.T) {
	gatewayAPI := func(resources ...string) (all []string) {
		for _, r := range resources {
			all = append(all, v1Group+" "+r)
		}
		return all
	}("gatewayclasses", "gateways", "listenersets", "referencegrants", "tcproutes", "udproutes")
	tests := map[string]struct {
		role Role
		want []string
	}{
		"agent": {ForAgent, append([]string{
			"discovery.k8s.io/v1 endpointslices where kubernetes.io/service-name", "v1 namespaces", "v1 services",
			ownGroup + " addresspools", ownGroup + " gatewayparameters",
		}, gatewayAPI...)},
		"controller": {ForController, append([]string{
			"v1 namespaces", "v1 services", "v1 nodes", "coordination.k8s.io/v1 leases in portway-system where portway.dev/agent=true",
			"apiextensions.k8s.io/v1 customresourcedefinitions",
			ownGroup + " addresspools", ownGroup + " gatewayparameters", ownGroup + " nodereports",
		}, gatewayAPI...)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.role, nil, func(b *liveBench) {
				var want []string
				for _, resource := range test.want {
					want = append(want, "list "+resource, "watch "+resource)
				}
				after(time.Hour)
				sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
				if diff := cmp.Diff(want, b.api.requests(), sorted); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
				if b.api.discovers > 4 {
					t.Errorf("discovered %d times although everything is served", b.api.discovers)
				}
			})
		})
	}
}

func TestLiveReadsV1alpha2WhereThatIsAll(t *testing.T) {
	prepare := func(api *fakeAPI) {
		api.serve(v1Group, "gatewayclasses", "gateways")
		api.serve(oldGroup, "tcproutes", "udproutes")
		api.serve("gateway.networking.k8s.io/v1beta1", "referencegrants", "gateways")
	}
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		after(absence) // there is no ListenerSet
		b.must(b.api.gateway.GatewayV1alpha2().TCPRoutes("default").Create(t.Context(), oldTCPRoute("r", 2), metav1.CreateOptions{}))
		b.wantRoutes(map[string]int{"r": 2})
		want := map[string]string{
			"GatewayClass": "v1", "Gateway": "v1", "TCPRoute": "v1alpha2", "UDPRoute": "v1alpha2", "ReferenceGrant": "v1beta1",
			"Namespace": "v1", "Service": "v1", "EndpointSlice": "v1", "AddressPool": "v1alpha1", "GatewayParameters": "v1alpha1",
		}
		if diff := cmp.Diff(want, b.Served()); diff != "" {
			t.Errorf("served (-want +got):\n%s", diff)
		}
		after(time.Hour)
		if n := b.logged("does not serve this kind"); n != 1 || !strings.Contains(b.logs.String(), `crd="listenersets.gateway.networking.k8s.io"`) {
			t.Errorf("the missing kind was told %d times:\n%s", n, b.logs)
		}
		b.must(nil, b.api.gateway.GatewayV1alpha2().TCPRoutes("default").Delete(t.Context(), "r", metav1.DeleteOptions{}))
		b.wantRoutes(map[string]int{})
	})
}

func TestLiveSwitchesVersionsWithoutAGap(t *testing.T) {
	prepare := func(api *fakeAPI) {
		api.serve(v1Group, "gatewayclasses", "gateways", "udproutes", "listenersets", "referencegrants")
		api.serve(oldGroup, "tcproutes")
	}
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		old, fresh := b.api.gateway.GatewayV1alpha2().TCPRoutes("default"), b.api.gateway.GatewayV1().TCPRoutes("default")
		b.must(old.Create(t.Context(), oldTCPRoute("same", 1), metav1.CreateOptions{}))
		b.must(old.Create(t.Context(), oldTCPRoute("gone", 1), metav1.CreateOptions{}))
		b.wantRoutes(map[string]int{"gone": 1, "same": 1})

		// The new version is served in addition.
		b.must(fresh.Create(t.Context(), tcpRoute("same", 1), metav1.CreateOptions{}))
		b.must(fresh.Create(t.Context(), tcpRoute("new", 1), metav1.CreateOptions{}))
		b.api.serve(v1Group, "gatewayclasses", "gateways", "udproutes", "listenersets", "referencegrants", "tcproutes")
		for range 60 { // no state in between
			after(time.Second)
			if got := b.routes(); got != nil && !cmp.Equal(got, map[string]int{"same": 1, "new": 1}) {
				t.Fatalf("on the way to v1: %v", got)
			}
		}
		if b.Served()["TCPRoute"] != "v1" {
			t.Errorf("served %v", b.Served())
		}
		b.must(nil, old.Delete(t.Context(), "same", metav1.DeleteOptions{}))
		b.must(fresh.Create(t.Context(), tcpRoute("newer", 1), metav1.CreateOptions{}))
		b.wantRoutes(map[string]int{"same": 1, "new": 1, "newer": 1})

		// And back, because v1 is no longer served.
		b.must(old.Create(t.Context(), oldTCPRoute("same", 3), metav1.CreateOptions{}))
		b.api.serve(v1Group, "gatewayclasses", "gateways", "udproutes", "listenersets", "referencegrants")
		after(time.Minute)
		b.wantRoutes(map[string]int{"same": 3, "gone": 1})
	})
}

func TestLiveSurvivesThatNothingIsServed(t *testing.T) {
	prepare := func(api *fakeAPI) { api.serve(v1Group) }
	inBubble(t, ForAgent, prepare, func(b *liveBench) {
		after(absence)
		if !b.isSynced() {
			t.Fatal("waits for kinds that nobody serves")
		}
		b.store.Next()
		after(time.Hour)
		if n := b.logged("does not serve this kind"); n != 6 {
			t.Errorf("told %d times, want once for each of 6 kinds:\n%s", n, b.logs)
		}
		b.must(b.api.gateway.GatewayV1().TCPRoutes("default").Create(t.Context(), tcpRoute("r", 1), metav1.CreateOptions{}))
		if signalled(b.store) {
			t.Error("objects of a kind that is not served")
		}
		b.api.serve(v1Group, "gatewayclasses", "gateways", "tcproutes")
		after(30 * time.Second)
		b.wantRoutes(map[string]int{"r": 1})
		if b.Served()["Gateway"] != "v1" || b.Served()["UDPRoute"] != "" {
			t.Errorf("served %v", b.Served())
		}

		b.api.serve(v1Group, "gatewayclasses", "gateways")
		after(time.Minute)
		b.wantRoutes(map[string]int{})
		if b.Served()["TCPRoute"] != "" || b.logged("does not serve this kind") != 7 {
			t.Errorf("removed: served %v, log:\n%s", b.Served(), b.logs)
		}
		b.api.serve(v1Group, "gatewayclasses", "gateways", "tcproutes")
		after(30 * time.Second)
		b.wantRoutes(map[string]int{"r": 1})
	})
}

func TestLiveKeepsObjectsWhileTheAPIIsAway(t *testing.T) {
	for name, failure := range map[string]error{
		"away": fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED),
		// Answers, but none of a server that works: the informer's own pause would be a
		// minute by the end of the outage.
		"behind a load balancer": apierrors.NewServiceUnavailable("no server"),
		"overloaded":             apierrors.NewTooManyRequests("later", 1),
	} {
		t.Run(name, func(t *testing.T) { liveOutage(t, failure) })
	}
}

func liveOutage(t *testing.T, failure error) {
	t.Helper()
	inBubble(t, ForAgent, nil, func(b *liveBench) {
		b.createGateway(gateway("web", "c"))
		synctest.Wait()
		b.store.Next()
		b.api.failWith(func(string, string) error { return failure })
		b.api.cut()
		b.createGateway(gateway("meanwhile", "c"))
		after(10 * time.Minute)
		if signalled(b.store) {
			t.Error("an outage changed objects")
		}
		if n := b.logged("Cannot read objects"); n != 11 {
			t.Errorf("the outage was told %d times, want once for each of 11 kinds", n)
		}
		var mu sync.Mutex // guards listed
		listed := map[string]bool{}
		b.api.failWith(func(verb, resource string) error {
			mu.Lock()
			defer mu.Unlock()
			if listed[resource] = listed[resource] || verb == "list"; !listed[resource] {
				return apierrors.NewResourceExpired("too old resource version")
			}
			return nil
		})
		after(11 * time.Second) // a pause of ours, and the informer's before its next list
		if u := b.store.Next(); u.Snapshot == nil || len(u.Snapshot.Gateways) != 2 {
			t.Errorf("not up to date after the outage: %+v", u)
		}
		if n := b.logged("Reading objects again"); n != 11 {
			t.Errorf("the recovery was told %d times", n)
		}
	})
}

func TestLiveStartsWithoutTheAPI(t *testing.T) {
	tests := map[string]error{
		"away":      fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED),
		"forbidden": apierrors.NewForbidden(crdResource.GroupResource(), "", errors.New("no")),
		"broken":    apierrors.NewInternalError(errors.New("no")),
	}
	for name, failure := range tests {
		t.Run(name, func(t *testing.T) {
			prepare := func(api *fakeAPI) { api.failWith(func(string, string) error { return failure }) }
			inBubble(t, ForController, prepare, func(b *liveBench) {
				after(10 * time.Minute)
				if b.isSynced() || signalled(b.store) {
					t.Fatal("synced without an API server")
				}
				b.api.failWith(nil)
				after(2 * time.Minute)
				if !b.isSynced() {
					t.Fatal("not synced after the API server came back")
				}
			})
		})
	}
}

func TestLiveFleet(t *testing.T) {
	inBubble(t, ForController, nil, func(b *liveBench) {
		u := b.store.Next()
		if u.Snapshot.CRDVersions == nil || len(u.Snapshot.CRDVersions) != 0 {
			t.Errorf("no CRDs: %v", u.Snapshot.CRDVersions)
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: "agent-n1", Labels: map[string]string{AgentLabel: "true"}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To("n1"), RenewTime: ptr.To(metav1.NewMicroTime(time.Unix(1, 0)))},
		}
		leases := b.api.core.CoordinationV1().Leases("portway-system")
		b.must(b.api.core.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}))
		b.must(leases.Create(t.Context(), lease, metav1.CreateOptions{}))
		b.must(b.api.own.reports.Create(t.Context(), &v1alpha1.NodeReport{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}))
		synctest.Wait()
		if u = b.store.Next(); u.Fleet == nil || u.Fleet.Nodes["n1"] == nil || u.Fleet.Leases["n1"] == nil || u.Fleet.Reports["n1"] == nil || u.Snapshot != nil {
			t.Fatalf("fleet: %+v", u)
		}
		before := u.Fleet
		lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(time.Unix(11, 0)))
		b.must(leases.Update(t.Context(), lease, metav1.UpdateOptions{}))
		synctest.Wait()
		if u = b.store.Next(); u.Snapshot != nil || u.Fleet == nil || u.Fleet.Leases["n1"].Spec.RenewTime.Unix() != 11 {
			t.Errorf("renewal: %+v", u)
		}
		if before.Leases["n1"].Spec.RenewTime.Unix() != 1 {
			t.Error("what was handed out changed")
		}
		b.must(nil, b.api.own.reports.Delete(t.Context(), "n1", metav1.DeleteOptions{}))
		synctest.Wait()
		if u = b.store.Next(); u.Fleet == nil || len(u.Fleet.Reports) != 0 {
			t.Errorf("removed report: %+v", u.Fleet)
		}

		crds, ok := b.api.metadata.Resource(crdResource).(metadatafake.MetadataClient)
		if !ok {
			t.Fatal("no fake")
		}
		for name, version := range map[string]string{"gateways.gateway.networking.k8s.io": "v1.6.3", "gateways.networking.istio.io": ""} {
			crd := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}}
			crd.APIVersion, crd.Kind = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
			crd.Annotations = map[string]string{consts.BundleVersionAnnotation: version}
			b.must(crds.CreateFake(crd, metav1.CreateOptions{}))
		}
		synctest.Wait()
		if diff := cmp.Diff(map[string]string{"gateways.gateway.networking.k8s.io": "v1.6.3"}, b.store.Next().Snapshot.CRDVersions); diff != "" {
			t.Errorf("CRDs (-want +got):\n%s", diff)
		}
	})
}

// TestLiveLooksAgainWhenCRDsChange: the controller need not wait for a poll.
func TestLiveLooksAgainWhenCRDsChange(t *testing.T) {
	prepare := func(api *fakeAPI) { api.serve(v1Group, "gatewayclasses", "gateways") }
	inBubble(t, ForController, prepare, func(b *liveBench) {
		after(time.Hour)
		b.api.serve(v1Group, "gatewayclasses", "gateways", "tcproutes")
		crds, _ := b.api.metadata.Resource(crdResource).(metadatafake.MetadataClient)
		crd := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "tcproutes.gateway.networking.k8s.io"}}
		crd.APIVersion, crd.Kind = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
		b.must(crds.CreateFake(crd, metav1.CreateOptions{}))
		synctest.Wait()
		if b.Served()["TCPRoute"] != "v1" {
			t.Errorf("served %v", b.Served())
		}
	})
}
