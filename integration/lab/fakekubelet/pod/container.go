package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/integration/lab/fakekubelet/sandbox"
)

const (
	backoffFirst = time.Second
	backoffMax   = 30 * time.Second
	// backoffReset is how long a container must run to be trusted again.
	backoffReset = time.Minute
	// startRetry is after how long a container that could not be started, for want
	// of a binary or a ConfigMap, is tried again.
	startRetry = time.Second
)

// container is one container of a pod through all its restarts. Its spec is
// immutable (images may change; the lab does not follow).
type container struct {
	spec   *corev1.Container
	init   bool
	worker *worker

	mu       sync.Mutex
	process  *sandbox.Process // nil unless it runs
	started  time.Time
	passed   bool // its startup probe, if any
	ready    bool
	restarts int32
	runs     int                              // of this kubelet
	last     *corev1.ContainerStateTerminated // the latest end
	waiting  *corev1.ContainerStateWaiting    // why it does not run, if it never did or will again
	backoff  time.Duration
	retry    time.Time // not started before
	endProbe context.CancelFunc
}

func (c *container) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process != nil
}

// over reports whether the container has ended and is not to be started again.
func (c *container) over(policy corev1.RestartPolicy) (over, success bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil || c.last == nil || c.runs == 0 {
		return false, false
	}
	success = c.last.ExitCode == 0
	switch {
	case c.init:
		return success || policy == corev1.RestartPolicyNever, success
	case policy == corev1.RestartPolicyNever:
		return true, success
	case policy == corev1.RestartPolicyOnFailure:
		return success, success
	default:
		return false, success
	}
}

// due is when the container may be started; zero: now.
func (c *container) due() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.retry) {
		return c.retry
	}
	return time.Time{}
}

// start runs the container. What is missing is written into its waiting state.
func (c *container) start(ctx context.Context, pod *corev1.Pod) error {
	reason := "CreateContainerConfigError"
	spec, err := c.worker.containerSpec(ctx, pod, c.spec)
	if errors.Is(err, errNoImage) {
		reason = "ErrImagePull"
	}
	var process *sandbox.Process
	if err == nil {
		reason = "CreateContainerError"
		process, err = c.launch(pod, spec)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: err.Error()}
		c.retry = time.Now().Add(startRetry)
		return err
	}
	if c.runs > 0 {
		c.restarts++
	}
	c.runs++
	c.process, c.started, c.waiting, c.passed = process, time.Now(), nil, c.spec.StartupProbe == nil
	c.ready = c.passed && c.spec.ReadinessProbe == nil
	probing, cancel := context.WithCancel(ctx)
	c.endProbe = cancel
	klog.FromContext(ctx).V(2).Info("Container started", "container", c.spec.Name, "pid", process.PID())
	go c.watch(ctx, process)
	if !c.init {
		c.probe(probing)
	}
	return nil
}

func (c *container) launch(pod *corev1.Pod, spec sandbox.Spec) (*sandbox.Process, error) {
	path := c.worker.host.logFile(pod, c.spec.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	process, err := sandbox.Start(spec, c.worker.network, log)
	if err != nil {
		return nil, err
	}
	return process, c.writePID(pod, process.PID())
}

// writePID leaves the number of the first process where the lab finds it.
func (c *container) writePID(pod *corev1.Pod, pid int) error {
	file := filepath.Join(c.worker.host.podDir(pod.UID), "pids", c.spec.Name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644)
}

// watch records the end of a process.
func (c *container) watch(ctx context.Context, process *sandbox.Process) {
	<-process.Done()
	code, signal := process.Exit()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endProbe()
	reason := "Completed"
	if code != 0 {
		reason = "Error"
	}
	ended := time.Now()
	c.last = &corev1.ContainerStateTerminated{
		ExitCode: int32(code), Signal: int32(signal), Reason: reason,
		StartedAt: second(c.started), FinishedAt: second(ended), ContainerID: c.id(),
	}
	switch {
	case ended.Sub(c.started) > backoffReset || c.runs == 1:
		c.backoff, c.retry = backoffFirst, ended // the first restart is immediate
	default:
		c.retry = ended.Add(c.backoff)
		c.backoff = min(2*c.backoff, backoffMax)
	}
	c.waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "next start at " + c.retry.Format(time.TimeOnly)}
	c.process, c.ready, c.passed = nil, false, false
	klog.FromContext(ctx).V(2).Info("Container ended", "container", c.spec.Name, "exitCode", code, "signal", signal)
	c.worker.wakeUp()
}

