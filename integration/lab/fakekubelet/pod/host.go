package pod

import (
	"context"
	"net/netip"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Config is what the pods of a node are run with.
type Config struct {
	Client    kubernetes.Interface
	Node      string
	Addresses []netip.Addr   // of the node, IPv4 first
	BootID    string         // what the kernel tells pods of this boot of the node
	Ranges    []netip.Prefix // pod addresses, one range per family, same order
	APIServer netip.AddrPort // what pods find in KUBERNETES_SERVICE_HOST and _PORT
	Dir       string         // logs, volumes and what else is written
	Images    Images
}

// Host runs the pods of one node.
type Host struct {
	Config
	objects *objects

	mu        sync.Mutex
	workers   map[types.UID]*worker
	addresses *addresses
	running   sync.WaitGroup
}

// NewHost returns a Host; Run runs it.
func NewHost(c Config) *Host {
	return &Host{
		Config: c, objects: newObjects(c.Client), workers: map[types.UID]*worker{}, addresses: newAddresses(c.Ranges),
	}
}

// Run follows the pods bound to the node until the context ends.
func (h *Host) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(h.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", h.Node).String()
	}))
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { h.dispatch(ctx, object, false) },
		UpdateFunc: func(_, object any) { h.dispatch(ctx, object, false) },
		DeleteFunc: func(object any) {
			if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = tombstone.Obj
			}
			h.dispatch(ctx, object, true)
		},
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	h.running.Wait()
	return nil
}

// dispatch hands the newest state of a pod to its worker.
func (h *Host) dispatch(ctx context.Context, object any, gone bool) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		klog.FromContext(ctx).Info("Ignored what is no pod", "object", object)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.workers[pod.UID]
	if w == nil {
		finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if gone || (finished && pod.DeletionTimestamp == nil) {
			return
		}
		w = newWorker(h, pod)
		h.workers[pod.UID] = w
		h.running.Add(1)
		go func() {
			defer h.running.Done()
			w.run(klog.NewContext(ctx, klog.FromContext(ctx).WithValues("pod", klog.KObj(pod))))
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.workers, pod.UID)
		}()
	}
	w.update(pod, gone)
}

// podDir holds the volumes, the roots and the process numbers of a pod.
func (h *Host) podDir(uid types.UID) string { return filepath.Join(h.Dir, "pods", string(uid)) }

func (h *Host) logFile(pod *corev1.Pod, container string) string {
	return filepath.Join(h.Dir, "logs", pod.Namespace+"_"+pod.Name+"_"+container+".log")
}
