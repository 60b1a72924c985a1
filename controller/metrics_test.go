package controller

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMetricsAreLinted(t *testing.T) {
	registerMetrics()
	b := threeNodes(t)
	b.writer.conflict("Gateway")
	response := httptest.NewRecorder()
	legacyregistry.Handler().ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	var ours bytes.Buffer
	for line := range strings.Lines(response.Body.String()) {
		if strings.Contains(line, subsystem) {
			ours.WriteString(line)
		}
	}
	for _, want := range []string{
		`portway_controller_nodes{state="live"} 3`, `portway_controller_gateways{reason="Programmed"} 1`,
		`portway_controller_pending_writes 0`, `portway_controller_pass_duration_seconds_count`,
		`portway_controller_status_writes_total{kind="Gateway",outcome="written"}`, `portway_controller_write_conflicts_total{kind="Gateway"}`,
	} {
		if !strings.Contains(ours.String(), want) {
			t.Errorf("no %s in\n%s", want, ours.String())
		}
	}
	problems, err := testutil.NewPromLinter(&ours).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestHealth(t *testing.T) {
	clock := clocktesting.NewFakeClock(epoch)
	h := newHealth(clock, 30*time.Second)
	clock.Step(time.Hour)
	if h.live() != nil || h.ready() == nil {
		t.Errorf("before the first pass: live %v, ready %v", h.live(), h.ready())
	}
	h.passed()
	clock.Step(2 * time.Minute)
	if h.live() != nil || h.ready() != nil {
		t.Errorf("after a pass: live %v, ready %v", h.live(), h.ready())
	}
	clock.Step(time.Second)
	if h.live() == nil {
		t.Error("nothing for more than two minutes")
	}
}
