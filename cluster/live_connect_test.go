package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	restwatch "k8s.io/client-go/rest/watch"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	gatewayclient "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned"
	gatewayscheme "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/scheme"
)

// wire is an API server that answers as told and notes what it is asked.
type wire struct {
	scheme *runtime.Scheme
	codecs serializer.CodecFactory

	mu     sync.Mutex // guards everything below
	answer runtime.Object
	asked  []string
}

func newWire(t *testing.T) (*wire, *rest.Config) {
	t.Helper()
	w := &wire{scheme: runtime.NewScheme()}
	if err := errors.Join(kubescheme.AddToScheme(w.scheme), gatewayscheme.AddToScheme(w.scheme)); err != nil {
		t.Fatal(err)
	}
	w.codecs = serializer.NewCodecFactory(w.scheme)
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	return w, &rest.Config{Host: server.URL, QPS: -1}
}

func (w *wire) ServeHTTP(response http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	w.asked = append(w.asked, fmt.Sprintf("%s %s\naccept %s\n%s %q", r.Method, r.URL, r.Header.Get("Accept"), r.Header.Get("Content-Type"), body))
	accepted, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	accepted, _, _ = strings.Cut(accepted, ";")
	info, known := runtime.SerializerInfoForMediaType(w.codecs.SupportedMediaTypes(), accepted)
	if err != nil || !known {
		response.WriteHeader(http.StatusNotAcceptable)
		return
	}
	response.Header().Set("Content-Type", info.MediaType)
	if status, ok := w.answer.(*metav1.Status); ok {
		response.WriteHeader(int(status.Code))
	}
	if r.URL.Query().Get("watch") == "" {
		_ = info.Serializer.Encode(w.typed(w.answer), response)
		return
	}
	frames := streaming.NewEncoder(info.StreamSerializer.NewFrameWriter(response), info.StreamSerializer.Serializer)
	_ = restwatch.NewEncoder(frames, info.Serializer).Encode(&apiwatch.Event{Type: apiwatch.Added, Object: w.typed(w.answer)})
}

// typed is an object that says of which kind it is.
func (w *wire) typed(o runtime.Object) runtime.Object {
	kinds, _, err := w.scheme.ObjectKinds(o)
	if err != nil {
		return o
	}
	o = o.DeepCopyObject()
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	return o
}

// exchange makes one request, and returns what was asked and what was understood.
func (w *wire) exchange(answer runtime.Object, do func() (any, error)) string {
	w.mu.Lock()
	w.answer, w.asked = answer, nil
	w.mu.Unlock()
	got, err := do()
	w.mu.Lock()
	defer w.mu.Unlock()
	text, _ := json.Marshal(got)
	return fmt.Sprintf("%s\n%s\nerror %v, not found %v", strings.Join(w.asked, "\n"), text, err, apierrors.IsNotFound(err))
}

// compare has both clients make the same request.
func (w *wire) compare(t *testing.T, what string, answer runtime.Object, ours, theirs func() (any, error)) {
	t.Helper()
	want, got := w.exchange(answer, theirs), w.exchange(answer, ours)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-client-go +ours):\n%s", what, diff)
	}
}

// compareReaders has both list and watch a kind, and be refused.
func compareReaders[L runtime.Object](t *testing.T, w *wire, list L, ours, theirs Reader[L]) {
	t.Helper()
	items, err := meta.ExtractList(list)
	if err != nil || len(items) != 1 {
		t.Fatalf("%d items in %T, error %v", len(items), list, err)
	}
	options := metav1.ListOptions{LabelSelector: "a=b", ResourceVersion: "7", SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true}
	asks := func(r Reader[L]) (func() (any, error), func() (any, error)) {
		return func() (any, error) { return r.List(t.Context(), options) },
			func() (any, error) {
				watch, err := r.Watch(t.Context(), options)
				if err != nil {
					return nil, err
				}
				defer watch.Stop()
				return <-watch.ResultChan(), nil
			}
	}
	ourList, ourWatch := asks(ours)
	theirList, theirWatch := asks(theirs)
	gone := apierrors.NewNotFound(schema.GroupResource{}, "x").Status()
	expired := apierrors.NewResourceExpired("too old").Status()
	w.compare(t, fmt.Sprintf("list %T", list), list, ourList, theirList)
	w.compare(t, fmt.Sprintf("list %T, refused", list), &gone, ourList, theirList)
	w.compare(t, fmt.Sprintf("watch %T", list), items[0], ourWatch, theirWatch)
	w.compare(t, fmt.Sprintf("watch %T, refused", list), &expired, ourWatch, theirWatch)
	if got := w.exchange(items[0], ourWatch); !strings.Contains(got, `"name":"o"`) {
		t.Errorf("watch %T: nothing was understood of\n%s", list, got)
	}
}

