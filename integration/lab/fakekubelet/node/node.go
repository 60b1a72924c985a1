// Package node keeps the Node object of a fake kubelet: it registers the node,
// renews its Lease and sets it Ready again whenever somebody thinks otherwise.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

const (
	// The lab's controller takes a node for NotReady 8 s after the last renewal.
	leaseSeconds  = 8
	renewEvery    = 2 * time.Second
	statusEvery   = 2 * time.Second
	reportEvery   = 30 * time.Second // even if nothing changed
	retryAfter    = 200 * time.Millisecond
	leaseSpace    = corev1.NamespaceNodeLease
	versionOfThis = "v1.37.2-portway-lab"
)

// Config describes a node.
type Config struct {
	Client    kubernetes.Interface
	Name      string
	BootID    string
	Addresses []netip.Addr
	PodRanges []netip.Prefix
}

// Node keeps one Node object.
type Node struct{ Config }

// New returns a Node that is not registered yet.
func New(c Config) *Node { return &Node{Config: c} }

// Register makes the Node object or takes over the one of an earlier boot. It
// tries until it succeeds or the context ends.
func (n *Node) Register(ctx context.Context) error {
	for {
		err := n.register(ctx)
		if err == nil {
			return nil
		}
		klog.FromContext(ctx).Error(err, "Not registered")
		if !sleep(ctx, retryAfter) {
			return errors.Join(err, ctx.Err())
		}
	}
}

func (n *Node) register(ctx context.Context) error {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
		corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH,
	}}}
	for _, r := range n.PodRanges {
		object.Spec.PodCIDRs = append(object.Spec.PodCIDRs, r.String())
	}
	object.Spec.PodCIDR = object.Spec.PodCIDRs[0]
	object.Status = n.status(object.Status)
	made, err := n.Client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = n.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	return n.report(ctx, made)
}

// Run renews the lease and the status until the context ends.
func (n *Node) Run(ctx context.Context) {
	go n.repeat(ctx, renewEvery, "Lease not renewed", n.renew)
	var reported time.Time
	n.repeat(ctx, statusEvery, "Node status not written", func(ctx context.Context) error {
		object, err := n.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return n.register(ctx)
		}
		if err != nil {
			return err
		}
		if equality.Semantic.DeepEqual(object.Status, n.status(object.Status)) && time.Since(reported) < reportEvery {
			return nil
		}
		reported = time.Now()
		return n.report(ctx, object)
	})
}

func (n *Node) repeat(ctx context.Context, every time.Duration, failure string, f func(context.Context) error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, every)
		err := f(attempt)
		cancel()
		wait := every
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info(failure, "err", err)
			wait = retryAfter
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (n *Node) renew(ctx context.Context) error {
	leases := n.Client.CoordinationV1().Leases(leaseSpace)
	lease, err := leases.Get(ctx, n.Name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if missing {
		lease, err = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Namespace: leaseSpace}}, nil
	}
	if err != nil {
		return err
	}
	now, duration := metav1.NowMicro(), int32(leaseSeconds)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &n.Name, &duration, &now
	if missing {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	return err
}

// report writes the status of the node, heartbeats included.
func (n *Node) report(ctx context.Context, object *corev1.Node) error {
	status := n.status(object.Status)
	for i := range status.Conditions {
		status.Conditions[i].LastHeartbeatTime = now()
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = n.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("write node status: %w", err)
	}
	return nil
}

// status is what the status should be, given what it is.
func (n *Node) status(old corev1.NodeStatus) corev1.NodeStatus {
	s := *old.DeepCopy()
	s.Capacity = corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("16"),
		corev1.ResourceMemory: resource.MustParse("32Gi"),
		corev1.ResourcePods:   resource.MustParse("250"),
	}
	s.Allocatable = s.Capacity
	s.Addresses = []corev1.NodeAddress{}
	for _, addr := range n.Addresses {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Name})
	s.NodeInfo.BootID, s.NodeInfo.KubeletVersion = n.BootID, versionOfThis
	s.NodeInfo.OperatingSystem, s.NodeInfo.Architecture, s.NodeInfo.ContainerRuntimeVersion = "linux", runtime.GOARCH, "process://1"
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		setCondition(&s, kind, corev1.ConditionFalse)
	}
	setCondition(&s, corev1.NodeReady, corev1.ConditionTrue)
	return s
}

func setCondition(s *corev1.NodeStatus, kind corev1.NodeConditionType, status corev1.ConditionStatus) {
	c := corev1.NodeCondition{Type: kind, Status: status, Reason: "PortwayLab", LastTransitionTime: now(), LastHeartbeatTime: now()}
	i := slices.IndexFunc(s.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[i].Status == status {
		c.LastTransitionTime, c.LastHeartbeatTime = s.Conditions[i].LastTransitionTime, s.Conditions[i].LastHeartbeatTime
	}
	s.Conditions[i] = c
}

// now is the present as it comes back from the API server.
func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
