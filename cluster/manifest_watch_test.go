package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
)

// watched runs Manifests on real files and waits for what the store gets.
type watched struct {
	store *Store
	names []string
}

func watch(t *testing.T, change func(*ManifestsConfig), paths ...string) *watched {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	config := DefaultManifestsConfig()
	config.Paths = paths
	config.Quiet, config.Confirm = 5*time.Millisecond, 20*time.Millisecond
	config.Rescan = time.Hour // what is not told by an event is not seen
	if change != nil {
		change(&config)
	}
	w := &watched{store: NewStore()}
	m, err := NewManifests(ctx, config, w.store)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// sees takes what is new and reports whether the store has these Gateways.
func (w *watched) sees(gateways string) bool {
	if u := w.store.Next(); u.Snapshot != nil {
		w.names = nil
		for k := range u.Snapshot.Gateways {
			w.names = append(w.names, k.Name)
		}
		slices.Sort(w.names)
	}
	return strings.Join(w.names, " ") == gateways
}

func (w *watched) wait(t *testing.T, gateways string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !w.sees(gateways) {
		select {
		case <-w.store.Changed():
		case <-deadline:
			t.Fatalf("gateways %v, want %s", w.names, gateways)
		}
	}
}

func TestWatchDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	w := watch(t, nil, "m")
	w.wait(t, "a")
	write(t, "m/b.yaml", gatewayYAML("b", 80)) // a new file
	w.wait(t, "a b")
	write(t, "m/a.yaml", gatewayYAML("a2", 80)) // an edit in place
	w.wait(t, "a2 b")
	write(t, "m/.tmp", gatewayYAML("a3", 80)) // an edit by rename
	if err := os.Rename("m/.tmp", "m/a.yaml"); err != nil {
		t.Fatal(err)
	}
	w.wait(t, "a3 b")
	write(t, "m/a.yaml", "") // nothing that counts …
	write(t, "m/c.yaml", gatewayYAML("c", 80))
	w.wait(t, "a3 b c") // … and the rest goes on
	remove(t, "m/b.yaml")
	w.wait(t, "a3 c")
	if err := os.Rename("m", "old"); err != nil {
		t.Fatal(err)
	}
	write(t, "m/d.yaml", gatewayYAML("d", 80)) // the directory comes back
	w.wait(t, "d")
	write(t, "m/e.yaml", gatewayYAML("e", 80))
	w.wait(t, "d e")
}

func TestWatchLinks(t *testing.T) {
	t.Chdir(t.TempDir())
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, name+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	write(t, "v1/a.yaml", gatewayYAML("a", 80))
	write(t, "v2/a.yaml", gatewayYAML("b", 80))
	write(t, "far/x.yaml", gatewayYAML("x", 80))
	link("v1", "current")
	link("far/x.yaml", "file.yaml")
	w := watch(t, nil, "current", "file.yaml")
	w.wait(t, "a x")
	link("v2", "current")
	w.wait(t, "b x")
	write(t, "v2/c.yaml", gatewayYAML("c", 80))
	w.wait(t, "b c x")
	write(t, "far/x.yaml", gatewayYAML("y", 80))
	w.wait(t, "b c y")
}

// TestWatchSteadyWriter wants a file read although somebody never stops writing.
func TestWatchSteadyWriter(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithCancel(ctx)
	counting := &countsTimers{FakeClock: clocktesting.NewFakeClock(time.Now()), timers: make(chan struct{}, 100)}
	config := DefaultManifestsConfig()
	config.Paths, config.Clock, config.Rescan = []string{"m"}, counting, time.Hour
	w := &watched{store: NewStore()}
	m, err := NewManifests(ctx, config, w.store)
	if err != nil {
		t.Fatal(err)
	}
	write(t, "m/a.yaml", gatewayYAML("b", 80)) // shows when Run is under way
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	defer running.Wait()
	defer cancel()
	counting.wait(t)
	counting.Step(0)
	w.wait(t, "b")

	file, err := os.OpenFile("m/a.yaml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	want := "b"
	for elapsed := time.Duration(0); elapsed < config.MaxDelay; elapsed += config.Quiet / 2 {
		name := fmt.Sprintf("c%03d", elapsed.Milliseconds())
		if _, err := file.WriteString("---\n" + gatewayYAML(name, 80)); err != nil { // one write, one event
			t.Fatal(err)
		}
		counting.wait(t) // for the event
		want += " " + name
		counting.Step(config.Quiet / 2)
	}
	w.wait(t, want)
}

// countsTimers is a fake clock that tells of every timer that is set.
type countsTimers struct {
	*clocktesting.FakeClock
	timers chan struct{}
}

func (c *countsTimers) NewTimer(d time.Duration) clock.Timer {
	timer := c.FakeClock.NewTimer(d)
	c.timers <- struct{}{}
	return timer
}

func (c *countsTimers) wait(t *testing.T) {
	t.Helper()
	select {
	case <-c.timers:
	case <-time.After(10 * time.Second):
		t.Fatal("no timer was set")
	}
}

// TestWatchLeavesNothingBehind wants all goroutines of Run to end with it.
func TestWatchLeavesNothingBehind(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	config := DefaultManifestsConfig()
	config.Paths = []string{"m"}
	m, err := NewManifests(ctx, config, NewStore())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		running, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Run(running)
		}()
		stop()
		<-done
	}
	cancel()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	deadline := time.After(10 * time.Second)
	for runtime.NumGoroutine() > before {
		select {
		case <-poll.C:
		case <-deadline:
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// TestWatchRescans finds a change that no event told of.
func TestWatchRescans(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "m/a.yaml", gatewayYAML("a", 80))
	fake := clocktesting.NewFakeClock(time.Now())
	w := watch(t, func(c *ManifestsConfig) {
		c.Clock = &onlyTicks{fake}
		c.Rescan = 2 * time.Second
	}, "m")
	w.wait(t, "a")
	write(t, filepath.Join("m", "a.yaml"), gatewayYAML("b", 81))
	deadline := time.After(10 * time.Second)
	for !w.sees("b") {
		fake.Step(2 * time.Second)
		select {
		case <-w.store.Changed():
		case <-time.After(time.Millisecond): // the ticker may not be there yet
		case <-deadline:
			t.Fatalf("gateways %v, want b", w.names)
		}
	}
}

// onlyTicks is a clock whose timers never fire, its tickers do.
type onlyTicks struct{ *clocktesting.FakeClock }

func (c *onlyTicks) NewTimer(time.Duration) clock.Timer {
	return clocktesting.NewFakeClock(time.Now()).NewTimer(time.Hour)
}
