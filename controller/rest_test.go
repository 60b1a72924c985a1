package controller

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/utils/clock"
)

// slowClock is of a machine where each evaluation takes its time.
type slowClock struct {
	clock.WithDelayedExecution
	step func(time.Duration)
	took time.Duration
	runs int // evaluations that have ended
}

func (c *slowClock) Since(at time.Time) time.Duration {
	c.step(c.took)
	c.runs++
	return c.WithDelayedExecution.Since(at)
}

// TestOwnWritesLeaveTimeToWrite: what the controller writes comes back as news, and an evaluation of
// everything for each of them would take the processors from the writes; edits, nodes and
// failures wait for nothing.
func TestOwnWritesLeaveTimeToWrite(t *testing.T) {
	for _, test := range []struct {
		name string
		took time.Duration
		rest time.Duration
	}{
		{"a while", 100 * time.Millisecond, 300 * time.Millisecond},
		{"long", 5 * time.Second, maxRest},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newTestbench(t)
			b.join("n1", "192.0.2.1")
			b.put(testGateway("web", 80))
			b.settleAll()
			slow := &slowClock{WithDelayedExecution: b.clock, step: b.clock.Step, took: test.took}
			b.controller.clock = slow
			evaluations := func(what string, want int) {
				t.Helper()
				b.step()
				if slow.runs != want {
					t.Errorf("%s: %d evaluations, want %d", what, slow.runs, want)
				}
				slow.runs = 0
			}
			for generation := range 2 {
				edited := b.gateway("web")
				edited.Generation = int64(2 + generation)
				edited.Spec.Listeners[0].Port++
				b.put(edited)
				evaluations("an edit", 1)
				b.write()
				b.sync()
				evaluations("our write", 0)
				b.clock.Step(test.rest - time.Millisecond)
				evaluations("while it rests", 0)
				select {
				case <-b.changed:
					t.Error("woken up too early")
				default:
				}
				b.clock.Step(time.Millisecond)
				select {
				case <-b.changed:
				case <-time.After(5 * time.Second):
					t.Fatal("nothing makes it look at what it wrote")
				}
				evaluations("what was written", 1)
				b.write()
				b.sync()
				evaluations("another write", 0)
				b.join(fmt.Sprint("new-", generation), fmt.Sprint("192.0.2.", 10+generation))
				evaluations("another node", 1)
				b.write()
				b.sync()
				evaluations("its write", 0)
				b.writer.unheard.Store(true)
				evaluations("a failure", 1)
			}
			slow.took = 0
			b.clock.Step(test.rest)
			b.settleAll()
		})
	}
}
