package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/metadata"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// fakeReports holds NodeReports as the API does: with revisions, conflicts and
// identities.
type fakeReports struct {
	mu      sync.Mutex // guards everything below
	held    map[string]*v1alpha1.NodeReport
	count   int
	writes  []string // "create n1", "update n1"
	looks   int      // reads of metadata only
	failure error
}

func newFakeReports() *fakeReports { return &fakeReports{held: map[string]*v1alpha1.NodeReport{}} }

func (f *fakeReports) notFound(name string) error {
	return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("nodereports").GroupResource(), name)
}

func (f *fakeReports) get(name string) (*v1alpha1.NodeReport, error) {
	switch held := f.held[name]; {
	case f.failure != nil:
		return nil, f.failure
	case held == nil:
		return nil, f.notFound(name)
	default:
		return held.DeepCopy(), nil
	}
}

func (f *fakeReports) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.NodeReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(name)
}

func (f *fakeReports) Create(_ context.Context, r *v1alpha1.NodeReport, _ metav1.CreateOptions) (*v1alpha1.NodeReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return nil, f.failure
	}
	r = r.DeepCopy()
	r.UID = types.UID(fmt.Sprint("uid-", f.count+1))
	return f.put("create", r), nil
}

func (f *fakeReports) Update(_ context.Context, r *v1alpha1.NodeReport, _ metav1.UpdateOptions) (*v1alpha1.NodeReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held, err := f.get(r.Name)
	switch {
	case err != nil:
		return nil, err
	case held.ResourceVersion != r.ResourceVersion:
		return nil, apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("nodereports").GroupResource(), r.Name, nil)
	}
	return f.put("update", r.DeepCopy()), nil
}

func (f *fakeReports) put(verb string, r *v1alpha1.NodeReport) *v1alpha1.NodeReport {
	f.count++
	r.ResourceVersion = fmt.Sprint(f.count)
	f.held[r.Name] = r
	f.writes = append(f.writes, verb+" "+r.Name)
	return r.DeepCopy()
}

func (f *fakeReports) List(context.Context, metav1.ListOptions) (*v1alpha1.NodeReportList, error) {
	return nil, f.notFound("")
}

func (f *fakeReports) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return nil, f.notFound("")
}

// edit changes a report as somebody else would; nil removes it.
func (f *fakeReports) edit(name string, change func(*v1alpha1.NodeReport)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if change == nil {
		delete(f.held, name)
		return
	}
	r := f.held[name].DeepCopy()
	change(r)
	f.count++
	r.ResourceVersion = fmt.Sprint(f.count)
	f.held[name] = r
}

// written returns the writes since the last call.
func (f *fakeReports) written() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.writes = nil }()
	return f.writes
}

func (f *fakeReports) report(name string) v1alpha1.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held[name] == nil {
		return v1alpha1.Report{}
	}
	return f.held[name].Report
}

// fakeMetadata is a client for the metadata of the same reports.
type fakeMetadata struct{ reports *fakeReports }

func (m fakeMetadata) Resource(schema.GroupVersionResource) metadata.Getter {
	return looking{reports: m.reports}
}

// looking reads metadata; nothing else of its Getter is called.
type looking struct {
	metadata.Getter
	reports *fakeReports
}

func (l looking) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*metav1.PartialObjectMetadata, error) {
	l.reports.mu.Lock()
	defer l.reports.mu.Unlock()
	l.reports.looks++
	r, err := l.reports.get(name)
	if err != nil {
		return nil, err
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: r.ObjectMeta}, nil
}

func (l looking) Delete(_ context.Context, name string, _ metav1.DeleteOptions, _ ...string) error {
	l.reports.mu.Lock()
	defer l.reports.mu.Unlock()
	if _, err := l.reports.get(name); err != nil {
		return err
	}
	delete(l.reports.held, name)
	l.reports.writes = append(l.reports.writes, "delete "+name)
	return nil
}

// fakeCluster is an API server with the Node "demo-node".
type fakeCluster struct {
	core    *fake.Clientset
	gateway *gatewayfake.Clientset
	reports *fakeReports
	own     *fakeOwn

	mu      sync.Mutex // guards everything below
	failure error      // of everything
	watches []watch.Interface
	watched map[string]bool // kinds that were watched
	expired map[string]bool // those whose next watch has to begin with a list
}

func newFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{
		core: fake.NewClientset(), gateway: gatewayfake.NewSimpleClientset(), reports: newFakeReports(), own: newFakeOwn(t),
		watched: map[string]bool{},
	}
	for f, tracker := range map[*clienttesting.Fake]clienttesting.ObjectTracker{
		&c.core.Fake: c.core.Tracker(), &c.gateway.Fake: c.gateway.Tracker(), &c.own.Fake: c.own.tracker,
	} {
		f.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			err := c.failed()
			return err != nil, nil, err
		})
		f.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			kind := action.GetResource().Resource
			switch {
			case c.failure != nil:
				return true, nil, c.failure
			case c.expired[kind]:
				delete(c.expired, kind)
				return true, nil, apierrors.NewResourceExpired("too old resource version")
			}
			c.watched[kind] = true
			w, err := tracker.Watch(action.GetResource(), action.GetNamespace())
			if by, ok := action.(clienttesting.WatchAction); ok && err == nil { // the tracker does not look at it
				w = watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
					o, ok := e.Object.(metav1.Object)
					return e, !ok || by.GetWatchRestrictions().Fields.Matches(fields.Set{metav1.ObjectNameField: o.GetName()})
				})
			}
			c.watches = append(c.watches, w)
			return true, w, err
		})
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "demo-node", UID: "uid-of-the-node"}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "demo-node"},
		{Type: corev1.NodeInternalIP, Address: nodeIP.String()},
	}
	if _, err := c.core.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *fakeCluster) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// fail makes every request fail, nil none. It ends all watches, and the events that
