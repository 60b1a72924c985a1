package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// Ports of TestBesideOthers: those of listeners next to those of Services.
const (
	oursPort   = 30100 // listener, to "ours"
	nodePort   = 30101 // of Service "theirs"
	sharedPort = 30102 // listener, to "theirs"
	hostPort   = 30103 // listener, to "host", which is in the network of its node
)

// agentLabel is what nodes with an agent have.
const agentLabel = "e2e.portway.dev/agent"

// TestBesideOthers: kube-proxy in both modes, Docker and firewalls on the nodes that we
// serve on, and both of our backends beside them. Each step begins with what the one
// before it left.
func TestBesideOthers(t *testing.T) {
	b := besideOthers(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"kube-proxy-nftables", b.undisturbed},
		{"backend-iptables", func(t *testing.T) { t.Helper(); b.switchBackend(t, "iptables") }},
		{"kube-proxy-iptables", func(t *testing.T) { t.Helper(); b.switchProxy(t, lab.ProxyIPTables) }},
		{"reload-iptables", b.reload},
		{"cleanup-iptables", func(t *testing.T) { t.Helper(); b.cleanup(t, lab.ProxyIPTables) }},
		{"cleanup-legacy", func(t *testing.T) { t.Helper(); b.cleanup(t, lab.ProxyLegacy) }},
		{"backend-nftables", func(t *testing.T) { t.Helper(); b.switchBackend(t, "nftables") }},
		{"undisturbed", b.undisturbed},
		{"no-findings", b.nothingWasFound},
		{"forward-drop", b.forwardDrop},
		{"foreign-drop", b.foreignDrop},
		{"firewalld", b.firewalld},
		{"cleanup-nftables", func(t *testing.T) { t.Helper(); b.cleanup(t, lab.ProxyNFTables) }},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

// beside is a cluster with kube-proxy.
type beside struct {
	*space
	mode     string // of kube-proxy
	backend  string // of the agents
	joined   int    // nodes that joined later
	services map[string]*corev1.Service
	client   *lab.Place // a pod that serves nobody
}

func besideOthers(t *testing.T) *beside {
	t.Helper()
	c := startWith(t, Options{CRDs: lab.CRDsStandard, KubeProxy: lab.ProxyNFTables, Deployment: "deploy-beside"})
	for i := range Nodes {
		c.label(t, i+1, agentLabel+"=yes")
	}
	if err := c.Deploy(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b := &beside{space: c.space(t, "beside"), mode: lab.ProxyNFTables, backend: "nftables", services: map[string]*corev1.Service{}}
	ported := strings.NewReplacer("spec:\n  selector:", "spec:\n  type: NodePort\n  selector:",
		"protocol: TCP", fmt.Sprintf("protocol: TCP, nodePort: %d", nodePort), "protocol: UDP", fmt.Sprintf("protocol: UDP, nodePort: %d", nodePort))
	b.apply(t, backend("ours", 1), ported.Replace(backend("theirs", 1)), backend("client", 1), hostBackend, services, gateway("gw", oursPort, sharedPort, hostPort))
	for port, to := range map[int]string{oursPort: "ours", sharedPort: "theirs", hostPort: "host"} {
		for kind, protocol := range map[string]string{"TCPRoute": "tcp", "UDPRoute": "udp"} {
			b.apply(t, route(kind, to, fmt.Sprintf("gw:%s-%d", protocol, port), to))
		}
	}
	for _, name := range []string{"ours", "theirs", "client", "host"} {
		b.ready(t, name, 1)
	}
	for _, name := range []string{"ours", "theirs"} {
		service, err := c.Kube.CoreV1().Services(b.name).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b.services[name] = service
	}
	b.programmed(t, "gw")
	b.client = b.in(t, "client")
	return b
}

// hostBackend is a server in the network of its node: flows to it end in INPUT.
const hostBackend = `
apiVersion: v1
kind: Service
metadata: {name: host}
spec:
  selector: {app: host}
  ipFamilyPolicy: PreferDualStack
  ports:
  - {name: tcp, port: 6000, targetPort: 6100, protocol: TCP}
  - {name: udp, port: 6000, targetPort: 6100, protocol: UDP}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: host}
spec:
  replicas: 1
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      hostNetwork: true
      containers:
      - name: echo
        image: portway-lab/echo:v1
        args: ["6100"]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
`

// services make kube-proxy reject (no endpoint) and drop (none on this node), of which
// nothing is about our flows.
const services = `
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  type: NodePort
  selector: {app: nobody}
  ipFamilyPolicy: PreferDualStack
  externalIPs: [198.51.100.1]
  ports: [{port: 6000, nodePort: 30104}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  selector: {app: theirs}
  ipFamilyPolicy: PreferDualStack
  externalTrafficPolicy: Local
  ports: [{port: 6000, nodePort: 30105}]
`

func (c *Cluster) label(t *testing.T, node int, label string) {
	t.Helper()
	if _, err := c.Kubectl(t.Context(), "label", "node", fmt.Sprintf("node%d", node), label); err != nil {
		t.Fatal(err)
	}
}

// pod is the one pod of a Deployment.
func (s *space) pod(t *testing.T, deployment string) *corev1.Pod {
	t.Helper()
	pods, err := s.Kube.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + deployment})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods.Items {
		if pods.Items[i].DeletionTimestamp == nil {
			return &pods.Items[i]
		}
	}
	t.Fatalf("%s has no pod", deployment)
	return nil
}

