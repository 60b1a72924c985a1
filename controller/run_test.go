package controller

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2/ktesting"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/cluster"
	"github.com/portway-dev/portway/topology"
)

// TestRun: nothing happens before everything was read; then statuses and Events
// are written; the Lease is free when Run returns.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ctx := ktesting.NewTestContext(t)
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		api, core, store, synced := newFakeAPI(), kubefake.NewClientset(), cluster.NewStore(), make(chan struct{})
		o := DefaultOptions()
		o.Bind, o.Namespace = "", "portway-system"
		if err := o.Complete(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			done <- Run(ctx, o, Cluster{
				Source: store, Synced: synced, Served: func() map[string]string { return nil },
				Gateway: api, Core: core, Events: core, Election: core,
			})
		}()
		class := &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "portway"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: topology.ControllerName}}
		g := testGateway("g", 80)
		for resource, object := range map[string]cluster.Object{"gatewayclasses": class, "gateways": g} {
			if err := api.Tracker().Create(resourceOf("v1", resource), object.DeepCopyObject(), object.GetNamespace()); err != nil {
				t.Fatal(err)
			}
			if err := store.Put(object); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if actions := append(api.Actions(), core.Actions()...); len(actions) > 0 {
			t.Errorf("before everything was read: %v", actions)
		}
		close(synced)
		time.Sleep(time.Second)
		got, err := api.GatewayV1().Gateways("default").Get(ctx, "g", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := condition(got.Status.Conditions, programmed); c == nil || c.Reason != "NoResources" {
			t.Errorf("status %+v", got.Status)
		}
		events, err := core.EventsV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(events.Items) != 1 || events.Items[0].Reason != "NoResources" || events.Items[0].Regarding.Name != "g" {
			t.Errorf("events %+v, %v", events, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		lease, err := core.CoordinationV1().Leases("portway-system").Get(t.Context(), "portway-controller", metav1.GetOptions{})
		if err != nil || *lease.Spec.HolderIdentity != "" {
			t.Errorf("lease %+v, %v", lease, err)
		}
	})
}

func TestRunNeedsItsPort(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	o := DefaultOptions()
	o.Bind = "256.0.0.1:1"
	core := kubefake.NewClientset()
	err := Run(ctx, o, Cluster{Source: cluster.NewStore(), Gateway: newFakeAPI(), Core: core, Events: core, Election: core, Served: func() map[string]string { return nil }})
	if err == nil || !strings.Contains(err.Error(), "serve health and metrics") {
		t.Errorf("error %v", err)
	}
}

func TestProbe(t *testing.T) {
	var failure error
	handler := check(func() error { return failure })
	get := func() (int, string) {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil))
		body, _ := io.ReadAll(response.Body)
		return response.Code, string(body)
	}
	if code, body := get(); code != 200 || body != "ok\n" {
		t.Error(code, body)
	}
	failure = io.ErrUnexpectedEOF
	if code, body := get(); code != 503 || body != "unexpected EOF\n" {
		t.Error(code, body)
	}
}

func TestOptions(t *testing.T) {
	const good = ""
	tests := map[string]struct {
		args []string
		want string
	}{
		"defaults":     {nil, good},
		"external":     {[]string{"--node-address-type=External"}, good},
		"no namespace": {[]string{"--namespace="}, "--namespace is empty: name the namespace this program runs in"},
		"rate":         {[]string{"--kube-api-qps=0"}, "--kube-api-qps 0 and --kube-api-burst 100: must be positive"},
		"workers":      {[]string{"--concurrent-writes=1"}, "1 workers: at least 2 are needed, one for Gateways and one for routes"},
		"timeout":      {[]string{"--agent-timeout=0s"}, "agent timeout 0s: must be positive"},
		"election": {
			[]string{"--leader-elect-renew-deadline=20s"},
			"--leader-elect-lease-duration 15s, --leader-elect-renew-deadline 20s and --leader-elect-retry-period 2s: each must be longer than the next, the deadline more than twice the period",
		},
		"alone": {[]string{"--leader-elect=false", "--leader-elect-renew-deadline=20s"}, good},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := DefaultOptions()
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.AddFlags(flags)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			got := good
			if err := o.Complete(); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
