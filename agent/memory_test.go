package agent

import (
	"context"
	"runtime/debug"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

var sink []byte

func TestLimitMemoryReleasesWhatALoadLeftBehind(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nothing but the release collects
	t.Setenv("GOGC", "off")
	c := clocktesting.NewFakeClock(time.Now())
	ctx, stop := context.WithCancel(t.Context())
	released, done := make(chan uint64), make(chan struct{})
	go func() {
		defer close(done)
		limitMemory(ctx, c, func() {
			debug.FreeOSMemory()
			released <- reclaimable()
		})
	}()
	debug.FreeOSMemory()
	for range 8 {
		sink = make([]byte, 8<<20)
	}
	for deadline := time.Now().Add(10 * time.Second); !c.HasWaiters(); {
		if time.Now().After(deadline) {
			t.Fatal("no ticker")
		}
	}
	c.Step(trimPeriod)
	if left := <-released; left > trimGain {
		t.Errorf("%d bytes could still be released", left)
	}
	stop()
	<-done
}