// in is the place of that pod.
func (s *space) in(t *testing.T, deployment string) *lab.Place {
	t.Helper()
	place, err := s.Pod(t.Context(), s.name, s.pod(t, deployment).Name, "")
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// undisturbed: neither changes of endpoints nor starts of the agents and of kube-proxy
// refuse anybody anything, and afterwards all is as it was.
func (b *beside) undisturbed(t *testing.T) { //nolint:thelper // a step of TestBesideOthers
	b.everythingServes(t)
	b.during(t, func() {
		for _, name := range []string{"ours", "theirs"} {
			b.scale(t, name, 2)
		}
		b.restartAgents(t)
		b.startProxies(t)
		for _, name := range []string{"ours", "theirs"} {
			b.scale(t, name, 1)
		}
	}, append(b.ourStreams(t), b.theirStreams(t)...))
	b.everythingServes(t)
}

// switchProxy changes kube-proxy on all nodes, which for a moment serves nobody.
func (b *beside) switchProxy(t *testing.T, mode string) {
	t.Helper()
	b.mode = mode
	b.during(t, func() { b.startProxies(t) }, b.ourStreams(t))
	b.everythingServes(t)
}

func (b *beside) startProxies(t *testing.T) {
	t.Helper()
	for i := range Nodes {
		if err := b.Proxy(i+1, b.mode); err != nil {
			t.Fatal(err)
		}
	}
}

// switchBackend changes ours on all nodes. Nobody notices, and the former one leaves
// nothing.
func (b *beside) switchBackend(t *testing.T, backend string) {
	t.Helper()
	b.backend = backend
	b.during(t, func() {
		b.kubectl(t, "patch", "-n", System, "daemonset/portway-agent", "--type=json", "-p",
			`[{"op":"add","path":"/spec/template/spec/containers/0/args","value":["--backend=`+backend+`"]}]`)
		b.restartAgents(t)
		for i := range Nodes {
			eventually(t, settle, func() error {
				r, err := b.report(t.Context(), i+1)
				if err == nil && r.Backend != backend {
					err = fmt.Errorf("node%d reports backend %s, want %s", i+1, r.Backend, backend)
				}
				return err
			})
			for of, sign := range map[string]string{"nftables": "table inet portway {", "iptables": "chain PORTWAY-SERVICES {"} {
				if strings.Contains(b.on(t, i+1, "nft", "list", "ruleset"), sign) != (of == backend) {
					t.Errorf("node%d with backend %s: %q is in the kernel: %t", i+1, backend, sign, of != backend)
				}
			}
		}
		b.everythingServes(t)
	}, append(b.ourStreams(t), b.theirStreams(t)...))
}

// restartAgents kills the agents and waits for their successors.
func (b *beside) restartAgents(t *testing.T) {
	t.Helper()
	list := func() *corev1.PodList {
		pods, err := b.Kube.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
		if err != nil {
			t.Fatal(err)
		}
		return pods
	}
	former, none := map[string]bool{}, int64(0)
	for _, pod := range list().Items {
		former[pod.Name] = true
		if err := b.Kube.CoreV1().Pods(System).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, func() error {
		ready := 0
		for _, pod := range list().Items {
			for _, c := range pod.Status.Conditions {
				if !former[pod.Name] && c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if ready != len(former) {
			return fmt.Errorf("%d of %d agents are ready", ready, len(former))
		}
		return nil
	})
}

// during fails the test unless all streams are whole beside what f does.
func (b *beside) during(t *testing.T, f func(), streams []*stream) {
	t.Helper()
	f()
	for _, s := range streams {
		s.whole(t)
	}
}

// ourStreams go to listeners.
func (b *beside) ourStreams(t *testing.T) []*stream {
	t.Helper()
	first, last := b.Node(1).Addresses, b.Node(Nodes).Addresses
	return []*stream{
		streamFrom(t, b.Outside(), 1, "tcp", join(first[0], oursPort)),
		streamFrom(t, b.Outside(), 1, "udp", join(last[1], oursPort)),
		streamFrom(t, b.client, 1, "tcp", join(last[0], sharedPort)),
	}
}

// theirStreams go to a Service.
func (b *beside) theirStreams(t *testing.T) []*stream {
	t.Helper()
	return []*stream{
		streamFrom(t, b.Outside(), 1, "tcp", join(b.Node(1).Addresses[1], nodePort)),
		streamFrom(t, b.client, 1, "tcp", join(netip.MustParseAddr(b.services["theirs"].Spec.ClusterIP), echoPort)),
	}
}

// everythingServes: every port of every node is who it should be, in both protocols and
// families, to a client outside, to a node, to a pod, and to the endpoint itself; so are
// the addresses of the Services.
func (b *beside) everythingServes(t *testing.T) {
	t.Helper()
	ports := map[int]string{oursPort: "ours", nodePort: "theirs", sharedPort: "theirs", hostPort: "host"}
	for _, from := range []*lab.Place{b.Outside(), b.Node(1), b.client, b.in(t, "ours")} {
		for _, network := range []string{"tcp", "udp"} {
			for port, deployment := range ports {
				for _, addr := range everyNode(b.Cluster) {
					b.serves(t, from, network, join(addr, port), deployment)
				}
			}
			if from.Addresses[0] == b.Outside().Addresses[0] {
				continue
			}
			for deployment, service := range b.services {
				for _, ip := range service.Spec.ClusterIPs {
					b.serves(t, from, network, join(netip.MustParseAddr(ip), echoPort), deployment)
				}
			}
		}
	}
	b.keepsClient(t)
}

// keepsClient: kube-proxy hides the client of a NodePort; of a listener the endpoint sees it,
// if it runs on the node that the client asks.
func (b *beside) keepsClient(t *testing.T) {
	t.Helper()
	var node int
	if _, err := fmt.Sscanf(b.pod(t, "ours").Spec.NodeName, "node%d", &node); err != nil {
		t.Fatal(err)
	}
	for family, addr := range b.Node(node).Addresses {
		conn, err := b.Outside().Dial(t.Context(), "tcp", join(addr, oursPort))
		if err != nil {
			t.Fatal(err)
		}
		_, peer, _ := strings.Cut(strings.TrimSpace(echoes(t, conn, bufio.NewReader(conn))), "peer=")
		_ = conn.Close()
		if from, err := netip.ParseAddrPort(peer); err != nil || from.Addr() != b.Outside().Addresses[family] {
			t.Errorf("%s of node%d: the endpoint sees %s", addr, node, peer)
		}
	}
}

func (b *beside) serves(t *testing.T, from *lab.Place, network, address, deployment string) {
	t.Helper()
	eventually(t, settle, func() error {
		pod, err := askFrom(t.Context(), from, network, address)
		if err == nil {
			err = only(map[string]int{pod: 1}, deployment)
		}
		if err != nil {
			return fmt.Errorf("from %v to %s %s: %w", from.Addresses, network, address, err)
		}
		return nil
	})
}

// report is what a node says of itself.
type report struct {
	Backend  string
	Findings []struct{ Reason, Message string }
}

func (c *Cluster) report(ctx context.Context, node int) (report, error) {
	var object struct{ Report report }
	raw, err := c.Kube.Discovery().RESTClient().Get().
		AbsPath(fmt.Sprintf("/apis/portway.dev/v1alpha1/nodereports/node%d", node)).DoRaw(ctx)
	if err != nil {
		return object.Report, err
	}
	return object.Report, json.Unmarshal(raw, &object)
}

// nothingWasFound: no agent has ever found anything in the way.
func (b *beside) nothingWasFound(t *testing.T) { //nolint:thelper // a step of TestBesideOthers
	logs, err := filepath.Glob(filepath.Join(b.Dir(), "node*", "logs", System+"_portway-agent-*"))
	if err != nil || len(logs) < Nodes {
		t.Fatalf("%d logs of agents: %v", len(logs), err)
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "In the way of our flows") {
				t.Errorf("%s: %s", log, line)
			}
		}
	}
}

// on runs a command on a node.
func (b *beside) on(t *testing.T, node int, name string, args ...string) string {
	t.Helper()
	out, err := b.Node(node).Output(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// feed gives a command on a node something to read.
func (b *beside) feed(t *testing.T, node int, input, name string, args ...string) {
	t.Helper()
	cmd, err := b.Node(node).Command(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s on node%d: %v: %s", name, node, err, out)
	}
}
