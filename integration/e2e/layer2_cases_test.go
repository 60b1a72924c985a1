package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// ownAddresses: ten Gateways have the same port, each at addresses of its own, and no other
// port of these is anybody's.
func ownAddresses(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	if all := r.all(); len(all) != len(slices.Compact(slices.Clone(all))) || len(all) != r.families*len(r.gateways) {
		t.Errorf("%d Gateways have %v", len(r.gateways), all)
	}
	for _, addr := range r.all() {
		for _, network := range []string{"tcp", "udp"} {
			r.reach(t, network, join(addr, rackPort), r.gatewayOf(addr))
		}
		for _, port := range []int{22, nobodysPort} {
			if err := r.refuses(t.Context(), join(addr, port)); err != nil {
				t.Error(err)
			}
		}
	}
	owners := r.settled(t)
	for i := range Nodes {
		t.Logf("node%d announces %d of %d addresses", i+1, len(ownedBy(owners, i+1)), len(owners))
	}
	gw := r.announced(t, "gw-00")
	for _, c := range gw.Status.Conditions {
		if c.Type != "portway.dev/Announced" {
			continue
		}
		for _, addr := range addresses(t, gw) {
			if want := fmt.Sprintf("%s by node%d", addr, owners[addr]); !strings.Contains(c.Message, want) {
				t.Errorf("the Gateway says %q, want something of %q", c.Message, want)
			}
		}
	}
	listed := r.portwayctl(t, "addresses")
	for addr, node := range owners {
		row := fmt.Sprintf("%s rack/%s %s node%d ", addr, r.gatewayOf(addr), layer2Pool, node)
		if !strings.Contains(listed, row) {
			t.Errorf("portwayctl addresses has no %q:\n%s", row, listed)
			break
		}
	}
}

// localTraffic: an address whose traffic may not leave the node it enters moves to
// where the endpoint is, and the endpoint sees the client.
func localTraffic(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	const name = "local"
	local := strings.Replace(backend(name, 1), "  selector: {app: "+name+"}\n", "  type: NodePort\n  externalTrafficPolicy: Local\n  selector: {app: "+name+"}\n", 1)
	r.apply(t, local, of(layer2Class, gateway(name, rackPort)), route("TCPRoute", name, name, name), route("UDPRoute", name, name, name))
	r.ready(t, name, 1)
	at := addresses(t, r.announced(t, name))
	on := func(node int) {
		t.Helper()
		for _, addr := range at {
			eventually(t, settle, func() error {
				got, err := r.answering(t.Context(), addr)
				if err == nil && got != node {
					err = fmt.Errorf("node%d answers for %s, and the endpoint is on node%d", got, addr, node)
				}
				return err
			})
			r.reach(t, "tcp", join(addr, rackPort), name)
		}
	}
	first := r.nodeOf(t, name)
	on(first)
	// The pod moves, and the address after it.
	r.kubectl(t, "cordon", fmt.Sprintf("node%d", first))
	r.kubectl(t, "rollout", "restart", "deployment/"+name)
	r.kubectl(t, "rollout", "status", "deployment/"+name, "--timeout=60s")
	r.kubectl(t, "uncordon", fmt.Sprintf("node%d", first))
	r.ready(t, name, 1)
	second := r.nodeOf(t, name)
	if first == second {
		t.Fatalf("the pod is on node%d still", first)
	}
	on(second)
	r.kubectl(t, "delete", "gateway/"+name, "tcproute/"+name, "udproute/"+name, "service/"+name, "deployment/"+name)
}

