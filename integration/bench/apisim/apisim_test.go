package apisim

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/cluster/clientset"
)

// start returns a server and clients of it as our programs have them.
func start(t *testing.T) (*Server, clientset.Clients) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	config, err := clientcmd.RESTConfigFromKubeConfig(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.UserAgent = "tester/1"
	clients, err := clientset.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s, clients
}

func service(name, label string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": label}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func newGateway(name string) *gatewayv1.Gateway {
	return &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: gatewayv1.GatewaySpec{GatewayClassName: "portway"}}
}

func must0(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until what is got is wanted.
func eventually[T any](t *testing.T, what string, want T, got func() T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		diff := cmp.Diff(want, got())
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// TestInformers: client-go's own follow what happens to objects, of kinds in protobuf and in
// JSON, whether they list first or list by watching.
func TestInformers(t *testing.T) {
	kinds := map[string]struct {
		example Object
		make    func(name, label string) Object
		source  func(clientset.Clients) *cache.ListWatch
	}{
		"protobuf": {&corev1.Service{}, func(name, label string) Object { return service(name, label) }, func(c clientset.Clients) *cache.ListWatch {
			return cache.NewListWatchFromClient(c.Core.CoreV1().RESTClient(), "services", metav1.NamespaceAll, fields.Everything())
		}},
		"JSON": {&gatewayv1.Gateway{}, func(name, label string) Object {
			g := newGateway(name)
			g.Labels = map[string]string{"app": label}
			return g
		}, func(c clientset.Clients) *cache.ListWatch {
			return cache.NewListWatchFromClient(c.Gateway.GatewayV1().RESTClient(), "gateways", metav1.NamespaceAll, fields.Everything())
		}},
	}
	for name, kind := range kinds {
		for _, byWatching := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/by watching %t", name, byWatching), func(t *testing.T) {
				s, clients := start(t)
				must0(t, s.Put(kind.make("old", "a"), kind.make("gone", "a")))
				var source cache.ListerWatcher = kind.source(clients)
				if !byWatching {
					source = noWatchList{source}
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				informer := cache.NewSharedIndexInformer(source, kind.example, 0, nil)
				done := make(chan struct{})
				go func() { defer close(done); informer.RunWithContext(ctx) }()
				defer func() { stop(); <-done }()
				held := func() map[string]string {
					m := map[string]string{}
					for _, o := range informer.GetStore().List() {
						o := o.(Object)
						m[o.GetName()] = o.GetLabels()["app"]
					}
					return m
				}
				eventually(t, "first list", map[string]string{"old": "a", "gone": "a"}, held)
				must0(t, s.Put(kind.make("old", "b"), kind.make("new", "c")))
				must0(t, s.Delete(kind.make("gone", "")))
				eventually(t, "after changes", map[string]string{"old": "b", "new": "c"}, held)
				lists := 0
				for request, n := range s.Requests() {
					if request.Verb == "list" {
						lists += n
					}
				}
				if want := map[bool]int{true: 0, false: 1}[byWatching]; lists != want {
					t.Errorf("%d lists, want %d", lists, want)
				}
			})
		}
	}
}

// noWatchList has a reflector list first.
type noWatchList struct{ cache.ListerWatcher }

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

func TestWatchGoesOn(t *testing.T) {
	s, clients := start(t)
	must0(t, s.Put(service("a", "1")))
	services := clients.Core.CoreV1().Services("default")
	list, err := services.List(t.Context(), metav1.ListOptions{})
	must0(t, err)
	if len(list.Items) != 1 || list.Items[0].UID == "" || list.Items[0].Generation != 1 {
		t.Fatalf("list %+v", list.Items)
	}
	must0(t, s.Put(service("a", "2"), service("b", "2")))
	must0(t, s.Put(service("a", "3")))
	w, err := services.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "app=2"})
	must0(t, err)
	defer w.Stop()
	var got []string
	for range 3 {
		e := <-w.ResultChan()
		got = append(got, string(e.Type)+" "+e.Object.(*corev1.Service).Name)
	}
	// What no longer matches is deleted to this watch.
	if diff := cmp.Diff([]string{"ADDED a", "ADDED b", "DELETED a"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	for range 2*maxEvents + 1 {
		must0(t, s.Put(service("a", "4")))
	}
	late, err := services.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err == nil {
		late.Stop()
	}
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("too old: %v", err)
	}
}

