package pod

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab/fakekubelet/sandbox"
)

const (
	retryAfter   = 500 * time.Millisecond
	defaultGrace = 30 * time.Second
)

// worker runs one pod, from the first time it is seen until it is gone from the
// API server and from the node. What is not guarded by mu belongs to run.
type worker struct {
	host *Host
	uid  types.UID
	wake chan struct{}

	mu   sync.Mutex
	pod  *corev1.Pod // the newest state seen; never mutated
	gone bool        // the API server has it no longer

	network    *sandbox.Network
	offset     int          // of the addresses taken, 0: none
	addrs      []netip.Addr // empty before the network is made
	volumes    map[string]string
	tokens     map[string]token
	inits      []*container
	containers []*container
	started    metav1.Time
	conditions map[corev1.PodConditionType]corev1.PodCondition // as reported last
	problem    error                                           // why nothing is started

	stopping bool
	stopped  time.Time     // when it began to stop
	grace    time.Duration // from then on
}

func newWorker(h *Host, pod *corev1.Pod) *worker {
	w := &worker{
		host: h, uid: pod.UID, wake: make(chan struct{}, 1), pod: pod, started: second(time.Now()),
		volumes: map[string]string{}, tokens: map[string]token{}, conditions: map[corev1.PodConditionType]corev1.PodCondition{},
	}
	for i := range pod.Spec.InitContainers {
		w.inits = append(w.inits, &container{spec: &pod.Spec.InitContainers[i], init: true, worker: w})
	}
	for i := range pod.Spec.Containers {
		w.containers = append(w.containers, &container{spec: &pod.Spec.Containers[i], worker: w})
	}
	for _, c := range w.inits {
		c.resume(pod.Status.InitContainerStatuses)
	}
	for _, c := range w.containers {
		c.resume(pod.Status.ContainerStatuses)
	}
	return w
}

// update hands over the newest state of the pod.
func (w *worker) update(pod *corev1.Pod, gone bool) {
	w.mu.Lock()
	w.pod, w.gone = pod, gone
	w.mu.Unlock()
	w.wakeUp()
}

func (w *worker) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) newest() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

func (w *worker) isGone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone
}

// run works until the pod is gone.
func (w *worker) run(ctx context.Context) {
	defer w.tearDown(ctx)
	for {
		next, done := w.pass(ctx)
		if done {
			return
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-w.wake:
		case <-timer:
		case <-ctx.Done():
			return
		}
	}
}

// pass brings the pod in line with its newest state. It returns when to look
// again even if nothing wakes the worker; zero: not at all.
func (w *worker) pass(ctx context.Context) (next time.Time, done bool) {
	pod, gone := w.newest(), w.isGone()
	if gone || pod.DeletionTimestamp != nil {
		return w.stop(ctx, pod, gone)
	}
	next, w.problem = w.bring(ctx, pod)
	if w.problem != nil {
		klog.FromContext(ctx).Error(w.problem, "Pod waits")
		next = earlier(next, time.Now().Add(startRetry))
	}
	phase, err := w.report(ctx, pod)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Status not written")
		return earlier(next, time.Now().Add(retryAfter)), false
	}
	return next, phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// bring makes what the pod needs and starts the containers that are due.
func (w *worker) bring(ctx context.Context, pod *corev1.Pod) (next time.Time, err error) {
	if len(w.addrs) == 0 {
		if err := w.connect(pod); err != nil {
			return next, err
		}
	}
	if err := w.syncVolumes(ctx, pod); err != nil {
		return next, err
	}
	next = w.renewal()
	for _, c := range w.inits {
		over, success := c.over(pod.Spec.RestartPolicy)
		if over && success {
			continue
		}
		if over {
			return next, nil // failed for good, and the pod with it
		}
		return w.startDue(ctx, pod, c, next)
	}
	var errs []error
	for _, c := range w.containers {
		if over, _ := c.over(pod.Spec.RestartPolicy); over {
			continue
		}
		next, err = w.startDue(ctx, pod, c, next)
		errs = append(errs, err)
	}
	return next, errors.Join(errs...)
}

func (w *worker) startDue(ctx context.Context, pod *corev1.Pod, c *container, next time.Time) (time.Time, error) {
	if c.running() {
		return next, nil
	}
	if due := c.due(); !due.IsZero() {
		return earlier(next, due), nil
	}
	return next, c.start(ctx, pod)
}

func (w *worker) connect(pod *corev1.Pod) error {
	if pod.Spec.HostNetwork {
		w.addrs = w.host.Addresses
		return nil
	}
	offset, addrs, err := w.host.addresses.take()
	if err != nil {
		return err
	}
	w.network, err = sandbox.NewNetwork(string(w.uid[:8]), sandbox.Addresses{
		Pod: addrs, Gateway: w.host.addresses.gateways(), Node: w.host.Addresses,
	})
	if err != nil {
		w.host.addresses.give(offset)
		return err
	}
	w.offset, w.addrs = offset, addrs
	return nil
}

// stop ends the pod: gracefully while it has time, then outright. When nothing of
// it runs any more, the API server is told so, which removes the object.
func (w *worker) stop(ctx context.Context, pod *corev1.Pod, gone bool) (next time.Time, done bool) {
	grace := defaultGrace
	if pod.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	if gone {
		grace = 0
	}
	if !w.stopping {
		w.stopping, w.stopped, w.grace = true, time.Now(), grace
		for _, c := range w.all() {
			c.terminate(ctx, grace)
		}
	}
	w.grace = min(w.grace, grace)
	deadline := w.stopped.Add(w.grace)
	running := false
	for _, c := range w.all() {
		if c.running() {
			running = true
			if !time.Now().Before(deadline) {
				c.kill(ctx)
			}
		}
	}
	if gone {
		return time.Now().Add(retryAfter), !running
	}
	if _, err := w.report(ctx, pod); err != nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "Status not written")
		return time.Now().Add(retryAfter), false
	}
	if running {
		if time.Now().Before(deadline) {
			return deadline, false
		}
		return time.Now().Add(retryAfter), false
	}
	err := w.host.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		klog.FromContext(ctx).Error(err, "Pod not removed")
		return time.Now().Add(retryAfter), false
	}
	return time.Time{}, true
}

// tearDown gives back everything but the logs.
func (w *worker) tearDown(ctx context.Context) {
	for _, c := range w.all() {
		c.kill(ctx)
	}
	w.host.objects.release(w)
	var err error
	if w.network != nil {
		err = w.network.Close()
		w.host.addresses.give(w.offset)
	}
	if err := errors.Join(err, os.RemoveAll(w.host.podDir(w.uid))); err != nil {
		klog.FromContext(ctx).Error(err, "Pod left something behind")
	}
	klog.FromContext(ctx).V(2).Info("Pod is gone")
}

func (w *worker) all() []*container {
	return append(append([]*container{}, w.inits...), w.containers...)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
