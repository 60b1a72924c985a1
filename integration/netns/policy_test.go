package netns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/rules"
)

// policyPods are two on the node and two on another one.
var policyPods = []netns.PodSpec{{Name: "near-1", Number: 10}, {Name: "near-2", Number: 11}, {Name: "far-1", Number: 20, Far: true}, {Name: "far-2", Number: 21, Far: true}}

// serviceOf is the Service dns with more in its spec, and both families of the pods
// behind it, each on its node and hinted at the zone of its name.
func (a *agentLab) serviceOf(spec string, pods ...string) {
	a.t.Helper()
	manifest := `
apiVersion: v1
kind: Service
metadata: {name: dns}
spec:
  ` + spec + `
  ports:
  - {name: udp, protocol: UDP, port: 53, targetPort: 6000}
  - {name: tcp, protocol: TCP, port: 53, targetPort: 6000}
`
	for _, family := range []string{"IPv4", "IPv6"} {
		manifest += fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-%[1]s, labels: {kubernetes.io/service-name: dns}}
addressType: %[2]s
ports:
- {name: udp, protocol: UDP, port: 6000}
- {name: tcp, protocol: TCP, port: 6000}
endpoints:
`, strings.ToLower(family), family)
		if len(pods) == 0 {
			manifest = strings.TrimSuffix(manifest, "\n") + " []\n"
		}
		for _, name := range pods {
			pod := a.Pod(name)
			addr, node := pod.Addr4, "demo-node"
			if family == "IPv6" {
				addr = pod.Addr6
			}
			if pod.Far {
				node = "far-node"
			}
			manifest += fmt.Sprintf("- {addresses: ['%s'], nodeName: %s, hints: {forZones: [{name: zone-of-%s}]}}\n", addr, node, name)
		}
	}
	writeFile(a.t, a.backends, manifest)
}

// TestAgentHonoursWhatServicesAsk sends packets through what Services ask for.
func TestAgentHonoursWhatServicesAsk(t *testing.T) { eachBackend(t, testAgentHonoursWhatServicesAsk) }

func testAgentHonoursWhatServicesAsk(on trial) {
	t, b := on.T, on.backend
	nodes := []netip.AddrPort{nodePort(dnsPort), netip.AddrPortFrom(netns.NodeAddr6, dnsPort)}
	for name, test := range map[string]struct {
		spec  string
		flags []string
		pods  []string
		want  []string // who answers, of the pods; "one": always the same one
	}{
		"nothing":                   {"", nil, []string{"near-1", "far-1"}, []string{"near-1", "far-1"}},
		"externalTrafficPolicy":     {"type: NodePort\n  externalTrafficPolicy: Local", nil, []string{"near-1", "far-1"}, []string{"near-1"}},
		"none of them here":         {"type: NodePort\n  externalTrafficPolicy: Local", nil, []string{"far-1", "far-2"}, []string{refused}},
		"endpoints of the zone":     {"", []string{"--node-zone", "zone-of-far-1"}, []string{"near-1", "far-1"}, []string{"far-1"}},
		"no endpoints in the zone":  {"", []string{"--node-zone", "elsewhere"}, []string{"near-1", "far-1"}, []string{"near-1", "far-1"}},
		"sessionAffinity: ClientIP": {"sessionAffinity: ClientIP", nil, []string{"near-1", "near-2", "far-1", "far-2"}, []string{"one"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgentLabWith(t, b, "tcp-routing.yaml", policyPods...)
			writeFile(t, a.manifest, dnsRouting)
			a.serviceOf(test.spec, test.pods...)
			a.start(append(test.flags, "--node-address", netns.NodeAddr6.String())...)
			for _, at := range nodes {
				poll(t, "the agent has programmed "+at.String(), func() bool { return b.listens(t, a.Node, at) })
				tally := count(t, a.Client, rules.TCP, at, 40)
				switch {
				case test.want[0] == refused && tally.Refused != 40,
					test.want[0] == "one" && (len(tally.Answers) != 1 || tally.Answered() != 40),
					test.want[0] != refused && test.want[0] != "one" && (len(tally.Answers) != len(test.want) || tally.Answered() != 40):
					t.Errorf("%s: %s, want %v", at, tally, test.want)
				}
				for _, name := range test.want {
					if name != refused && name != "one" && tally.Answers[name] == 0 {
						t.Errorf("%s: %s, want %s, too", at, tally, name)
					}
				}
			}
		})
	}
}

// TestUDPStreamFollowsBeyondTheNode: IPv6, and endpoints elsewhere, to which flows are
// masqueraded.
func TestUDPStreamFollowsBeyondTheNode(t *testing.T) {
	eachBackend(t, testUDPStreamFollowsBeyondTheNode)
}

func testUDPStreamFollowsBeyondTheNode(on trial) {
	t, b := on.T, on.backend
	for name, c := range map[string]struct{ client, node netip.Addr }{
		"IPv4": {netns.ClientAddr4, netns.NodeAddr4}, "IPv6": {netns.ClientAddr6, netns.NodeAddr6},
	} {
		for _, spec := range []string{"", "sessionAffinity: ClientIP"} {
			t.Run(name+spec, func(t *testing.T) {
				l := &flowLab{agentLab: newAgentLabWith(t, b, "tcp-routing.yaml", policyPods...)}
				writeFile(t, l.manifest, dnsRouting)
				l.serviceOf(spec, "far-1")
				l.start("--node-address", netns.NodeAddr6.String())
				stream, err := l.Client.StartStream(netip.AddrPortFrom(c.client, 40000), netip.AddrPortFrom(c.node, dnsPort), 10*time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				l.stream = stream
				t.Cleanup(func() { _, _ = stream.Stop() })
				for _, pod := range []string{"far-1", "far-2", "near-1", "far-1"} {
					l.serviceOf(spec, pod)
					l.follows(pod)
				}
			})
		}
	}
}
