package control

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
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

// kernelParts names what kernelObjects adds up.
const kernelParts = "objects in kmalloc-* of /proc/slabinfo, Percpu and VmallocUsed"

// programming collects what one way to program took.
type programming struct {
	wall, cpu, batches []float64
	sent, received     []float64 // netlink messages
	peak, kernel       []float64 // in rounds of their own
	aim                *figure.Aim
}

// waysToProgram are all of them, in the order of the report.
var waysToProgram = []string{
	"cold load", "restart with rules in place", "nothing to do", "1 endpoint changed", "100 endpoints changed", "1000 endpoints changed",
	"one endpoint more, or less", "listener added", "listener removed",
}

// TestProgramming: what it takes to bring a State into the kernel, without API and decision.
func TestProgramming(t *testing.T) {
	measures(t)
	sizes := effort([]site{{10_000, 10}}, []site{{100, 10}, {1000, 10}, {10_000, 10}}, []site{{1, 1}, {100, 10}, {1000, 10}, {1000, 100}, {10_000, 1}, {10_000, 10}, {10_000, 100}})
	for _, s := range sizes {
		taken := map[string]*programming{}
		var kernel []float64
		for range effort(2, 5, 9) {
			kernel = append(kernel, s.program(t, taken, false))
		}
		for range effort(1, 3, 9) {
			s.program(t, taken, true)
		}
		for _, name := range waysToProgram {
			if p := taken[name]; p != nil { // else there are not as many
				s.recordWay(t, name, p)
			}
		}
		record(t, figure.Figure{
			Section: figure.Programming, Name: "kernel memory of the rules", Listeners: s.listeners, Endpoints: s.endpoints, Unit: "B", Values: kernel,
			Note: "by which Slab, Percpu and VmallocUsed of /proc/meminfo shrink when the table is removed: elements, their hash tables and counters",
		})
	}
}

func (s site) recordWay(t *testing.T, name string, p *programming) {
	t.Helper()
	if name == "cold load" && s == (site{10_000, 10}) {
		p.aim = figure.AtMost(1)
	}
	fig := func(what, unit string, values []float64, aim *figure.Aim, note string) {
		record(t, figure.Figure{
			Section: figure.Programming, Name: name + ": " + what, Listeners: s.listeners, Endpoints: s.endpoints, Unit: unit, Values: values, Aim: aim, Note: note,
		})
	}
	fig("time", "s", p.wall, p.aim, "from a State to the last acknowledgement")
	fig("CPU", "s", p.cpu, nil, "of the process and, for it, the kernel")
	fig("batches sent", "", p.batches, nil, "one sendmsg(2) each; what no longer leads anywhere is deleted in one of its own")
	fig("netlink messages sent", "", p.sent, nil, "in these batches, those that begin and end one included, and questions")
	fig("netlink messages received", "", p.received, nil, "acknowledgements, and answers to questions")
	fig("memory at the peak", "B", p.peak, nil, "by which the process grows meanwhile, resident, after it has given back all that is free; in rounds of their own")
	fig("kernel memory", "B", p.kernel, nil, "by which "+kernelParts+" have grown half a second later, whoever else uses them; in rounds of their own")
}

// program goes through the life of a ruleset once and returns the kernel memory it took. Time
// is taken, or memory: to look at that takes time, and gives back what the next step would use.
func (s site) program(t *testing.T, taken map[string]*programming, memory bool) float64 {
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
	kernel := 0.0
	if memory {
		kernel = settledKernel(t, kernelObjects)
	}
	to := func(name string, next *rules.State) {
		before := 0.0
		if memory {
			before = shrink(t)
		}
		batches, cpu, began := p.Stats().Batches, ownCPU(t), time.Now()
		results, err := p.Program(t.Context(), next)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		took, used := time.Since(began), ownCPU(t)-cpu
		grown, heldBefore := 0.0, kernel
		if memory {
			grown = procValue(t, "/proc/self/status", "VmHWM") - before
			kernel = settledKernel(t, kernelObjects)
		}
		if state = next; name == "" {
			return
		}
		if taken[name] == nil {
			taken[name] = &programming{}
		}
		of := taken[name]
		if memory {
			of.peak, of.kernel = append(of.peak, grown), append(of.kernel, kernel-heldBefore)
			return
		}
		of.wall, of.cpu = append(of.wall, took.Seconds()), append(of.cpu, used.Seconds())
		of.batches = append(of.batches, float64(p.Stats().Batches-batches))
		of.sent, of.received = append(of.sent, float64(results.Sent)), append(of.received, float64(results.Received))
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
	used := settledKernel(t, kernelMemory)
	if err := p.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return used - settledKernel(t, kernelMemory)
}

// shrink gives back all that is free and returns what is resident: where the peak begins.
func shrink(t *testing.T) float64 {
	t.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // resets the peak: proc_pid_clear_refs(5)
		t.Fatal(err)
	}
	return procValue(t, "/proc/self/status", "VmRSS")
}

// settledKernel waits before it reads: the kernel frees behind a grace period.
func settledKernel(t *testing.T, read func(*testing.T) float64) float64 {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	return read(t)
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

// kernelMemory is what the kernel holds for itself, in bytes: pages.
func kernelMemory(t *testing.T) float64 {
	t.Helper()
	return procValue(t, "/proc/meminfo", "Slab") + kernelTables(t)
}

// kernelObjects is how much of it are objects of the caches that rules are in. It moves less by
// what others do than pages, which are shared and given back late.
func kernelObjects(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		t.Fatal(err)
	}
	total := kernelTables(t)
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "kmalloc-") || strings.HasPrefix(line, "kmalloc-rcl-") {
			continue
		}
		var name string
		var used, all, size float64
		if _, err := fmt.Sscan(line, &name, &used, &all, &size); err != nil {
			t.Fatalf("/proc/slabinfo: %v in %q", err, line)
		}
		total += used * size
	}
	return total
}

func kernelTables(t *testing.T) float64 {
	t.Helper()
	return procValue(t, "/proc/meminfo", "Percpu") + procValue(t, "/proc/meminfo", "VmallocUsed")
}
