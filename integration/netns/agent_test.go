package netns_test

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

const examples = "../../examples"

// agentLab is a lab whose node runs the agent's binary on a copy of the examples.
type agentLab struct {
	*netns.Lab
	t        *testing.T
	backend  backend
	manifest string // the routing example
	backends string
	status   string
	running  *netns.Process // nil before start
}

func newAgentLab(t *testing.T, b backend, example string) *agentLab {
	t.Helper()
	return newAgentLabWith(t, b, example, guidePods...)
}

func newAgentLabWith(t *testing.T, b backend, example string, pods ...netns.PodSpec) *agentLab {
	t.Helper()
	if os.Getenv(agentEnv) == "" {
		t.Fatal("the agent could not be built")
	}
	a := &agentLab{Lab: netns.LabForTest(t, pods...), t: t, backend: b}
	b.hint(t, a.Node)
	if err := a.Serve(podPort); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a.manifest = filepath.Join(dir, "manifests", "routing.yaml")
	a.backends = filepath.Join(dir, "manifests", "backends.yaml")
	a.status = filepath.Join(dir, "status.yaml")
	if err := os.Mkdir(filepath.Dir(a.manifest), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, a.manifest, readFile(t, filepath.Join(examples, example)))
	writeFile(t, a.backends, readFile(t, filepath.Join(examples, "tcp-routing-backends.yaml")))
	t.Cleanup(func() {
		if a.running != nil {
			a.running.Kill()
		}
	})
	return a
}

func (a *agentLab) command(flags ...string) *exec.Cmd {
	return exec.Command(os.Getenv(agentEnv), flags...)
}

// start runs the agent on the manifests.
func (a *agentLab) start(flags ...string) {
	a.t.Helper()
	process, err := a.Node.Run(a.command(append([]string{
		"--backend", a.backend.agent, "--manifests", a.manifest, "--manifests", a.backends,
		"--node-name", "demo-node", "--node-address", netns.NodeAddr4.String(),
		"--status-out", a.status,
	}, flags...)...))
	if err != nil {
		a.t.Fatal(err)
	}
	a.running = process
	a.t.Cleanup(func() {
		process.Kill()
		if a.t.Failed() {
			a.t.Logf("--- agent, stdout\n%s--- agent, stderr\n%s", process.Stdout(), process.Stderr())
		}
	})
}

// end runs the agent to its end and returns its exit code and error stream.
func (a *agentLab) end(cmd *exec.Cmd) (int, string) {
	a.t.Helper()
	process, err := a.Node.Run(cmd)
	if err != nil {
		a.t.Fatal(err)
	}
	code, err := process.Wait(pollTimeout)
	if err != nil {
		a.t.Fatalf("%v\n%s", err, process.Stderr())
	}
	return code, process.Stderr()
}

func nodePort(port uint16) netip.AddrPort { return netip.AddrPortFrom(netns.NodeAddr4, port) }

// answers reports whether one new connection to a port is answered by a server
// whose name begins with prefix; refused stands for a refusal.
func (a *agentLab) answers(port uint16, prefix string) bool {
	a.t.Helper()
	tally := count(a.t, a.Client, rules.TCP, nodePort(port), 1)
	if prefix == refused {
		return tally.Refused == 1
	}
	for name := range tally.Answers {
		return strings.HasPrefix(name, prefix)
	}
	return false
}

// ready waits until the guide is served.
func (a *agentLab) ready() {
	a.t.Helper()
	for port, prefix := range map[uint16]string{8080: "foo-", 8090: "bar-"} {
		poll(a.t, "the agent serves the guide", func() bool {
			select {
			case <-a.running.Done():
				a.t.Fatalf("the agent has ended:\n%s", a.running.Stderr())
			default:
			}
			return a.answers(port, prefix)
		})
	}
}

func TestAgentServesGuide(t *testing.T) { eachBackend(t, testAgentServesGuide) }

func testAgentServesGuide(on trial) {
	t, b := on.T, on.backend
	for _, example := range []string{"tcp-routing.yaml", "tcp-routing-by-port.yaml"} {
		t.Run(example, func(t *testing.T) {
			a := newAgentLab(t, b, example)
			a.start()
			a.ready()
			for port, want := range map[uint16]map[string]float64{
				8080: {"foo-1": 1, "foo-2": 1},
				8090: {"bar-1": 1},
				8100: {refused: 1},
			} {
				tally := count(t, a.Client, rules.TCP, nodePort(port), 200)
				if err := checkShares(tally, want); err != nil {
					t.Errorf("port %d: %v", port, err)
				}
				if tally.Unreachable > 0 {
					t.Errorf("port %d: refused by ICMP: %s", port, tally)
				}
				if tally.Answered() > 0 && tally.Peers[netns.ClientAddr4] != 200 {
					t.Errorf("port %d: servers saw clients %v", port, tally.Peers)
				}
			}
			poll(t, "the statuses say what is programmed", func() bool {
				status, err := os.ReadFile(a.status)
				return err == nil && strings.Count(string(status), "type: Programmed") == 3 &&
					strings.Count(string(status), "attachedRoutes: 1") == 2
			})
			if err := a.running.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			poll(t, "statuses are printed", func() bool {
				return strings.Count(a.running.Stdout(), "attachedRoutes: 1") == 2
			})
		})
	}
}