// TestClientsAreAsClientsets: what our clients send and understand is what client-go's
// clientsets do, byte by byte.
func TestClientsAreAsClientsets(t *testing.T) {
	w, config := newWire(t)
	c, err := NewClients(config)
	if err != nil {
		t.Fatal(err)
	}
	core, err1 := kubernetes.NewForConfig(Binary(Shared(config)))
	gateway, err2 := gatewayclient.NewForConfig(Shared(config))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	const all = metav1.NamespaceAll
	o := metav1.ObjectMeta{Namespace: "n", Name: "o", Labels: map[string]string{"a": "b"}, ResourceVersion: "7"}
	lease := coordinationv1.Lease{ObjectMeta: o, Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("h"), RenewTime: ptr.To(metav1.NewMicroTime(time.Unix(1, 2000)))}}
	ours, theirs := c.Leases("n"), core.CoordinationV1().Leases("n")
	v1, v1beta1, v1alpha2 := gateway.GatewayV1(), gateway.GatewayV1beta1(), gateway.GatewayV1alpha2()

	compareReaders(t, w, &corev1.NodeList{Items: []corev1.Node{{ObjectMeta: o}}}, Reader[*corev1.NodeList](c.Nodes), Reader[*corev1.NodeList](core.CoreV1().Nodes()))
	compareReaders(t, w, &corev1.NamespaceList{Items: []corev1.Namespace{{ObjectMeta: o}}}, c.Namespaces, Reader[*corev1.NamespaceList](core.CoreV1().Namespaces()))
	compareReaders(t, w, &corev1.ServiceList{Items: []corev1.Service{{ObjectMeta: o}}}, c.Services, Reader[*corev1.ServiceList](core.CoreV1().Services(all)))
	compareReaders(t, w, &discoveryv1.EndpointSliceList{Items: []discoveryv1.EndpointSlice{{ObjectMeta: o}}},
		c.EndpointSlices, Reader[*discoveryv1.EndpointSliceList](core.DiscoveryV1().EndpointSlices(all)))
	compareReaders(t, w, &coordinationv1.LeaseList{Items: []coordinationv1.Lease{lease}}, Reader[*coordinationv1.LeaseList](ours), Reader[*coordinationv1.LeaseList](theirs))
	compareReaders(t, w, &gatewayv1.GatewayClassList{Items: []gatewayv1.GatewayClass{{ObjectMeta: o}}}, c.GatewayClasses, Reader[*gatewayv1.GatewayClassList](v1.GatewayClasses()))
	compareReaders(t, w, &gatewayv1.GatewayList{Items: []gatewayv1.Gateway{{ObjectMeta: o}}}, c.Gateways, Reader[*gatewayv1.GatewayList](v1.Gateways(all)))
	compareReaders(t, w, &gatewayv1.ListenerSetList{Items: []gatewayv1.ListenerSet{{ObjectMeta: o}}}, c.ListenerSets, Reader[*gatewayv1.ListenerSetList](v1.ListenerSets(all)))
	compareReaders(t, w, &gatewayv1.TCPRouteList{Items: []gatewayv1.TCPRoute{{ObjectMeta: o}}}, c.TCPRoutes, Reader[*gatewayv1.TCPRouteList](v1.TCPRoutes(all)))
	compareReaders(t, w, &gatewayv1alpha2.TCPRouteList{Items: []gatewayv1alpha2.TCPRoute{{ObjectMeta: o}}},
		c.TCPRoutesV1alpha2, Reader[*gatewayv1alpha2.TCPRouteList](v1alpha2.TCPRoutes(all)))
	compareReaders(t, w, &gatewayv1.UDPRouteList{Items: []gatewayv1.UDPRoute{{ObjectMeta: o}}}, c.UDPRoutes, Reader[*gatewayv1.UDPRouteList](v1.UDPRoutes(all)))
	compareReaders(t, w, &gatewayv1alpha2.UDPRouteList{Items: []gatewayv1alpha2.UDPRoute{{ObjectMeta: o}}},
		c.UDPRoutesV1alpha2, Reader[*gatewayv1alpha2.UDPRouteList](v1alpha2.UDPRoutes(all)))
	compareReaders(t, w, &gatewayv1.ReferenceGrantList{Items: []gatewayv1.ReferenceGrant{{ObjectMeta: o}}},
		c.ReferenceGrants, Reader[*gatewayv1.ReferenceGrantList](v1.ReferenceGrants(all)))
	compareReaders(t, w, &gatewayv1beta1.ReferenceGrantList{Items: []gatewayv1beta1.ReferenceGrant{{ObjectMeta: o}}},
		c.ReferenceGrantsV1beta1, Reader[*gatewayv1beta1.ReferenceGrantList](v1beta1.ReferenceGrants(all)))

	var get metav1.GetOptions
	w.compare(t, "get Node", &corev1.Node{ObjectMeta: o},
		func() (any, error) { return c.Nodes.Get(t.Context(), "o", get) },
		func() (any, error) { return core.CoreV1().Nodes().Get(t.Context(), "o", get) })
	writes := func(l Leases) map[string]func() (any, error) {
		return map[string]func() (any, error){
			"get Lease":    func() (any, error) { return l.Get(t.Context(), "o", get) },
			"create Lease": func() (any, error) { return l.Create(t.Context(), &lease, metav1.CreateOptions{}) },
			"update Lease": func() (any, error) { return l.Update(t.Context(), &lease, metav1.UpdateOptions{}) },
			"delete Lease": func() (any, error) { return nil, l.Delete(t.Context(), "o", metav1.DeleteOptions{}) },
		}
	}
	for what, do := range writes(ours) {
		w.compare(t, what, &lease, do, writes(theirs)[what])
	}
}

// TestDiscovery: one version of one group is asked for, and that it is not served is an answer.
func TestDiscovery(t *testing.T) {
	w, config := newWire(t)
	c, err := NewClients(config)
	if err != nil {
		t.Fatal(err)
	}
	list := &metav1.APIResourceList{GroupVersion: v1Group, APIResources: []metav1.APIResource{{Name: "gateways"}, {Name: "gateways/status"}}}
	ask := func() (any, error) {
		return c.Discovery.ServerResourcesForGroupVersionWithContext(t.Context(), v1Group)
	}
	if got := w.exchange(list, ask); !strings.HasPrefix(got, "GET /apis/"+v1Group+"\n") || !strings.Contains(got, `"gateways/status"`) {
		t.Errorf("served: %s", got)
	}
	gone := apierrors.NewNotFound(schema.GroupResource{}, "x").Status()
	if got := w.exchange(&gone, ask); !strings.HasSuffix(got, "not found true") {
		t.Errorf("not served: %s", got)
	}
}