// id needs mu.
func (c *container) id() string {
	return fmt.Sprintf("process://%s-%s-%d", c.worker.uid, c.spec.Name, c.runs)
}

// terminate asks the container to end: preStop, then SIGTERM. It does not wait.
func (c *container) terminate(ctx context.Context, grace time.Duration) {
	c.mu.Lock()
	process := c.process
	c.mu.Unlock()
	if process == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	go func() {
		defer cancel()
		if hook := c.spec.Lifecycle; hook != nil && hook.PreStop != nil {
			c.preStop(ctx, process, hook.PreStop)
		}
		signal := unix.SIGTERM
		if c.spec.Lifecycle != nil && c.spec.Lifecycle.StopSignal != nil {
			signal = unix.SignalNum(string(*c.spec.Lifecycle.StopSignal))
		}
		if err := process.Signal(signal); err != nil {
			klog.FromContext(ctx).Error(err, "Container got no signal", "container", c.spec.Name)
		}
	}()
}

func (c *container) preStop(ctx context.Context, process *sandbox.Process, hook *corev1.LifecycleHandler) {
	switch {
	case hook.Sleep != nil:
		select {
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		case <-process.Done():
		case <-ctx.Done():
		}
	case hook.Exec != nil:
		if err := execute(ctx, process, hook.Exec.Command); err != nil {
			klog.FromContext(ctx).Error(err, "preStop failed", "container", c.spec.Name)
		}
	}
}

// execute runs a command in a container until it ends or the context does.
func execute(ctx context.Context, process *sandbox.Process, command []string) error {
	cmd := process.Exec(command, io.Discard)
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	return cmd.Wait()
}

func (c *container) kill(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return
	}
	if err := c.process.Signal(unix.SIGKILL); err != nil {
		klog.FromContext(ctx).Error(err, "Container not killed", "container", c.spec.Name)
	}
}

// status is the container's part of the pod's status.
func (c *container) status(policy corev1.RestartPolicy) corev1.ContainerStatus {
	over, _ := c.over(policy)
	why := c.worker.waitingReason() // before the lock: it asks init containers, of which this may be one
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.process != nil && c.passed
	s := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image,
		Ready: c.ready, Started: &started, RestartCount: c.restarts,
	}
	if c.last != nil {
		s.LastTerminationState.Terminated = c.last.DeepCopy()
		s.ContainerID = c.last.ContainerID
	}
	switch {
	case c.process != nil:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: second(c.started)}
		s.ContainerID = c.id()
	case over || (c.last != nil && c.worker.stopping):
		s.State.Terminated = c.last.DeepCopy()
		s.LastTerminationState = corev1.ContainerState{}
		if c.init {
			s.Ready = c.last.ExitCode == 0
		}
	case c.waiting != nil:
		s.State.Waiting = c.waiting.DeepCopy()
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: why}
	}
	return s
}

// resume takes over what an earlier boot of the node reported: its containers
// died with it.
func (c *container) resume(reported []corev1.ContainerStatus) {
	i := slices.IndexFunc(reported, func(s corev1.ContainerStatus) bool { return s.Name == c.spec.Name })
	if i < 0 || reported[i].ContainerID == "" {
		return
	}
	c.restarts = reported[i].RestartCount + 1
	c.last = &corev1.ContainerStateTerminated{
		ExitCode: 255, Reason: "Unknown", ContainerID: reported[i].ContainerID, FinishedAt: second(time.Now()),
	}
	if running := reported[i].State.Running; running != nil {
		c.last.StartedAt = running.StartedAt
	}
}

// second is a time as it comes back from the API server.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }
