package control

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/integration/bench/figure"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
	"github.com/portway-dev/portway/rules/nftables"
)

// key and frontend are listener i of a State made without an API.
func (s site) key(i int) rules.FrontendKey {
	return rules.FrontendKey{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(i / 256)}), Protocol: rules.TCP, Port: uint16(firstPort + i%256)}
}

// frontend has endpoints numbered from first.
func (s site) frontend(i, first, endpoints int) *rules.Frontend {
	f := &rules.Frontend{
		Owner:    rules.Owner{Gateway: fmt.Sprintf("team-%d/gateway-%d", i%50, i/64), Listener: fmt.Sprint("listener-", i%64), Route: fmt.Sprintf("team-%d/route-%d", i%50, i)},
		Backends: []rules.Backend{{Ref: fmt.Sprintf("team-%d/service-%d", i%50, i), Weight: 1}},
	}
	for e := first; e < first+endpoints; e++ {
		n := i*32 + e
		f.Backends[0].Endpoints = append(f.Backends[0].Endpoints, rules.Endpoint{
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080),
			Name: fmt.Sprintf("service-%d-7c5ddbdf54-%05d", i, e), Local: e%5 == 0,
		})
	}
	return f
}

func (s site) state() *rules.State {
	frontends := make(map[rules.FrontendKey]*rules.Frontend, s.listeners)
	for i := range s.listeners {
		frontends[s.key(i)] = s.frontend(i, 0, s.endpoints)
	}
	return rules.NewState(frontends, map[string]string{})
}

// programming collects what one way to program took.
type programming struct {
	wall, cpu, sends []float64
	aim              *figure.Aim
}

// TestProgramming: what it takes to bring a State into the kernel, without API and decision.
func TestProgramming(t *testing.T) {
	measures(t)
	sizes := effort([]site{{10_000, 10}}, []site{{100, 10}, {1000, 10}, {10_000, 10}}, []site{{1, 1}, {100, 10}, {1000, 10}, {1000, 100}, {10_000, 1}, {10_000, 10}, {10_000, 100}})
	for _, s := range sizes {
		taken := map[string]*programming{}
		var kernel []float64
		for range effort(3, 5, 9) {
			kernel = append(kernel, s.program(t, taken))
		}
		whole := s == site{10_000, 10}
		for _, name := range []string{"cold load", "restart with rules in place", "nothing to do", "1 endpoint changed", "100 endpoints changed", "1000 endpoints changed", "one endpoint more, or less", "listener added", "listener removed"} {
			p := taken[name]
			if p == nil {
				continue // more than there are
			}
			if name == "cold load" && whole {
				p.aim = figure.AtMost(1)
			}
			fig := func(what, unit string, values []float64, aim *figure.Aim, note string) {
				record(t, figure.Figure{
					Section: figure.Programming, Name: name + ": " + what, Listeners: s.listeners, Endpoints: s.endpoints, Unit: unit, Values: values, Aim: aim, Note: note,
				})
			}
			fig("time", "s", p.wall, p.aim, "from a State to the last acknowledgement")
			fig("CPU", "s", p.cpu, nil, "of the process and, for it, the kernel")
			fig("batches sent", "", p.sends, nil, "one sendmsg(2) each; what no longer leads anywhere is deleted in one of its own")
		}
		record(t, figure.Figure{
			Section: figure.Programming, Name: "kernel memory of the rules", Listeners: s.listeners, Endpoints: s.endpoints, Unit: "B", Values: kernel,
			Note: "by which Slab, Percpu and VmallocUsed of /proc/meminfo shrink when the table is removed: elements, their hash tables and counters",
		})
	}
}

// program goes through the life of a ruleset once and returns the kernel memory it took.
func (s site) program(t *testing.T, taken map[string]*programming) float64 {
	t.Helper()
	in, err := netns.New("node")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	config := nftables.DefaultConfig()
	config.NetNS = in.Handle()
	p, err := nftables.New(config)
	if err != nil {
		t.Fatal(err)
	}
	state := s.state()
	to := func(name string, next *rules.State) {
		batches, cpu, began := p.Stats().Batches, ownCPU(t), time.Now()
		if _, err := p.Program(t.Context(), next); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		took, used := time.Since(began), ownCPU(t)-cpu
		if state = next; name == "" {
			return
		}
		if taken[name] == nil {
			taken[name] = &programming{}
		}
		of := taken[name]
		of.wall, of.cpu = append(of.wall, took.Seconds()), append(of.cpu, used.Seconds())
		of.sends = append(of.sends, float64(p.Stats().Batches-batches))
	}
	changed := func(n, first, endpoints int) *rules.State {
		changes := make(map[rules.FrontendKey]*rules.Frontend, n)
		for i := range n {
			changes[s.key(i)] = s.frontend(i, first, endpoints)
		}
		return state.Apply(changes, nil)
	}
	runtime.GC()
	to("cold load", state)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = nftables.New(config); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	to("restart with rules in place", state)
	to("nothing to do", state)
	for _, n := range []int{1, 100, 1000} {
		if n > s.listeners {
			break
		}
		name := "1 endpoint changed"
		if n > 1 {
			name = fmt.Sprintf("%d endpoints changed", n)
		}
		to("", changed(n, 0, s.endpoints)) // tables of the process grow once
		to(name, changed(n, 1, s.endpoints))
	}
	to("one endpoint more, or less", changed(1, 1, s.endpoints+1))
	to("one endpoint more, or less", changed(1, 1, s.endpoints))
	to("listener removed", state.Apply(map[rules.FrontendKey]*rules.Frontend{s.key(0): nil}, nil))
	to("listener added", changed(1, 0, s.endpoints))
	used := kernelMemory(t)
	if err := p.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // the kernel frees behind a grace period
	return used - kernelMemory(t)
}

// ownCPU is the time that this process took so far.
func ownCPU(t *testing.T) time.Duration {
	t.Helper()
	var spec unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &spec); err != nil {
		t.Fatal(err)
	}
	return time.Duration(spec.Nano())
}

// kernelMemory is what the kernel holds for itself, in bytes.
func kernelMemory(t *testing.T) float64 {
	t.Helper()
	total := 0.0
	for _, name := range []string{"Slab", "Percpu", "VmallocUsed"} {
		total += procValue(t, "/proc/meminfo", name)
	}
	return total
}
