package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics/testutil"
	clocktesting "k8s.io/utils/clock/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Body.String()
}

func TestHealthIsProgress(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
	p := newProgress(clock)
	h := healthHandler(p, newInstruments())
	want := func(wantCode int, wantText string) {
		t.Helper()
		if code, text := get(t, h, "/healthz"); code != wantCode || text != wantText+"\n" {
			t.Errorf("%d %q, want %d %q", code, text, wantCode, wantText)
		}
	}
	want(200, "ok")
	clock.Step(time.Hour) // idle, or the API server is away
	want(200, "ok")
	p.queue()
	clock.Step(30 * time.Second)
	p.queue()
	clock.Step(30 * time.Second)
	want(200, "ok")
	clock.Step(time.Second)
	want(503, "a change has waited for 1m1s")
	p.begin()
	want(200, "ok")
	clock.Step(61 * time.Second)
	want(503, "a pass has run for 1m1s")
	p.end() // whether it failed or not
	want(200, "ok")
}

func TestReadyAfterTheFirstSuccess(t *testing.T) {
	b := newBench(t)
	h := healthHandler(b.progress, b.metrics)
	if code, _ := get(t, h, "/readyz"); code != 503 {
		t.Errorf("ready before the first pass: %d", code)
	}
	b.kernel.err = errors.New("no")
	if err := b.tracked(context.Background(), true); err == nil {
		t.Fatal("no error")
	}
	if code, _ := get(t, h, "/readyz"); code != 503 {
		t.Errorf("ready after a failure: %d", code)
	}
	b.kernel.err = nil
	b.must(t, true)
	b.kernel.err = errors.New("no")
	_ = b.tracked(context.Background(), true)
	if code, _ := get(t, h, "/readyz"); code != 200 { // what was programmed stands
		t.Errorf("not ready after a success: %d", code)
	}
}

// TestReadyDespiteOneGateway: it is not this node's fault, and a rollout must not wait
// for whoever wrote that Gateway.
func TestReadyDespiteOneGateway(t *testing.T) {
	refused := errors.New("too long")
	tests := map[string]struct {
		errs  map[string]error
		err   error
		ready int
	}{
		"one of two":                 {map[string]error{"default/my-tcp-gateway": refused}, fmt.Errorf("nftables: %w", refused), 200},
		"the backend, in the middle": {map[string]error{"default/my-tcp-gateway": fmt.Errorf("program it: %w", refused)}, fmt.Errorf("nftables: %w", refused), 503},
		"all of them":                {map[string]error{"default/my-tcp-gateway": refused, "default/second": refused}, fmt.Errorf("nftables: %w", refused), 503},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			gateway := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "second"}}
			gateway.Spec.GatewayClassName = "my-tcp-gateway-class"
			gateway.Spec.Listeners = []gatewayv1.Listener{{Name: "l", Protocol: gatewayv1.TCPProtocolType, Port: 9000}}
			if err := b.store.Put(gateway); err != nil {
				t.Fatal(err)
			}
			b.kernel.errs, b.kernel.err = test.errs, test.err
			if err := b.tracked(context.Background(), true); err == nil {
				t.Fatal("no error")
			}
			if code, text := get(t, healthHandler(b.progress, b.metrics), "/readyz"); code != test.ready {
				t.Errorf("%d %s, want %d", code, text, test.ready)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	b := newBench(t)
	b.agent.clock = b.clock
	b.must(t, true)
	b.clock.Step(time.Second)
	b.kernel.err = errors.New("no")
	_ = b.tracked(context.Background(), true)
	_ = b.metrics.apiFailed(objectLease, errors.New("no"))
	const want = `
# HELP portway_agent_api_write_failures_total [ALPHA] Times that the heartbeat (lease) or the NodeReport (report) could not be written.
# TYPE portway_agent_api_write_failures_total counter
portway_agent_api_write_failures_total{object="lease"} 1
portway_agent_api_write_failures_total{object="report"} 0
# HELP portway_agent_last_program_success_timestamp_seconds [ALPHA] When the kernel was last found or brought up to date, in seconds since 1970.
# TYPE portway_agent_last_program_success_timestamp_seconds gauge
portway_agent_last_program_success_timestamp_seconds 1.7672256e+09
# HELP portway_agent_netlink_messages_total [ALPHA] Messages exchanged with nf_tables to program it, those that begin and end batches and acknowledgements included.
# TYPE portway_agent_netlink_messages_total counter
portway_agent_netlink_messages_total{direction="received"} 3
portway_agent_netlink_messages_total{direction="sent"} 5
# HELP portway_agent_program_failures_total [ALPHA] Times that something could not be programmed; the rules before stayed.
# TYPE portway_agent_program_failures_total counter
portway_agent_program_failures_total 1
# HELP portway_agent_programmed_frontends [ALPHA] Pairs of address and port, per protocol, that the kernel was last programmed to serve.
# TYPE portway_agent_programmed_frontends gauge
portway_agent_programmed_frontends 2
`
	if err := testutil.GatherAndCompare(b.metrics.registry, strings.NewReader(want),
		"portway_agent_api_write_failures_total", "portway_agent_last_program_success_timestamp_seconds",
		"portway_agent_netlink_messages_total", "portway_agent_program_failures_total", "portway_agent_programmed_frontends"); err != nil {
		t.Error(err)
	}
	code, text := get(t, healthHandler(b.progress, b.metrics), "/metrics")
	if code != 200 || !strings.Contains(text, "portway_agent_program_duration_seconds_count 2") {
		t.Errorf("%d:\n%s", code, text)
	}
	problems, err := testutil.NewPromLinter(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}
