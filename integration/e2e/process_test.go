package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// kill sends a signal to the first process of a pod's container, from its node: a
// process cannot be stopped from within the namespace that it is the first of.
func (c *Cluster) kill(ctx context.Context, signal string, pod *corev1.Pod) error {
	pid, err := os.ReadFile(filepath.Join(c.Dir(), pod.Spec.NodeName, "pods", string(pod.UID), "pids", pod.Spec.Containers[0].Name))
	if err != nil {
		return err
	}
	var node int
	if _, err := fmt.Sscanf(pod.Spec.NodeName, "node%d", &node); err != nil {
		return err
	}
	_, err = c.Node(node).Output(ctx, "kill", "-"+signal, strings.TrimSpace(string(pid)))
	return err
}

// mute replaces a node's agent by a program that hangs, until the returned function is
// called. The agent takes no leave.
func (c *Cluster) mute(t *testing.T, node string) (restore func() error) {
	t.Helper()
	pods, err := c.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/component=agent", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d agents on %s: %v", len(pods.Items), node, err)
	}
	hang := filepath.Join(t.TempDir(), "hang")
	if err := os.WriteFile(hang, []byte("#!/bin/sh\nexec sleep 3600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.SetImage("portway-agent", hang); err != nil {
		t.Fatal(err)
	}
	if err := c.kill(t.Context(), "KILL", &pods.Items[0]); err != nil {
		t.Fatal(err)
	}
	return func() error {
		if err := c.SetImage("portway-agent", filepath.Join(lab.CacheDir(), "product", "portway-agent")); err != nil {
			return err
		}
		none := int64(0)
		return c.Kube.CoreV1().Pods(System).Delete(context.Background(), pods.Items[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
	}
}