// they miss are not kept: the next of a kind has to begin with a list.
func (c *fakeCluster) fail(err error) {
	c.mu.Lock()
	c.failure = err
	for _, w := range c.watches {
		w.Stop()
	}
	c.watches, c.expired = nil, maps.Clone(c.watched)
	c.mu.Unlock()
	c.reports.mu.Lock()
	c.reports.failure = err
	c.reports.mu.Unlock()
}

func (c *fakeCluster) ServerResourcesForGroupVersionWithContext(_ context.Context, groupVersion string) (*metav1.APIResourceList, error) {
	if err := c.failed(); err != nil {
		return nil, err
	}
	list := &metav1.APIResourceList{GroupVersion: groupVersion}
	for _, r := range []string{"gatewayclasses", "gateways", "listenersets", "tcproutes", "udproutes", "referencegrants", "addresspools", "gatewayparameters"} {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: r})
	}
	return list, nil
}

// faked is what reads a kind of a fake clientset, none of which can list by watching.
type faked[L runtime.Object] struct{ cluster.Reader[L] }

func (faked[L]) IsWatchListSemanticsUnSupported() bool { return true }

func (c *fakeCluster) clients() cluster.Clients {
	const all = metav1.NamespaceAll
	v1 := c.gateway.GatewayV1()
	return cluster.Clients{
		Nodes:          c.core.CoreV1().Nodes(),
		Namespaces:     faked[*corev1.NamespaceList]{c.core.CoreV1().Namespaces()},
		Services:       faked[*corev1.ServiceList]{c.core.CoreV1().Services(all)},
		EndpointSlices: faked[*discoveryv1.EndpointSliceList]{c.core.DiscoveryV1().EndpointSlices(all)},
		Leases:         func(namespace string) cluster.Leases { return c.core.CoordinationV1().Leases(namespace) },

		GatewayClasses:  faked[*gatewayv1.GatewayClassList]{v1.GatewayClasses()},
		Gateways:        faked[*gatewayv1.GatewayList]{v1.Gateways(all)},
		ListenerSets:    faked[*gatewayv1.ListenerSetList]{v1.ListenerSets(all)},
		TCPRoutes:       faked[*gatewayv1.TCPRouteList]{v1.TCPRoutes(all)},
		UDPRoutes:       faked[*gatewayv1.UDPRouteList]{v1.UDPRoutes(all)},
		ReferenceGrants: faked[*gatewayv1.ReferenceGrantList]{v1.ReferenceGrants(all)},

		NodeReports: c.reports, AddressPools: c.own.pools(), GatewayParameters: c.own.parameters(all),
		Metadata: fakeMetadata{c.reports}, Discovery: c,
	}
}

// relist makes the Node list other addresses.
func (c *fakeCluster) relist(t *testing.T, addresses ...netip.Addr) {
	t.Helper()
	node, err := c.core.CoreV1().Nodes().Get(t.Context(), "demo-node", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = nil
	for _, addr := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	if _, err := c.core.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createGuide creates what the guide's first example has.
func (c *fakeCluster) createGuide(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "portway"}}
	class.Spec.ControllerName = topology.ControllerName
	must(c.gateway.GatewayV1().GatewayClasses().Create(ctx, class, metav1.CreateOptions{}))
	gateway := &gatewayv1.Gateway{ObjectMeta: meta("web")}
	gateway.Spec.GatewayClassName = "portway"
	gateway.Spec.Listeners = []gatewayv1.Listener{{
		Name: "foo", Protocol: gatewayv1.TCPProtocolType, Port: 8080,
		AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: ptr.To(gatewayv1.NamespacesFromSame)}},
	}}
	must(c.gateway.GatewayV1().Gateways("default").Create(ctx, gateway, metav1.CreateOptions{}))
	route := &gatewayv1.TCPRoute{ObjectMeta: meta("r")}
	route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "web"}}
	route.Spec.Rules = []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{
		BackendObjectReference: gatewayv1.BackendObjectReference{Name: "s", Port: ptr.To(gatewayv1.PortNumber(80))},
	}}}}
	must(c.gateway.GatewayV1().TCPRoutes("default").Create(ctx, route, metav1.CreateOptions{}))
	must(c.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	service := &corev1.Service{ObjectMeta: meta("s")}
	service.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	must(c.core.CoreV1().Services("default").Create(ctx, service, metav1.CreateOptions{}))
	must(c.core.DiscoveryV1().EndpointSlices("default").Create(ctx, endpointSlice("10.0.0.1"), metav1.CreateOptions{}))
}

func endpointSlice(addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name = "default", "s-1"
	s.Labels = map[string]string{discoveryv1.LabelServiceName: "s"}
	s.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To(int32(6000))}}
	for _, addr := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}})
	}
	return s
}
