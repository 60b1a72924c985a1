package netns_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
)

// dnsPort is the UDP listener of these tests.
const dnsPort = 5353

// dnsRouting is a Gateway with a UDP listener.
const dnsRouting = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: dns}
spec:
  gatewayClassName: portway
  listeners:
  - {name: udp, protocol: UDP, port: 5353}
  - {name: tcp, protocol: TCP, port: 5353}
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: dns}
spec:
  parentRefs: [{name: dns}]
  rules: [{backendRefs: [{name: dns, port: 53}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: dns}
spec:
  parentRefs: [{name: dns}]
  rules: [{backendRefs: [{name: dns, port: 53}]}]
`

// flowLab is an agentLab with a UDP client that never pauses.
type flowLab struct {
	*agentLab
	stream *netns.Stream
}

func newFlowLab(t *testing.T, b backend) *flowLab {
	t.Helper()
	l := &flowLab{agentLab: newAgentLab(t, b, "tcp-routing.yaml")}
	writeFile(t, l.manifest, dnsRouting)
	// Somebody else's rules make the kernel track flows before ours are there.
	file := filepath.Join(t.TempDir(), "others.nft")
	writeFile(t, file, "table inet others {\nchain c {\ntype filter hook prerouting priority 0\nct state new counter\n}\n}\n")
	nftIn(t, l.Node, "-f", file)
	return l
}

// behind puts pods behind the Service. A pod's name with an exclamation mark is one
// that terminates and still serves.
func (l *flowLab) behind(pods ...string) {
	l.t.Helper()
	manifest := `
apiVersion: v1
kind: Service
metadata: {name: dns}
spec:
  ports:
  - {name: udp, protocol: UDP, port: 53, targetPort: 6000}
  - {name: tcp, protocol: TCP, port: 53, targetPort: 6000}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports:
- {name: udp, protocol: UDP, port: 6000}
- {name: tcp, protocol: TCP, port: 6000}
endpoints:
`
	for _, name := range pods {
		name, leaving := strings.CutSuffix(name, "!")
		manifest += fmt.Sprintf("- {addresses: [%s], conditions: {ready: %t, serving: true, terminating: %t}}\n", l.Pod(name).Addr4, !leaving, leaving)
	}
	if len(pods) == 0 {
		manifest = strings.TrimSuffix(manifest, "\n") + " []\n"
	}
	writeFile(l.t, l.backends, manifest)
}

// open starts the stream.
func (l *flowLab) open() {
	l.t.Helper()
	stream, err := l.Client.StartStream(netip.AddrPortFrom(netns.ClientAddr4, 40000), nodePort(dnsPort), 10*time.Millisecond)
	if err != nil {
		l.t.Fatal(err)
	}
	l.stream = stream
	l.t.Cleanup(func() { _, _ = stream.Stop() })
}

// follows waits until the stream is answered by a pod.
func (l *flowLab) follows(pod string) {
	l.t.Helper()
	took := poll(l.t, "the stream is answered by "+pod, func() bool { return l.stream.Last().Name == pod })
	l.t.Logf("the stream was answered by %s after %s", pod, took)
}

// silent waits until the stream is not answered any more.
func (l *flowLab) silent() {
	l.t.Helper()
	poll(l.t, "the stream is not answered", func() bool {
		return l.stream.Sent() > l.stream.Last().Sequence+20
	})
}

// udpFlows lists the node's tracked UDP flows, with their identities. The tool's
// summary, on the error stream, would end up within a line.
func (l *flowLab) udpFlows() []string {
	l.t.Helper()
	moving := regexp.MustCompile(`^udp +17 \d+ |\[\w+\] |use=\d+ `)
	var flows []string
	listing, err := l.Node.Output("sh", "-c", "conntrack -L -p udp -o id 2>/dev/null")
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(listing) {
		flows = append(flows, moving.ReplaceAllString(strings.TrimSpace(line), ""))
	}
	slices.Sort(flows)
	return flows
}

// others are flows that pass this node and are none of ours.
func (l *flowLab) others(count int) []string {
	l.t.Helper()
	for i := range count {
		from := netip.AddrPortFrom(netns.ClientAddr4, uint16(20000+i))
		if _, err := l.Client.AskUDP(from, netip.AddrPortFrom(l.Pod("bar-1").Addr4, podPort)); err != nil {
			l.t.Fatal(err)
		}
	}
	flows := slices.DeleteFunc(l.udpFlows(), func(flow string) bool { return strings.Contains(flow, "dport=5353") })
	if len(flows) != count {
		l.t.Fatalf("%d flows of others, want %d", len(flows), count)
	}
	return flows
}

// TestUDPStreamFollowsItsBackend: the client never pauses, so that its flow never
// times out (kubernetes#66651), and flows of others are left alone (#122740).
func TestUDPStreamFollowsItsBackend(t *testing.T) { eachBackend(t, testUDPStreamFollowsItsBackend) }

func testUDPStreamFollowsItsBackend(on trial) {
	t, b := on.T, on.backend
	l := newFlowLab(t, b)
	l.behind("foo-1")
	others := l.others(1000)
	l.start()
	l.open()
	l.follows("foo-1")

	l.behind("foo-2")
	l.follows("foo-2")
	l.behind("foo-1")
	l.follows("foo-1")
	l.behind() // as with a Deployment of no replicas
	l.silent()
	l.behind("foo-2")
	l.follows("foo-2")

	left := slices.DeleteFunc(l.udpFlows(), func(flow string) bool { return strings.Contains(flow, "dport=5353") })
	if diff := cmp.Diff(others, left); diff != "" {
		t.Errorf("flows of others (-before +after):\n%s", diff)
	}
}

// TestUDPStreamDrains: as long as an endpoint serves, it keeps the flows it has.
func TestUDPStreamDrains(t *testing.T) { eachBackend(t, testUDPStreamDrains) }

func testUDPStreamDrains(on trial) {
	t, b := on.T, on.backend
	l := newFlowLab(t, b)
	l.behind("foo-1")
	l.start()
	l.open()
	l.follows("foo-1")
	l.behind("foo-1!", "foo-2")
	poll(t, "new flows reach foo-2", func() bool {
		answer, err := l.Client.AskUDP(netip.AddrPortFrom(netns.ClientAddr4, 0), nodePort(dnsPort))
		return err == nil && answer.Name == "foo-2"
	})
	from := l.stream.Sent()
	poll(t, "the stream goes on", func() bool { return l.stream.Last().Sequence > from+100 })
	if last := l.stream.Last(); last.Name != "foo-1" {
		t.Errorf("the stream is answered by %s, although foo-1 still serves", last.Name)
	}
	l.behind("foo-2")
	l.follows("foo-2")
}

// TestUDPStreamFromBeforeTheRules: the flow was tracked when nothing was translated.
func TestUDPStreamFromBeforeTheRules(t *testing.T) { eachVariant(t, testUDPStreamFromBeforeTheRules) }

func testUDPStreamFromBeforeTheRules(on trial) {
	t, b := on.T, on.backend
	l := newFlowLab(t, b)
	l.behind("foo-1")
	l.open()
	poll(t, "the flow is tracked", func() bool { return len(l.udpFlows()) == 1 })
	l.start()
	poll(t, "the agent programs the listener", func() bool {
		answer, err := l.Client.AskUDP(netip.AddrPortFrom(netns.ClientAddr4, 0), nodePort(dnsPort))
		return err == nil && answer.Name == "foo-1"
	})
	l.follows("foo-1")
}

// TestUDPStreamEndsWithItsListener, also when that goes while no agent runs.
func TestUDPStreamEndsWithItsListener(t *testing.T) { eachBackend(t, testUDPStreamEndsWithItsListener) }

func testUDPStreamEndsWithItsListener(on trial) {
	t, b := on.T, on.backend
	without := strings.Replace(dnsRouting, "  - {name: udp, protocol: UDP, port: 5353}\n", "", 1)
	for name, remove := range map[string]func(*flowLab){
		"with an agent": func(l *flowLab) { writeFile(t, l.manifest, without) },
		"without": func(l *flowLab) {
			if code, err := l.running.Stop(); code != 0 || err != nil {
				t.Errorf("SIGTERM: exit code %d (%v)", code, err)
			}
			writeFile(t, l.manifest, without)
			l.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newFlowLab(t, b)
			l.behind("foo-1")
			l.start()
			l.open()
			l.follows("foo-1")
			remove(l)
			l.silent()
		})
	}
}

// TestAgentRestartEndsNoFlow: not one entry of the table is another afterwards.
func TestAgentRestartEndsNoFlow(t *testing.T) { eachBackend(t, testAgentRestartEndsNoFlow) }

func testAgentRestartEndsNoFlow(on trial) {
	t, b := on.T, on.backend
	l := newFlowLab(t, b)
	l.behind("foo-1")
	l.others(50)
	l.start()
	l.open()
	l.follows("foo-1")
	before := l.udpFlows()
	for range 2 {
		if code, err := l.running.Stop(); code != 0 || err != nil {
			t.Errorf("SIGTERM: exit code %d (%v)", code, err)
		}
		l.start("-v=2")
		poll(t, "the agent has looked at all flows", func() bool { return strings.Contains(l.running.Stderr()+l.running.Stdout(), "Looked at flows") })
	}
	if diff := cmp.Diff(before, l.udpFlows()); diff != "" {
		t.Errorf("flows (-before +after):\n%s", diff)
	}
	last := l.stream.Sent()
	poll(t, "the stream goes on", func() bool { return l.stream.Last().Sequence > last })
}

// TestTCPFlowsEndOnRequest: by default a connection to an endpoint that is gone is
// the business of its two ends.
func TestTCPFlowsEndOnRequest(t *testing.T) { eachBackend(t, testTCPFlowsEndOnRequest) }

func testTCPFlowsEndOnRequest(on trial) {
	t, b := on.T, on.backend
	for name, flags := range map[string][]string{"by default": nil, "on request": {"--end-tcp-flows"}} {
		t.Run(name, func(t *testing.T) {
			l := newFlowLab(t, b)
			l.behind("foo-1")
			l.start(flags...)
			poll(t, "the agent serves", func() bool { return l.answers(dnsPort, "foo-1") })
			conn, err := l.Client.Dial(netip.AddrPort{}, nodePort(dnsPort))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			l.behind("foo-1!", "foo-2")
			poll(t, "new connections reach foo-2", func() bool { return l.answers(dnsPort, "foo-2") })
			echo := func() error {
				if err := conn.SetDeadline(testDeadline()); err != nil {
					t.Fatal(err)
				}
				return conn.Echo("still there")
			}
			if err := echo(); err != nil {
				t.Errorf("while the endpoint drains: %v", err)
			}
			l.behind("foo-2")
			if flags == nil {
				poll(t, "the agent has taken the endpoint out", func() bool {
					return !strings.Contains(b.ours(t, l.Node), l.Pod("foo-1").Addr4.String())
				})
				if err := echo(); err != nil {
					t.Errorf("after it is gone: %v", err)
				}
				return
			}
			poll(t, "the connection ends", func() bool { return echo() != nil })
		})
	}
}
