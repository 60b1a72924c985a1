package cluster

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2/ktesting"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1alpha2 "sigs.k8s.io/gateway-api/apis/v1alpha2"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	gatewayfake "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/fake"

	"github.com/portway-dev/portway/api/v1alpha1"
)

// fakeAPI is an API server made of fake clientsets.
type fakeAPI struct {
	core     *fake.Clientset
	gateway  *gatewayfake.Clientset
	metadata *metadatafake.FakeMetadataClient
	own      *fakeOwn

	mu        sync.Mutex // guards everything below
	served    map[string][]string
	fail      func(verb, resource string) error
	asked     []string // "verb resource", lists and watches
	discovers int
	watches   map[string][]apiwatch.Interface
}

// fakeOwn is the clients for our own kinds.
type fakeOwn struct {
	clienttesting.Fake
	tracker clienttesting.ObjectTracker
	reports fakeClient[*v1alpha1.NodeReport, *v1alpha1.NodeReportList]
	pools   fakeClient[*v1alpha1.AddressPool, *v1alpha1.AddressPoolList]
}

type fakeClient[P gentypeObject, L runtime.Object] struct {
	*gentype.FakeClientWithList[P, L]
}

type gentypeObject interface {
	metav1.Object
	runtime.Object
}

func (fakeClient[P, L]) IsWatchListSemanticsUnSupported() bool { return true }

// parameters are those of a namespace, or of all.
func (f *fakeOwn) parameters(namespace string) fakeClient[*v1alpha1.GatewayParameters, *v1alpha1.GatewayParametersList] {
	return fakeClient[*v1alpha1.GatewayParameters, *v1alpha1.GatewayParametersList]{gentype.NewFakeClientWithList(
		&f.Fake, namespace, gatewayParametersResource, v1alpha1.GroupVersion.WithKind("GatewayParameters"),
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

const (
	v1Group  = "gateway.networking.k8s.io/v1"
	oldGroup = "gateway.networking.k8s.io/v1alpha2"
	ownGroup = "portway.dev/v1alpha1"
)

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	api := &fakeAPI{
		core:    fake.NewClientset(),
		gateway: gatewayfake.NewSimpleClientset(),
		watches: map[string][]apiwatch.Interface{},
		served: map[string][]string{
			v1Group:  {"gatewayclasses", "gateways", "listenersets", "tcproutes", "udproutes", "referencegrants"},
			ownGroup: {"addresspools", "gatewayparameters", "nodereports"},
		},
	}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	api.metadata = metadatafake.NewSimpleMetadataClient(scheme)
	api.own = newFakeOwn(t)
	for _, f := range []struct {
		*clienttesting.Fake
		tracker clienttesting.ObjectTracker
	}{
		{&api.core.Fake, api.core.Tracker()},
		{&api.gateway.Fake, api.gateway.Tracker()},
		{&api.metadata.Fake, api.metadata.Tracker()},
		{&api.own.Fake, api.own.tracker},
	} {
		f.PrependReactor("list", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
			err := api.ask(action)
			return err != nil, nil, err
		})
		f.PrependWatchReactor("*", func(action clienttesting.Action) (bool, apiwatch.Interface, error) {
			if err := api.ask(action); err != nil {
				return true, nil, err
			}
			w, err := f.tracker.Watch(action.GetResource(), action.GetNamespace())
			api.mu.Lock()
			defer api.mu.Unlock()
			api.watches[name(action)] = append(api.watches[name(action)], w)
			return true, w, err
		})
	}
	return api
}

// faked is what reads a kind of a fake clientset, none of which can list by watching.
type faked[L runtime.Object] struct{ Reader[L] }

func (faked[L]) IsWatchListSemanticsUnSupported() bool { return true }

type fakeNodes struct{ Nodes }

func (fakeNodes) IsWatchListSemanticsUnSupported() bool { return true }

type fakeLeases struct{ Leases }

func (fakeLeases) IsWatchListSemanticsUnSupported() bool { return true }

func (api *fakeAPI) clients() Clients {
	const all = metav1.NamespaceAll
	v1, v1beta1, v1alpha2 := api.gateway.GatewayV1(), api.gateway.GatewayV1beta1(), api.gateway.GatewayV1alpha2()
	return Clients{
		Nodes:          fakeNodes{api.core.CoreV1().Nodes()},
		Namespaces:     faked[*corev1.NamespaceList]{api.core.CoreV1().Namespaces()},
		Services:       faked[*corev1.ServiceList]{api.core.CoreV1().Services(all)},
		EndpointSlices: faked[*discoveryv1.EndpointSliceList]{api.core.DiscoveryV1().EndpointSlices(all)},
		Leases:         func(namespace string) Leases { return fakeLeases{api.core.CoordinationV1().Leases(namespace)} },
		CRDs:           faked[*metav1.PartialObjectMetadataList]{api.metadata.Resource(crdResource)},

		GatewayClasses:         faked[*gatewayv1.GatewayClassList]{v1.GatewayClasses()},
		Gateways:               faked[*gatewayv1.GatewayList]{v1.Gateways(all)},
		ListenerSets:           faked[*gatewayv1.ListenerSetList]{v1.ListenerSets(all)},
		TCPRoutes:              faked[*gatewayv1.TCPRouteList]{v1.TCPRoutes(all)},
		TCPRoutesV1alpha2:      faked[*gatewayv1alpha2.TCPRouteList]{v1alpha2.TCPRoutes(all)},
		UDPRoutes:              faked[*gatewayv1.UDPRouteList]{v1.UDPRoutes(all)},
		UDPRoutesV1alpha2:      faked[*gatewayv1alpha2.UDPRouteList]{v1alpha2.UDPRoutes(all)},
		ReferenceGrants:        faked[*gatewayv1.ReferenceGrantList]{v1.ReferenceGrants(all)},
		ReferenceGrantsV1beta1: faked[*gatewayv1beta1.ReferenceGrantList]{v1beta1.ReferenceGrants(all)},

		NodeReports: api.own.reports, AddressPools: api.own.pools, GatewayParameters: api.own.parameters(all),
		Metadata: api.metadata, Discovery: api,
	}
}

func newFakeOwn(t *testing.T) *fakeOwn {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	own := &fakeOwn{tracker: clienttesting.NewObjectTracker(scheme, serializer.NewCodecFactory(scheme).UniversalDecoder())}
	own.AddReactor("*", "*", clienttesting.ObjectReaction(own.tracker))
	own.reports.FakeClientWithList = gentype.NewFakeClientWithList(&own.Fake, "", nodeReportResource, v1alpha1.GroupVersion.WithKind("NodeReport"),
		func() *v1alpha1.NodeReport { return &v1alpha1.NodeReport{} },
		func() *v1alpha1.NodeReportList { return &v1alpha1.NodeReportList{} },
		func(to, from *v1alpha1.NodeReportList) { to.ListMeta = from.ListMeta },
		func(list *v1alpha1.NodeReportList) []*v1alpha1.NodeReport { return gentype.ToPointerSlice(list.Items) },
		func(list *v1alpha1.NodeReportList, items []*v1alpha1.NodeReport) {
			list.Items = gentype.FromPointerSlice(items)
		})
	own.pools.FakeClientWithList = gentype.NewFakeClientWithList(&own.Fake, "", addressPoolResource, v1alpha1.GroupVersion.WithKind("AddressPool"),
		func() *v1alpha1.AddressPool { return &v1alpha1.AddressPool{} },
		func() *v1alpha1.AddressPoolList { return &v1alpha1.AddressPoolList{} },
		func(to, from *v1alpha1.AddressPoolList) { to.ListMeta = from.ListMeta },
		func(list *v1alpha1.AddressPoolList) []*v1alpha1.AddressPool {
			return gentype.ToPointerSlice(list.Items)
		},
		func(list *v1alpha1.AddressPoolList, items []*v1alpha1.AddressPool) {
			list.Items = gentype.FromPointerSlice(items)
		})
	return own
}

func name(action clienttesting.Action) string {
	r := action.GetResource()
	if r.Group == "" {
		return r.Version + " " + r.Resource
	}
	return r.Group + "/" + r.Version + " " + r.Resource
}

// ask notes a request and answers as told.
func (api *fakeAPI) ask(action clienttesting.Action) error {
	api.mu.Lock()
	fail := api.fail
	selector := ""
	switch a := action.(type) {
	case clienttesting.ListActionImpl:
		selector = a.ListOptions.LabelSelector
	case clienttesting.WatchActionImpl:
		selector = a.ListOptions.LabelSelector
	}
	asked := action.GetVerb() + " " + name(action)
	if action.GetNamespace() != "" {
		asked += " in " + action.GetNamespace()
	}
	if selector != "" {
		asked += " where " + selector
	}
	api.asked = append(api.asked, asked)
	served := true
	r := action.GetResource()
	if strings.Contains(r.Group, "gateway") || r.Group == v1alpha1.GroupVersion.Group {
		served = slices.Contains(api.served[r.GroupVersion().String()], r.Resource)
	}
	api.mu.Unlock()
	if fail != nil {
		if err := fail(action.GetVerb(), r.Resource); err != nil {
			return err
		}
	}
	if !served {
		return apierrors.NewNotFound(schema.GroupResource{Group: r.Group, Resource: r.Resource}, "")
	}
	return nil
}

func (api *fakeAPI) ServerResourcesForGroupVersionWithContext(_ context.Context, groupVersion string) (*metav1.APIResourceList, error) {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.discovers++
	if api.fail != nil {
		if err := api.fail("discover", groupVersion); err != nil {
			return nil, err
		}
	}
	resources, ok := api.served[groupVersion]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, groupVersion)
	}
	list := &metav1.APIResourceList{GroupVersion: groupVersion}
	for _, r := range resources {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: r}, metav1.APIResource{Name: r + "/status"})
	}
	return list, nil
}