func TestWrites(t *testing.T) {
	s, clients := start(t)
	leases := clients.Core.CoordinationV1().Leases("default")
	if _, err := leases.Get(t.Context(), "l", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
	lease, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}}, metav1.CreateOptions{})
	must0(t, err)
	if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	same, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{})
	must0(t, err)
	if same.ResourceVersion != lease.ResourceVersion {
		t.Error("an update that changes nothing makes a new version")
	}
	lease.Labels = map[string]string{"a": "b"}
	_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
	must0(t, err)
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}

	must0(t, s.Put(newGateway("g")))
	gateways := clients.Gateway.GatewayV1().Gateways("default")
	g, err := gateways.Get(t.Context(), "g", metav1.GetOptions{})
	must0(t, err)
	g.Spec.GatewayClassName = "other"
	g.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue}}
	g, err = gateways.UpdateStatus(t.Context(), g, metav1.UpdateOptions{FieldManager: "us"})
	must0(t, err)
	if g.Spec.GatewayClassName != "portway" || len(g.Status.Conditions) != 1 || g.Generation != 1 || len(g.ManagedFields) != 1 || g.ManagedFields[0].Manager != "us" {
		t.Errorf("status written: %+v", g)
	}
	g, err = gateways.Patch(t.Context(), "g", types.MergePatchType, []byte(`{"metadata":{"finalizers":["f"]},"spec":{"gatewayClassName":"x"}}`), metav1.PatchOptions{})
	must0(t, err)
	if g.Spec.GatewayClassName != "x" || g.Generation != 2 || len(g.Finalizers) != 1 || len(g.Status.Conditions) != 1 {
		t.Errorf("patched: %+v", g)
	}
	meta, err := clients.Metadata.Resource(gateway.WithResource("gateways")).Namespace("default").Get(t.Context(), "g", metav1.GetOptions{})
	must0(t, err)
	if meta.UID != g.UID || meta.ResourceVersion != g.ResourceVersion {
		t.Errorf("metadata %+v", meta)
	}
}

func TestCounts(t *testing.T) {
	s, clients := start(t)
	must0(t, s.Put(newGateway("g")))
	gateways := clients.Gateway.GatewayV1().Gateways("default")
	g, err := gateways.Get(t.Context(), "g", metav1.GetOptions{})
	must0(t, err)
	_, err = gateways.UpdateStatus(t.Context(), g, metav1.UpdateOptions{})
	must0(t, err)
	w, err := gateways.Watch(t.Context(), metav1.ListOptions{})
	must0(t, err)
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("event %+v", e)
	}
	w.Stop()
	want := map[Request]int{{"tester", "get", "gateways"}: 1, {"tester", "update", "gateways/status"}: 1, {"tester", "watch", "gateways"}: 1}
	if diff := cmp.Diff(want, s.Requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if n := s.WatchBytes()[Stream{"tester", "gateways"}]; n < 100 || n > 1000 {
		t.Errorf("%d bytes", n)
	}
	list, err := clients.Discovery.ServerResourcesForGroupVersionWithContext(t.Context(), "portway.dev/v1alpha1")
	must0(t, err)
	if len(list.APIResources) != 3 {
		t.Errorf("discovered %+v", list.APIResources)
	}
	if _, err := clients.Discovery.ServerResourcesForGroupVersionWithContext(t.Context(), "gateway.networking.k8s.io/v1alpha2"); !apierrors.IsNotFound(err) {
		t.Errorf("a version that is not served: %v", err)
	}
}
