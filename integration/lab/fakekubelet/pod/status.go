package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// report writes the status if the API server has another one. Conditions of other
// writers are kept.
func (w *worker) report(ctx context.Context, pod *corev1.Pod) (corev1.PodPhase, error) {
	next := w.status(pod)
	if equality.Semantic.DeepEqual(pod.Status, next) {
		return next.Phase, nil
	}
	from, err := json.Marshal(corev1.Pod{Status: pod.Status})
	if err != nil {
		return "", err
	}
	to, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: next})
	if err != nil {
		return "", err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, corev1.Pod{})
	if err != nil {
		return "", fmt.Errorf("make status patch: %w", err)
	}
	_, err = w.host.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return next.Phase, err
}

func (w *worker) status(pod *corev1.Pod) corev1.PodStatus {
	s := *pod.Status.DeepCopy()
	policy := pod.Spec.RestartPolicy
	s.StartTime = &w.started
	if pod.Status.StartTime != nil {
		s.StartTime = pod.Status.StartTime
	}
	s.HostIP, s.HostIPs = w.host.Addresses[0].String(), nil
	for _, addr := range w.host.Addresses {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: addr.String()})
	}
	s.PodIP, s.PodIPs = "", nil
	for _, addr := range w.addrs {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if len(w.addrs) > 0 {
		s.PodIP = w.addrs[0].String()
	}
	s.InitContainerStatuses, s.ContainerStatuses = nil, nil
	for _, c := range w.inits {
		s.InitContainerStatuses = append(s.InitContainerStatuses, c.status(policy))
	}
	for _, c := range w.containers {
		s.ContainerStatuses = append(s.ContainerStatuses, c.status(policy))
	}
	s.Phase = w.phase(policy)
	s.Message, s.Reason = "", ""
	if w.problem != nil {
		s.Message = w.problem.Error()
	}
	w.setConditions(pod, &s)
	return s
}

// phase follows from how the containers are, as upstream's getPhase.
func (w *worker) phase(policy corev1.RestartPolicy) corev1.PodPhase {
	for _, c := range w.inits {
		over, success := c.over(policy)
		if over && !success {
			return corev1.PodFailed
		}
		if !over {
			return corev1.PodPending
		}
	}
	allOver, allSuccess, anyRan := true, true, false
	for _, c := range w.containers {
		over, success := c.over(policy)
		allOver, allSuccess = allOver && over, allSuccess && success
		c.mu.Lock()
		anyRan = anyRan || c.runs > 0
		c.mu.Unlock()
	}
	switch {
	case allOver && allSuccess:
		return corev1.PodSucceeded
	case allOver:
		return corev1.PodFailed
	case anyRan:
		return corev1.PodRunning
	default:
		return corev1.PodPending
	}
}

func (w *worker) setConditions(pod *corev1.Pod, s *corev1.PodStatus) {
	var waiting, unready []string
	for _, c := range s.InitContainerStatuses {
		if !c.Ready {
			waiting = append(waiting, c.Name)
		}
	}
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	w.setCondition(s, corev1.PodReadyToStartContainers, len(w.addrs) > 0, "", "")
	w.setCondition(s, corev1.PodInitialized, len(waiting) == 0, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", waiting))
	w.setCondition(s, corev1.ContainersReady, len(unready) == 0, "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", unready))
	reason, message := "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", unready)
	ready := len(unready) == 0
	for _, gate := range pod.Spec.ReadinessGates {
		met := slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == gate.ConditionType && c.Status == corev1.ConditionTrue
		})
		if ready && !met {
			ready, reason, message = false, "ReadinessGatesNotReady", fmt.Sprintf("condition %q is not True", gate.ConditionType)
		}
	}
	w.setCondition(s, corev1.PodReady, ready, reason, message)
}

// setCondition keeps the time of the last transition of what this worker reported:
// the object in hand may be older.
func (w *worker) setCondition(s *corev1.PodStatus, kind corev1.PodConditionType, is bool, reason, message string) {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: second(time.Now())}
	if !is {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reason, message
	}
	i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	if i >= 0 {
		c.ObservedGeneration = s.Conditions[i].ObservedGeneration
		if s.Conditions[i].Status == c.Status {
			c.LastTransitionTime = s.Conditions[i].LastTransitionTime
		}
	}
	if last, ok := w.conditions[kind]; ok && last.Status == c.Status {
		c.LastTransitionTime = last.LastTransitionTime
	}
	w.conditions[kind] = c
	if i >= 0 {
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

// waitingReason is why a container waits that was never started.
func (w *worker) waitingReason() string {
	for _, c := range w.inits {
		if over, success := c.over(corev1.RestartPolicyAlways); !over || !success {
			return "PodInitializing"
		}
	}
	return "ContainerCreating"
}