// serve changes what is served; watches of what is no longer served end.
func (api *fakeAPI) serve(groupVersion string, resources ...string) {
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, r := range api.served[groupVersion] {
		if slices.Contains(resources, r) {
			continue
		}
		for _, w := range api.watches[groupVersion+" "+r] {
			w.Stop()
		}
	}
	api.served[groupVersion] = resources
	if len(resources) == 0 {
		delete(api.served, groupVersion)
	}
}

func (api *fakeAPI) failWith(fail func(verb, resource string) error) {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.fail = fail
}

// cut ends all watches.
func (api *fakeAPI) cut() {
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, watches := range api.watches {
		for _, w := range watches {
			w.Stop()
		}
	}
	clear(api.watches)
}

func (api *fakeAPI) requests() []string {
	api.mu.Lock()
	defer api.mu.Unlock()
	all := slices.Clone(api.asked)
	slices.Sort(all)
	return slices.Compact(all)
}

// liveBench is a Live on a fakeAPI, in a bubble with a clock of its own.
type liveBench struct {
	*Live
	t     *testing.T
	api   *fakeAPI
	store *Store
	logs  *ktesting.BufferTL
}

// inBubble runs a test with a Live that begins once prepare is done.
func inBubble(t *testing.T, role Role, prepare func(*fakeAPI), test func(*liveBench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &liveBench{t: t, api: newFakeAPI(t), store: NewStore(), logs: &ktesting.BufferTL{}}
		if prepare != nil {
			prepare(b.api)
		}
		config := DefaultLiveConfig()
		config.Role, config.Namespace, config.Jitter = role, "portway-system", 0
		config.Clients = b.api.clients()
		b.Live = NewLive(config, b.store)
		ctx, cancel := context.WithCancel(klogContext(b.logs))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			b.Run(ctx)
		}()
		t.Cleanup(func() {
			cancel()
			<-ended
		})
		synctest.Wait()
		test(b)
	})
}
