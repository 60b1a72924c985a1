package pod

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// objectKey names a ConfigMap or a Secret that a pod refers to.
type objectKey struct {
	resource        string // configmaps or secrets
	namespace, name string
}

// objects watches the ConfigMaps and Secrets that the pods of this node use, each
// by a watch of its own: a node may not see any others.
type objects struct {
	client kubernetes.Interface

	mu      sync.Mutex
	watched map[objectKey]*watchedObject
}

type watchedObject struct {
	store     cache.Store
	informer  cache.Controller
	stop      context.CancelFunc
	listeners map[*worker]bool
}

func newObjects(client kubernetes.Interface) *objects {
	return &objects{client: client, watched: map[objectKey]*watchedObject{}}
}

// get returns an object, nil when it does not exist, and wakes the worker at each
// of its changes until release.
func (o *objects) get(ctx context.Context, key objectKey, w *worker) (runtime.Object, error) {
	o.mu.Lock()
	watched, ok := o.watched[key]
	if !ok {
		watched = o.watch(key)
		o.watched[key] = watched
	}
	watched.listeners[w] = true
	o.mu.Unlock()
	if !cache.WaitForCacheSync(ctx.Done(), watched.informer.HasSynced) {
		return nil, fmt.Errorf("read %s %s/%s: %w", key.resource, key.namespace, key.name, ctx.Err())
	}
	found, ok, err := watched.store.GetByKey(key.namespace + "/" + key.name)
	if err != nil || !ok {
		return nil, err
	}
	object, ok := found.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T in the store of %s", found, key.resource)
	}
	return object, nil
}

// release ends what a worker watches.
func (o *objects) release(w *worker) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, watched := range o.watched {
		delete(watched.listeners, w)
		if len(watched.listeners) == 0 {
			watched.stop()
			delete(o.watched, key)
		}
	}
}

// watch needs mu.
func (o *objects) watch(key objectKey) *watchedObject {
	// The watch outlives the worker that asked for it first.
	ctx, stop := context.WithCancel(context.Background())
	watched := &watchedObject{stop: stop, listeners: map[*worker]bool{}}
	changed := func(any) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for w := range watched.listeners {
			w.wakeUp()
		}
	}
	var kind runtime.Object = &corev1.ConfigMap{}
	if key.resource == "secrets" {
		kind = &corev1.Secret{}
	}
	watched.store, watched.informer = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewFilteredListWatchFromClient(o.client.CoreV1().RESTClient(), key.resource, key.namespace, func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", key.name).String()
		}),
		ObjectType: kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: changed, UpdateFunc: func(_, object any) { changed(object) }, DeleteFunc: changed,
		},
	})
	go watched.informer.RunWithContext(ctx)
	return watched
}

// data returns what a ConfigMap or a Secret holds; found is false if there is none.
func (o *objects) data(ctx context.Context, key objectKey, w *worker) (data map[string][]byte, found bool, err error) {
	object, err := o.get(ctx, key, w)
	if err != nil || object == nil {
		return nil, false, err
	}
	data = map[string][]byte{}
	switch object := object.(type) {
	case *corev1.ConfigMap:
		for name, value := range object.Data {
			data[name] = []byte(value)
		}
		for name, value := range object.BinaryData {
			data[name] = value
		}
	case *corev1.Secret:
		data = object.Data
	}
	return data, true, nil
}