// strangerOnSegment: a host that is none of ours has addresses of the pool. Nobody takes them
// from it, the Gateway says who has them, and when it is gone they are announced.
func strangerOnSegment(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	const name = "stranger"
	mac := r.macOf(t, "br0")
	strange := func(remove bool) {
		t.Helper()
		for addr, bits := range map[string]int{stranger4: 24, stranger6: 64} {
			verb := "add"
			if remove {
				verb = "del"
			}
			r.inMachine(t, "ip", "addr", verb, fmt.Sprintf("%s/%d", addr, bits), "dev", "br0")
		}
	}
	strange(false)
	r.apply(t, of(layer2Class, requesting(gateway(name, rackPort), stranger4, stranger6)), route("TCPRoute", name, name, "gw-00"))
	gw := r.gatewayHas(t, name, "portway.dev/Announced", metav1.ConditionFalse, "AddressConflict", mac)
	r.eventOf(t, name, func(note string) bool { return strings.Contains(note, mac) })
	r.programmed(t, name)
	for _, addr := range addresses(t, gw) {
		if got, err := r.neighbour(t.Context(), addr); err != nil || got != mac {
			t.Errorf("%s: %s answers, want the stranger's %s (%v)", addr, got, mac, err)
		}
	}
	strange(true)
	began := time.Now()
	eventually(t, 2*time.Minute, func() error { // looked at every 30 s
		for _, addr := range addresses(t, gw) {
			if _, err := r.answering(t.Context(), addr); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("announced %s after the stranger had left", time.Since(began).Round(time.Second))
	r.announced(t, name)
	r.kubectl(t, "delete", "gateway/"+name, "tcproute/"+name)
}

// agentsRestarted: a rolling restart of all agents moves addresses, and no connection is
// refused, lost or misdirected.
func agentsRestarted(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	before := r.settled(t)
	streams := r.streams(t, r.all())
	r.kubectl(t, "-n", System, "rollout", "restart", "daemonset/portway-agent")
	r.kubectl(t, "-n", System, "rollout", "status", "daemonset/portway-agent", "--timeout=120s")
	after := r.settled(t)
	r.moved(t, streams)
	moved := 0
	for addr := range before {
		if before[addr] != after[addr] {
			moved++
		}
	}
	t.Logf("%d of %d addresses are at another node", moved, len(before))
	// The last one to be restarted has none, the others what is a fair share of two.
	if most, fair := len(ownedBy(after, busiest(after))), len(after)*5/4/(Nodes-1)+1; most > fair {
		t.Errorf("one node announces %d of %d addresses, more than %d", most, len(after), fair)
	}
}

// drainNode: who is drained hands its addresses over, nobody is refused meanwhile, and
// nothing comes back with it. What becomes of flows through it is counted.
func drainNode(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	before := r.settled(t)
	node := busiest(before)
	leaving := ownedBy(before, node)
	streams := r.streams(t, leaving)
	held := r.hold(t, leaving)
	r.kubectl(t, "cordon", fmt.Sprintf("node%d", node))
	var after map[netip.Addr]int
	took := eventually(t, settle, func() error {
		after = r.settled(t)
		if still := ownedBy(after, node); len(still) > 0 {
			return fmt.Errorf("node%d still announces %v", node, still)
		}
		return nil
	})
	for addr, of := range before {
		if of != node && after[addr] != of {
			t.Errorf("%s was at node%d, which is not drained, and is at node%d", addr, of, after[addr])
		}
	}
	r.moved(t, streams)
	alive := 0
	for _, conn := range held {
		if conn.works() == nil {
			alive++
		}
	}
	t.Logf("node drained: %d of %d connections that were open through it went on", alive, len(held))
	t.Logf("%d addresses moved within %s", len(leaving), took.Round(time.Millisecond))
	r.kubectl(t, "uncordon", fmt.Sprintf("node%d", node))
	time.Sleep(3 * time.Second) // as long as it would take to move
	r.same(t, after)
}

// cutFromAPIServer: two nodes hear nothing from the API server for longer than until they
// are not ready; nothing moves, and nobody notices, but for those pods that Kubernetes no
// longer takes for ready.
func cutFromAPIServer(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	before := r.settled(t)
	var served []netip.Addr
	for _, addr := range r.all() {
		if r.nodeOf(t, r.gatewayOf(addr)) == 3 {
			served = append(served, addr)
		}
	}
	streams := r.streams(t, served)
	var restore []func()
	for _, node := range []int{1, 2} {
		restore = append(restore, r.block(t, node, "api", "ip daddr 172.30.0.1 drop", "ip6 daddr fd30::1 drop"))
	}
	notReady := func(want int) func() error {
		return func() error {
			out, err := r.Kubectl(t.Context(), "get", "nodes", "--no-headers")
			if got := strings.Count(out, "NotReady"); err == nil && got != want {
				err = fmt.Errorf("%d nodes are not ready", got)
			}
			return err
		}
	}
	eventually(t, 90*time.Second, notReady(2))
	for addr, node := range before {
		if now, err := r.answering(t.Context(), addr); err != nil || now != node {
			t.Errorf("%s was answered for by node%d, and is by node%d: %v", addr, node, now, err)
		}
	}
	// Nor do the two hear of each other or of the third: that they still answer the segment
	// is proof enough.
	members := fmt.Sprintf("meta l4proto { tcp, udp } th dport %d drop", memberPort)
	for _, node := range []int{1, 2} {
		restore = append(restore, r.block(t, node, "members", members))
	}
	time.Sleep(10 * time.Second) // several times as long as until who is silent is asked
	for addr, node := range before {
		if now, err := r.answering(t.Context(), addr); err != nil || now != node {
			t.Errorf("members cut: %s was answered for by node%d, and is by node%d: %v", addr, node, now, err)
		}
	}
	_, message := r.finding(t, "MemberSilent", settle)
	t.Log(message)
	for _, undo := range restore {
		undo()
	}
	eventually(t, 90*time.Second, notReady(0))
	r.unharmed(t, streams)
	r.same(t, before)
	if err := r.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// splitSegment: one node is alone on its side of the segment. Both sides announce
// everything; when it is whole again there is one owner of each address, and the split is
// reported.
func splitSegment(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	before := r.settled(t)
	node := busiest(before)
	r.inMachine(t, "ip", "link", "add", "br1", "type", "bridge")
	r.inMachine(t, "ip", "link", "set", "br1", "up")
	// Its link stays up: it hears nobody, as behind a switch that has lost its uplink.
	r.inMachine(t, "ip", "link", "set", fmt.Sprintf("node%d", node), "master", "br1")
	eventually(t, settle, func() error {
		for _, addr := range ownedBy(before, node) {
			if now, err := r.answering(t.Context(), addr); err != nil || now == node {
				return fmt.Errorf("%s: node%d answers: %w", addr, now, err)
			}
		}
		return nil
	})
	time.Sleep(5 * time.Second) // for the lonely one to take everything
	r.inMachine(t, "ip", "link", "set", fmt.Sprintf("node%d", node), "master", "br0")
	r.inMachine(t, "ip", "link", "del", "br1")
	eventually(t, time.Minute, func() error {
		told, err := r.announcers(t.Context())
		if err != nil {
			return err
		}
		for _, addr := range r.all() {
			if len(told[addr]) != 1 {
				return fmt.Errorf("%v say that they announce %s", told[addr], addr)
			}
		}
		return nil
	})
	for addr, now := range r.settled(t) {
		if of := before[addr]; of != now {
			t.Errorf("%s was at node%d before the split, which is the older claim, and is at node%d", addr, of, now)
		}
	}
	on, message := r.finding(t, "SplitBrain", settle)
	t.Logf("%s: %s", on, message)
	for _, addr := range r.all() {
		r.reach(t, "tcp", join(addr, rackPort), r.gatewayOf(addr))
	}
	if err := r.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// ownerKilled: a node loses power. Another one answers, no other address moves, and when it
// is back nothing moves either.
func ownerKilled(t *testing.T, r *rack) { //nolint:thelper // a case of TestLayer2
	before := r.settled(t)
	node := busiest(before)
	took := r.failOver(t, before, node)
	slices.Sort(took)
	t.Logf("%d addresses of node%d were answered for after %s to %s", len(took), node, took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	after := r.booted(t, node)
	for addr, of := range before {
		if of != node && after[addr] != of {
			t.Errorf("%s was at node%d, which lives, and is at node%d", addr, of, after[addr])
		}
	}
}

// failOvers kills the node that announces most, again and again, and reports after how long
// a client is answered at the last of its addresses.
func failOvers(t *testing.T) {
	const runs = 50
	r := newRack(t, layer2Cluster(t, Options{}), 10, segment4, segment6)
	var took []time.Duration
	for range runs {
		before := r.settled(t)
		node := busiest(before)
		took = append(took, slices.Max(r.failOver(t, before, node)))
		r.booted(t, node)
	}
	within(t, "owner of addresses loses power → another node answers at all of them", took, limits{p99: 3 * time.Second})
}

// failOver cuts a node's power and returns after how long a client was answered again at
// each of its addresses, cache of neighbours and all.
func (r *rack) failOver(t *testing.T, before map[netip.Addr]int, node int) []time.Duration {
	t.Helper()
	addrs := ownedBy(before, node)
	if len(addrs) == 0 {
		t.Fatalf("node%d announces nothing", node)
	}
	for _, addr := range addrs {
		r.reach(t, "tcp", join(addr, rackPort), r.gatewayOf(addr))
	}
	type served struct {
		addr netip.Addr
		took time.Duration
		err  error
	}
	begin := time.Now()
	if err := r.Crash(node); err != nil {
		t.Fatal(err)
	}
	results := make(chan served, len(addrs))
	for _, addr := range addrs {
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), settle)
			defer cancel()
			err := r.Outside().Do(func() error { return knock(ctx, join(addr, nobodysPort)) })
			results <- served{addr, time.Since(begin), err}
		}()
	}
	var took []time.Duration
	for range addrs {
		result := <-results
		if result.err != nil {
			t.Errorf("%s: %v", result.addr, result.err)
		}
		took = append(took, result.took)
	}
	return took
}

// knock connects to a port that nobody serves until it is refused: then a node answers for
// the address that has its rules. Whether the pods lived on that node is another question.
func knock(ctx context.Context, address string) error {
	for {
		dialer := net.Dialer{Timeout: 100 * time.Millisecond, FallbackDelay: -1}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		switch {
		case err == nil:
			return errors.Join(errors.New("somebody serves the port that nobody serves"), conn.Close())
		case errors.Is(err, syscall.ECONNREFUSED):
			return nil
		case ctx.Err() != nil:
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// booted starts a node again, and returns who announces what when all is well, which is to
// be what it was before the node came back.
func (r *rack) booted(t *testing.T, node int) map[netip.Addr]int {
	t.Helper()
	without := map[netip.Addr]int{}
	for _, addr := range r.all() {
		eventually(t, settle, func() (err error) {
			without[addr], err = r.answering(t.Context(), addr)
			return err
		})
	}
	if err := r.Boot(node); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error { return r.WaitReady(t.Context()) })
	for name := range r.gateways {
		r.ready(t, name, 1)
		r.announced(t, name)
	}
	after := r.settled(t)
	if !maps.Equal(without, after) {
		t.Errorf("node%d came back, and addresses moved: before %v, now %v", node, without, after)
	}
	return after
}

// heldConn is a connection that somebody keeps open.
type heldConn struct {
	net.Conn
	reader *bufio.Reader
}

// hold opens connections through addresses.
func (r *rack) hold(t *testing.T, addrs []netip.Addr) (held []heldConn) {
	t.Helper()
	const each = 5
	for _, addr := range addrs {
		for range each {
			conn, err := r.Outside().Dial(t.Context(), "tcp", join(addr, rackPort))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			h := heldConn{conn, bufio.NewReader(conn)}
			if _, err := h.reader.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			held = append(held, h)
		}
	}
	return held
}

// works returns an error unless what is sent comes back.
func (h heldConn) works() error {
	if err := h.SetDeadline(time.Now().Add(replyLimit)); err != nil {
		return err
	}
	if _, err := h.Write([]byte("still there?\n")); err != nil {
		return err
	}
	_, err := h.reader.ReadString('\n')
	return err
}

// block drops packets that a node gets or sends, until the returned function is called.
func (r *rack) block(t *testing.T, node int, name string, rules ...string) func() {
	t.Helper()
	table := "block-" + name
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", table)
	for _, hook := range []string{"input", "output"} {
		fmt.Fprintf(&b, "chain %[1]s { type filter hook %[1]s priority -300;\n", hook)
		for _, rule := range rules {
			if hook == "input" {
				rule = strings.Replace(rule, " daddr ", " saddr ", 1)
			}
			b.WriteString(rule + "\n")
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	r.nft(t, node, b.String())
	return func() { r.nft(t, node, "delete table inet "+table+"\n") }
}

func (r *rack) nft(t *testing.T, node int, script string) {
	t.Helper()
	cmd, err := r.Node(node).Command(t.Context(), "nft", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

// nodeOf is the node that a Deployment's only pod runs on.
func (s *space) nodeOf(t *testing.T, deployment string) (node int) {
	t.Helper()
	eventually(t, settle, func() error {
		pods, err := s.Kube.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + deployment})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return errors.New("there are several pods")
		}
		_, err = fmt.Sscanf(pods.Items[0].Spec.NodeName, "node%d", &node)
		return err
	})
	return node
}

// macOf is the MAC address of a link of the machine that is no node.
func (c *Cluster) macOf(t *testing.T, link string) string {
	t.Helper()
	out := c.inMachine(t, "ip", "-o", "link", "show", "dev", link)
	_, rest, _ := strings.Cut(out, "link/ether ")
	mac, _, _ := strings.Cut(rest, " ")
	return mac
}

// inMachine runs a command where the segment's bridge is.
func (c *Cluster) inMachine(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := c.Machine().Output(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// portwayctl runs it and returns what it prints, one blank between columns.
func (c *Cluster) portwayctl(t *testing.T, args ...string) string {
	t.Helper()
	out := c.inMachine(t, filepath.Join(lab.CacheDir(), "product", "portwayctl"), args...)
	var rows []string
	for row := range strings.SplitSeq(out, "\n") {
		rows = append(rows, strings.Join(strings.Fields(row), " "))
	}
	return strings.Join(rows, "\n")
}