// oneBackend is the backendRef of tcp-app-1 in the guide, twoBackends is what the
// tests make of it.
const (
	oneBackend = `
    - name: my-foo-service
      port: 6000
`
	twoBackends = `
    - name: my-foo-service
      port: 6000
      weight: 90
    - name: my-bar-service
      port: 6000
      weight: 10
`
)

func edited(t *testing.T, manifest, from, to string) string {
	t.Helper()
	if strings.Count(manifest, from) != 1 {
		t.Fatalf("want %q once in:\n%s", from, manifest)
	}
	return strings.Replace(manifest, from, to, 1)
}

// An edit is in force soon, however an editor saves it, and no connection is lost
// meanwhile.
func TestAgentAppliesEdits(t *testing.T) { eachBackend(t, testAgentAppliesEdits) }

func testAgentAppliesEdits(on trial) {
	t, b := on.T, on.backend
	a := newAgentLab(t, b, "tcp-routing.yaml")
	a.start()
	a.ready()
	original := readFile(t, a.manifest)
	split := edited(t, original, oneBackend, twoBackends)
	for name, save := range map[string]func(content string){
		"in place": func(content string) { writeFile(t, a.manifest, content) },
		"by rename": func(content string) {
			writeFile(t, a.manifest+"~", content)
			if err := os.Rename(a.manifest+"~", a.manifest); err != nil {
				t.Fatal(err)
			}
		},
	} {
		load := a.Client.StartLoad(nodePort(8080))
		save(split)
		took := poll(t, "the edit is in force "+name, func() bool { return a.answers(8080, "bar-") })
		t.Logf("saved %s: in force for a new connection after %s", name, took)
		if err := checkShares(count(t, a.Client, rules.TCP, nodePort(8080), flows),
			map[string]float64{"foo-1": 45, "foo-2": 45, "bar-1": 10}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		save(original)
		poll(t, "the edit is taken back "+name, func() bool {
			return count(t, a.Client, rules.TCP, nodePort(8080), 100).Answers["bar-1"] == 0
		})
		tally, err := load.Stop()
		if err != nil || load.Lost() > 0 || tally.Resent > 0 {
			t.Errorf("saved %s: %d connections lost: %s (%v)", name, load.Lost(), tally, err)
		}
	}
}

func TestAgentKeepsLastGoodState(t *testing.T) { eachVariant(t, testAgentKeepsLastGoodState) }

func testAgentKeepsLastGoodState(on trial) {
	t, b := on.T, on.backend
	a := newAgentLab(t, b, "tcp-routing.yaml")
	a.start()
	a.ready()
	poll(t, "all is programmed, also what nobody asked for yet", func() bool {
		status, err := os.ReadFile(a.status)
		return err == nil && strings.Contains(string(status), "reason: Programmed")
	})
	good := readFile(t, a.manifest)
	before := b.ours(t, a.Node)
	for name, c := range map[string]struct{ from, to, says string }{
		"unknown field":  {"gatewayClassName:", "gatewayClasName:", "gatewayClasName"},
		"syntax":         {"  listeners:", "  listeners: [", "routing.yaml"},
		"port too large": {"port: 8080", "port: 80800", "80800"},
	} {
		seen := len(a.running.Stderr()) + len(a.running.Stdout())
		writeFile(t, a.manifest, strings.Replace(good, c.from, c.to, 1))
		poll(t, "the agent reports: "+name, func() bool {
			return strings.Contains((a.running.Stderr() + a.running.Stdout())[seen:], c.says)
		})
		for port, prefix := range map[uint16]string{8080: "foo-", 8090: "bar-"} {
			if !a.answers(port, prefix) {
				t.Errorf("%s: port %d no longer answers", name, port)
			}
		}
		if diff := cmp.Diff(before, b.ours(t, a.Node)); diff != "" {
			t.Errorf("%s: the rules changed:\n%s", name, diff)
		}
		writeFile(t, a.manifest, good)
	}
	writeFile(t, a.manifest, edited(t, good, oneBackend, twoBackends))
	poll(t, "a good edit is in force after the bad ones", func() bool { return a.answers(8080, "bar-") })
}

func TestAgentDeathHarmsNothing(t *testing.T) { eachBackend(t, testAgentDeathHarmsNothing) }

func testAgentDeathHarmsNothing(on trial) {
	t, b := on.T, on.backend
	for name, kill := range map[string]func(*netns.Process){
		"SIGKILL": (*netns.Process).Kill,
		"SIGTERM": func(p *netns.Process) {
			if code, err := p.Stop(); code != 0 || err != nil {
				t.Errorf("SIGTERM: exit code %d (%v)", code, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgentLab(t, b, "tcp-routing.yaml")
			a.start()
			a.ready()
			conn, err := a.Client.Dial(netip.AddrPort{}, nodePort(8080))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			if err := conn.SetDeadline(testDeadline()); err != nil {
				t.Fatal(err)
			}
			load := a.Client.StartLoad(nodePort(8080))
			flow := func() {
				want := load.Opened() + 100
				poll(t, "traffic flows", func() bool { return load.Opened() >= want })
			}
			flow()
			kill(a.running)
			flow()
			echo := conn.Echo("the agent is gone")
			manifest := readFile(t, a.manifest)
			writeFile(t, a.manifest, edited(t, manifest, oneBackend, twoBackends))
			a.start()
			poll(t, "the new process applies what changed meanwhile", func() bool { return a.answers(8080, "bar-") })
			flow()
			if err := errors.Join(echo, conn.Echo("another agent")); err != nil {
				t.Errorf("established connection: %v", err)
			}
			if tally, err := load.Stop(); err != nil || load.Lost() > 0 || tally.Resent > 0 {
				t.Errorf("%d connections lost: %s (%v)", load.Lost(), tally, err)
			}
		})
	}
}

// --cleanup leaves what others have, in whichever of the three, as it was.
func TestAgentCleanup(t *testing.T) { eachVariant(t, testAgentCleanup) }

func testAgentCleanup(on trial) {
	t, b := on.T, on.backend
	a := newAgentLab(t, b, "tcp-routing.yaml")
	b.loadOthers(t, a.Node)
	before := others(t, a.Node)
	a.start()
	a.ready()
	if code, err := a.running.Stop(); code != 0 || err != nil {
		t.Errorf("SIGTERM: exit code %d (%v)", code, err)
	}
	if !a.answers(8080, "foo-") {
		t.Error("the rules went with the agent")
	}
	if code, stderr := a.end(a.command("--cleanup")); code != 0 {
		t.Errorf("--cleanup: exit code %d\n%s", code, stderr)
	}
	if diff := cmp.Diff(before, others(t, a.Node)); diff != "" {
		t.Errorf("rules of others (-before the agent +after --cleanup):\n%s", diff)
	}
	for _, port := range []uint16{8080, 8090} {
		if !a.answers(port, refused) {
			t.Errorf("port %d after --cleanup is not refused by the node", port)
		}
	}
	if code, stderr := a.end(a.command("--cleanup")); code != 0 {
		t.Errorf("second --cleanup: exit code %d\n%s", code, stderr)
	}
}

// The agent turns forwarding on only when told to, and says that it is off.
func TestAgentSetsForwardingWhenTold(t *testing.T) {
	const setting = "net/ipv4/ip_forward"
	a := newAgentLab(t, nft, "tcp-routing.yaml")
	if err := a.Node.SetSysctl(setting, "0"); err != nil {
		t.Fatal(err)
	}
	a.start()
	poll(t, "the agent says that forwarding is off", func() bool {
		return strings.Contains(a.running.Stderr(), "net.ipv4.ip_forward=1")
	})
	if code, err := a.running.Stop(); code != 0 || err != nil {
		t.Errorf("SIGTERM: exit code %d (%v)", code, err)
	}
	if value, err := a.Node.Sysctl(setting); value != "0" || err != nil {
		t.Errorf("%s is %s (%v), the agent was not told to set it", setting, value, err)
	}
	a.start("--set-sysctls")
	a.ready()
	if value, err := a.Node.Sysctl(setting); value != "1" || err != nil {
		t.Errorf("%s is %s (%v) with --set-sysctls", setting, value, err)
	}
}

// Without rights over the namespace the agent says so in one sentence, exits with
// 1 and leaves nothing.
func TestAgentWithoutRights(t *testing.T) { eachVariant(t, testAgentWithoutRights) }

func testAgentWithoutRights(on trial) {
	t, b := on.T, on.backend
	a := newAgentLab(t, b, "tcp-routing.yaml")
	before := others(t, a.Node)
	for name, flags := range map[string][]string{
		"run":     {"--backend", b.agent, "--manifests", a.manifest, "--manifests", a.backends, "--node-name", "demo-node"},
		"cleanup": {"--cleanup"},
	} {
		cmd := a.command(flags...)
		// A user namespace of its own has no rights over the node's network.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		}
		code, stderr := a.end(cmd)
		if code != 1 {
			t.Errorf("%s: exit code %d, want 1\n%s", name, code, stderr)
		}
		if lines := strings.Split(strings.TrimSpace(stderr), "\n"); len(lines) != 1 || lines[0] == "" {
			t.Errorf("%s: want one sentence, got %d lines:\n%s", name, len(lines), stderr)
		}
		if !strings.Contains(stderr, "NET_ADMIN") {
			t.Errorf("%s: does not name the right that is missing: %s", name, stderr)
		}
	}
	if diff := cmp.Diff(before, others(t, a.Node)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}
