package netns_test

import (
	"context"
	"net/netip"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// podPort is where all servers of a lab listen.
const podPort = 6000

// guidePods stand behind my-foo-service and my-bar-service of the TCP guide.
var guidePods = []netns.PodSpec{
	{Name: "foo-1", Number: 10},
	{Name: "foo-2", Number: 11},
	{Name: "bar-1", Number: 20},
}

var nodeAddrs = []netip.Addr{netns.NodeAddr4, netns.NodeAddr6}

// fixture is a lab with servers and a programmer on its node.
type fixture struct {
	*netns.Lab
	t          *testing.T
	backend    backend
	programmer programmer
	state      *rules.State
}

func newFixture(t *testing.T, b backend, pods ...netns.PodSpec) *fixture {
	t.Helper()
	f := &fixture{Lab: netns.LabForTest(t, pods...), t: t, backend: b, state: &rules.State{}}
	if err := f.Serve(podPort); err != nil {
		t.Fatal(err)
	}
	f.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- State\n%s", netns.DumpState(f.state))
		}
		f.stop()
	})
	return f
}

// start opens a programmer on the node, as a starting agent does.
func (f *fixture) start() {
	f.t.Helper()
	err := f.Node.Do(func() (err error) {
		f.programmer, err = f.backend.open()
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// stop closes the programmer; what it programmed stays.
func (f *fixture) stop() {
	f.t.Helper()
	if f.programmer == nil {
		return
	}
	if err := f.programmer.Close(); err != nil {
		f.t.Error(err)
	}
	f.programmer = nil
}

// program brings a State into the node's kernel.
func (f *fixture) program(state *rules.State) rules.Results {
	f.t.Helper()
	f.state = state
	var results rules.Results
	err := f.Node.Do(func() (err error) {
		results, err = f.programmer.Program(f.t.Context(), state)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	for gateway, err := range results.Errors {
		f.t.Fatalf("gateway %s: %v", gateway, err)
	}
	return results
}

// cleanup removes the rules as --cleanup does.
func (f *fixture) cleanup() {
	f.t.Helper()
	err := f.Node.Do(func() error { return f.programmer.Cleanup(context.WithoutCancel(f.t.Context())) })
	if err != nil {
		f.t.Fatal(err)
	}
}

// service is a backendRef with the pods behind it.
type service struct {
	name   string
	weight uint32
	pods   []string
}

// listener is one listener on all addresses of the node.
type listener struct {
	protocol rules.Protocol
	port     uint16
	services []service
}

const gateway = "default/my-gateway"

// serving returns the State of a few listeners, on both addresses of the node.
func (f *fixture) serving(listeners ...listener) *rules.State {
	f.t.Helper()
	frontends := map[rules.FrontendKey]*rules.Frontend{}
	for _, l := range listeners {
		for _, addr := range nodeAddrs {
			key := rules.FrontendKey{Addr: addr, Protocol: l.protocol, Port: l.port}
			frontend := &rules.Frontend{
				Owner: rules.Owner{Gateway: gateway, Listener: "listener", Route: "default/route"},
			}
			if l.protocol == rules.UDP {
				frontend.Select = rules.FlowHash
			}
			for _, s := range l.services {
				frontend.Backends = append(frontend.Backends, rules.Backend{
					Ref: "default/" + s.name, Weight: s.weight, Endpoints: f.endpoints(addr, s.pods),
				})
			}
			frontends[key] = frontend
		}
	}
	state := rules.NewState(frontends, map[string]string{gateway: "1:test"})
	if err := state.Validate(); err != nil {
		f.t.Fatal(err)
	}
	return state
}

// endpoints are the pods of a name in the family of an address.
func (f *fixture) endpoints(family netip.Addr, pods []string) []rules.Endpoint {
	f.t.Helper()
	var endpoints []rules.Endpoint
	for _, name := range pods {
		pod := f.Pod(name)
		if pod == nil {
			f.t.Fatalf("no pod %s in this lab", name)
		}
		addr := pod.Addr4
		if family.Is6() {
			addr = pod.Addr6
		}
		endpoints = append(endpoints, rules.Endpoint{
			Addr: netip.AddrPortFrom(addr, podPort), Name: "default/" + name, Local: !pod.Far,
		})
	}
	return endpoints
}

// count sends flows from a namespace and counts who answered.
func count(t *testing.T, from *netns.Namespace, protocol rules.Protocol, to netip.AddrPort, flows int) netns.Tally {
	t.Helper()
	counter := from.CountTCP
	if protocol == rules.UDP {
		counter = from.CountUDP
	}
	tally, err := counter(to, flows)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range tally.Failed {
		t.Errorf("%s %s: %v", protocol, to, err)
	}
	return tally
}

// pollTimeout is when tests give up waiting for something that takes
// milliseconds.
const pollTimeout = 5 * time.Second

// poll waits until a condition holds and returns how long that took.
func poll(t *testing.T, what string, condition func() bool) time.Duration {
	t.Helper()
	return pollFor(t, pollTimeout, what, condition)
}

// pollFor waits no longer than it is told.
func pollFor(t *testing.T, timeout time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Since(start) > timeout {
			t.Fatalf("waited %s in vain until %s", timeout, what)
		}
		<-tick.C
	}
	return time.Since(start)
}

// testDeadline is when a connection of a test gives up.
func testDeadline() time.Time { return time.Now().Add(pollTimeout) }

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// counters are the numbers of a listing that traffic changes.
var counters = regexp.MustCompile(`packets \d+ bytes \d+`)
