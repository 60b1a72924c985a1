package control

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/portway-dev/portway/api/v1alpha1"
	"github.com/portway-dev/portway/integration/bench/apisim"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/topology"
)

// binaries are built once.
var binaries = sync.OnceValues(func() (string, error) {
	directory, err := os.MkdirTemp("", "portway-bench")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", directory, "../../../cmd/portway-agent", "../../../cmd/portway-controller").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return directory, nil
})

// process is a program of ours under measurement.
type process struct {
	cmd *exec.Cmd
	log string
}

// launch starts a program in a namespace, against an API server. It is stopped at the end of
// the test.
func launch(t *testing.T, in *netns.Namespace, api *apisim.Server, program string, args ...string) *process {
	t.Helper()
	directory, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, api.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{
		cmd: exec.Command(filepath.Join(directory, program), append([]string{"--kubeconfig", kubeconfig, "--namespace", system}, args...)...),
		log: filepath.Join(t.TempDir(), program+".log"),
	}
	file, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // the process has it
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if err := in.Start(p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			text, _ := os.ReadFile(p.log)
			t.Logf("%s:\n%s", program, text[:min(len(text), 8000)])
		}
	})
	return p
}

// stop ends the process, if it still runs.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s: %v", p.cmd.Path, err)
	}
}

// cpu is the time that all threads of the process took so far.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	const schedClock = 2 // CPUCLOCK_SCHED: clock_getcpuclockid(3)
	var spec unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid)<<3|schedClock, &spec); err != nil {
		t.Fatal(err)
	}
	return time.Duration(spec.Nano())
}

// memory reads a value of /proc/PID/status, in bytes.
func (p *process) memory(t *testing.T, name string) float64 {
	t.Helper()
	return procValue(t, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), name)
}

// messages are the netlink messages that an agent has exchanged so far, by direction.
func (p *process) messages(t *testing.T, in *netns.Namespace) map[string]float64 {
	t.Helper()
	var connection net.Conn
	err := in.Do(func() (err error) {
		connection, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", topology.AgentPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return connection, nil }, DisableKeepAlives: true,
	}}
	answer, err := client.Get("http://agent/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }() // only read
	found := map[string]float64{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		for _, direction := range []string{"sent", "received"} {
			if value, ok := strings.CutPrefix(lines.Text(), fmt.Sprintf("portway_agent_netlink_messages_total{direction=%q} ", direction)); ok {
				if found[direction], err = strconv.ParseFloat(value, 64); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(found) != 2 {
		t.Fatalf("the agent's metrics tell of messages %v", found)
	}
	return found
}

// procValue reads a value in kB, in bytes.
func procValue(t *testing.T, path, name string) float64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			var kib float64
			if _, err := fmt.Sscanf(value, "%f kB", &kib); err != nil {
				t.Fatalf("%s%s: %v", name, value, err)
			}
			return kib * 1024
		}
	}
	t.Fatalf("no %s in %s", name, path)
	return 0
}

// serveAPI starts an API server in a namespace.
func serveAPI(t *testing.T, in *netns.Namespace) *apisim.Server {
	t.Helper()
	var l net.Listener
	err := in.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	api, err := apisim.Start(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	return api
}

// bench is an agent that serves a site.
type bench struct {
	site
	revisions map[int]int // of the EndpointSlices
	lab       *netns.Lab
	api       *apisim.Server
	agent     *process
	took      time.Duration // from the agent's start to its report of all Gateways
}

// startAgent starts an agent and waits until it reports all Gateways of the site.
func startAgent(t *testing.T, s site, pods ...netns.PodSpec) *bench {
	t.Helper()
	lab, err := netns.NewLab(pods...) // one for tests would be listed when they fail
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{site: s, lab: lab, revisions: map[int]int{}}
	b.api = serveAPI(t, b.lab.Node)
	if err := b.api.Put(s.objects()...); err != nil {
		t.Fatal(err)
	}
	b.launchAgent(t)
	return b
}

func (b *bench) launchAgent(t *testing.T) {
	t.Helper()
	if old, err := b.api.Get(b.report()); err != nil || old != nil {
		if err := b.api.Delete(b.report()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := binaries(); err != nil { // not to be measured
		t.Fatal(err)
	}
	begin := time.Now()
	b.agent = launch(t, b.lab.Node, b.api, "portway-agent", "--node-name", nodeName, "--backend", "nftables")
	until(t, "the agent reports all Gateways", 2*time.Minute, func() bool { return b.reported(t) == b.gateways() })
	b.took = time.Since(begin)
}

func (b *bench) report() *v1alpha1.NodeReport {
	r := &v1alpha1.NodeReport{}
	r.Name = nodeName
	return r
}

// reported is how many Gateways the agent says to have committed.
func (b *bench) reported(t *testing.T) int {
	t.Helper()
	held, err := b.api.Get(b.report())
	if err != nil {
		t.Fatal(err)
	}
	if report, ok := held.(*v1alpha1.NodeReport); ok {
		return int(report.Report.Gateways)
	}
	return 0
}

// replaced returns the EndpointSlice of a Service with one endpoint replaced.
func (b *bench) replaced(service int) *discoveryv1.EndpointSlice {
	b.revisions[service]++
	return b.slice(service, b.revisions[service])
}

// listener is where listener i is reached.
func (b *bench) listener(i int) netip.AddrPort {
	return netip.AddrPortFrom(netns.NodeAddr4, uint16(firstPort+i))
}
