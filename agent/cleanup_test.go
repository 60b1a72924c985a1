package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
)

// What cleans up in the agents' place waits until their DaemonSet is gone, since that starts
// them anew, and until the last one of the node has ended, which heals what is removed. While
// it works, none can start.
func TestCleanupOutlivesAgents(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	sets := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	agents := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: metav1.ObjectMeta{Namespace: "portway-system", Name: "portway-agent"}}
	metadata := metadatafake.NewSimpleMetadataClient(scheme, agents)
	alive, err := lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after := Options{Cleanup: true, CleanupAfter: "portway-agent"}
	if waiting, err := after.lock(t.Context()); err != nil {
		t.Fatalf("it cannot wait beside an agent: %v", err)
	} else if err := waiting.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		_, ctx := ktesting.NewTestContext(t)
		ctx, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		c := newFakeCluster(t)
		clients := c.clients()
		clients.Metadata = metadata
		s := testEnvironment()
		s.env.clock = clock.RealClock{} // synctest's
		s.env.connect = func(string, string) (connection, error) { return connection{Clients: clients}, nil }
		o := options()
		o.Cleanup, o.CleanupAfter, o.Namespace = true, "portway-agent", "portway-system"
		done := make(chan error, 1)
		go func() { done <- run(ctx, o, s.env) }()

		waits := func(while string) {
			t.Helper()
			time.Sleep(5 * outliving.Duration)
			synctest.Wait()
			if len(done) > 0 || s.kernel.cleaned {
				t.Fatalf("cleaned up while %s: %v", while, <-done)
			}
		}
		waits("the DaemonSet is there")
		if err := metadata.Resource(sets).Namespace("portway-system").Delete(ctx, "portway-agent", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		waits("the agent of the node runs")
		if err := alive.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || !s.kernel.cleaned {
			t.Errorf("cleaned %t, error %v", s.kernel.cleaned, err)
		}
	})
}
