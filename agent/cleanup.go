package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/cluster"
)

// cleanUp removes what is ours from the kernel, and then what says in the cluster
// that it is there. Without a cluster there is only the kernel.
func cleanUp(ctx context.Context, o Options, env environment) error {
	if o.CleanupAfter != "" {
		held, err := outlive(ctx, o, env)
		if err != nil {
			return err
		}
		defer func() { _ = held.Close() }()
	}
	kernel, err := env.open(ctx, o.Backend, uint32(o.CTMark))
	if err != nil {
		return err
	}
	if err := errors.Join(kernel.Cleanup(ctx), kernel.Close(), removeOpening(ctx, o, env), env.openFlowtable(uint32(o.CTMark), nil).Remove()); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	logger := klog.FromContext(ctx)
	logger.Info("Removed everything of this program from the kernel")
	if len(o.Manifests) > 0 {
		return nil
	}
	lease := cluster.AgentLeasePrefix + o.NodeName
	api, err := env.connect(o.Kubeconfig, o.Version)
	switch {
	case errors.Is(err, cluster.ErrNoCluster):
		return nil
	case err == nil:
		err = retract(ctx, api.Clients, o.NodeName, o.Namespace, lease)
	}
	if err != nil {
		return fmt.Errorf("the kernel is clean, but NodeReport %[1]s and Lease %[2]s/%[3]s may still say that its rules stand: %[4]w; "+
			"remove them: kubectl delete --ignore-not-found nodereports.portway.dev %[1]s; kubectl --namespace %[2]s delete --ignore-not-found lease %[3]s",
			o.NodeName, o.Namespace, lease, err)
	}
	logger.Info("Removed what this node said in the cluster", "nodeReport", o.NodeName, "lease", klog.KRef(o.Namespace, lease))
	return nil
}

// outliving is how often it is looked whether the agents are gone: soon at first, and seldom
// once it takes long, as all nodes do so.
var outliving = wait.Backoff{Duration: time.Second, Factor: 1.3, Jitter: 0.5, Cap: 30 * time.Second, Steps: 100}

// outlive waits until the agents' DaemonSet is deleted and the one of this node has ended,
// and returns what keeps the next one from starting meanwhile. While the DaemonSet is there
// this node's agent is coming back, if it is not here now.
func outlive(ctx context.Context, o Options, env environment) (io.Closer, error) {
	api, err := env.connect(o.Kubeconfig, o.Version)
	if err != nil {
		return nil, err
	}
	sets := api.Metadata.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}).Namespace(o.Namespace)
	look := func() (io.Closer, error) {
		asked, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		_, err := sets.Get(asked, o.CleanupAfter, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return lock(ctx)
		case err == nil:
			err = fmt.Errorf("DaemonSet %s/%s is there", o.Namespace, o.CleanupAfter)
		}
		return nil, err
	}
	told, pause := "", outliving
	for {
		held, err := look()
		if err == nil {
			return held, nil
		}
		if err.Error() != told {
			told = err.Error()
			klog.FromContext(ctx).Info("Waiting for the agents to be gone", "reason", told)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the agents to be gone: %w", err)
		case <-env.clock.After(pause.Step()):
		}
	}
}

// retract removes a node's NodeReport and its Lease.
func retract(ctx context.Context, clients cluster.Clients, node, namespace, lease string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	reports := clients.Metadata.Resource(v1alpha1.GroupVersion.WithResource("nodereports"))
	if err := reports.Delete(ctx, node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err := clients.Leases(namespace).Delete(ctx, lease, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
