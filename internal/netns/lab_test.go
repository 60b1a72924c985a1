package netns

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/rules"
)

func TestLabRoutes(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "near", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	pod := lab.Pod("near")
	for _, c := range []struct{ client, pod netip.Addr }{{ClientAddr4, pod.Addr4}, {ClientAddr6, pod.Addr6}} {
		to := netip.AddrPortFrom(c.pod, 6000)
		want := Tally{Answers: map[string]int{"near": 20}, Peers: map[netip.Addr]int{c.client: 20}}
		tcp, err := lab.Client.CountTCP(to, 20)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, tcp, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("tcp to %s (-want +got):\n%s", to, diff)
		}
		udp, err := lab.Client.CountUDP(to, 20)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, udp, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("udp to %s (-want +got):\n%s", to, diff)
		}
	}
}

// The far node must not answer the client without masquerade, or tests of the
// masquerade would prove nothing.
func TestLabHidesClientFromFarNode(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "far", Number: 10, Far: true})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(lab.Pod("far").Addr4, 6000)
	if got, err := lab.Client.CountUDP(to, 1); err != nil || got.Silent != 1 {
		t.Errorf("client reaches a far pod: %s (%v)", got, err)
	}
	if got, err := lab.Node.CountUDP(to, 1); err != nil || got.Answers["far"] != 1 {
		t.Errorf("node does not reach a far pod: %s (%v)", got, err)
	}
}

// Answers count although others of the same batch stay away.
func TestTallyOfPartlySilentBatch(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	pod := lab.Pod("pod")
	loadRules(t, pod.Namespace, "table inet t { chain c { type filter hook input priority 0; meta l4proto udp numgen inc mod 4 0 drop; }; }")
	got, err := lab.Client.CountUDP(netip.AddrPortFrom(pod.Addr4, 6000), 100)
	if err != nil || got.Answers["pod"] != 75 || got.Silent != 25 {
		t.Errorf("%s (%v), want 75 answered and 25 silent", got, err)
	}
}

// A SYN that was dropped once shows although its connection was answered.
func TestTallyCountsResentSYN(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	pod := lab.Pod("pod")
	loadRules(t, pod.Namespace, "table inet t { chain c { type filter hook input priority 0; tcp flags syn numgen inc mod 8 3 drop; }; }")
	got, err := lab.Client.CountTCP(netip.AddrPortFrom(pod.Addr4, 6000), 5)
	if err != nil || got.Answers["pod"] != 5 || got.Resent != 1 {
		t.Errorf("%s (%v), want 5 answered and 1 SYN resent", got, err)
	}
}

func loadRules(t *testing.T, n *Namespace, ruleset string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.nft")
	if err := os.WriteFile(file, []byte(ruleset), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Output("nft", "-f", file); err != nil {
		t.Fatal(err)
	}
}

func TestTallyTellsRefusalsApart(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	for _, node := range []netip.Addr{NodeAddr4, NodeAddr6} {
		closed := netip.AddrPortFrom(node, 9)
		tcp, err := lab.Client.CountTCP(closed, 3)
		if err != nil || tcp.Refused != 3 || tcp.Unreachable != 0 {
			t.Errorf("tcp to a closed port: %s (%v), want 3 refused by RST", tcp, err)
		}
		udp, err := lab.Client.CountUDP(closed, 3)
		if err != nil || udp.Refused != 3 || udp.Unreachable == 0 {
			t.Errorf("udp to a closed port: %s (%v), want 3 refused by ICMP", udp, err)
		}
	}
}

func TestConnEchoes(t *testing.T) {
	lab := LabForTest(t, PodSpec{Name: "pod", Number: 10})
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	from := netip.AddrPortFrom(ClientAddr4, 4000)
	to := netip.AddrPortFrom(lab.Pod("pod").Addr4, 6000)
	conn, err := lab.Client.Dial(from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if conn.Peer != from {
		t.Errorf("server saw %s, want %s", conn.Peer, from)
	}
	for _, line := range []string{"one", "two"} {
		if err := conn.Echo(line); err != nil {
			t.Error(err)
		}
	}
	if answer, err := lab.Client.AskUDP(from, to); err != nil || answer != (Answer{Name: "pod", Peer: from}) {
		t.Errorf("udp answer %v (%v)", answer, err)
	}
}

func TestServersLeaveNothing(t *testing.T) {
	Require(t)
	before := runtime.NumGoroutine()
	lab, err := NewLab(PodSpec{Name: "pod", Number: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Serve(6000); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(lab.Pod("pod").Addr4, 6000)
	load := lab.Client.StartLoad(to)
	conn, err := lab.Client.Dial(netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(connectTimeout); load.Opened() < 10 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if tally, err := load.Stop(); err != nil || tally.Answered() < 10 || load.Lost() != 0 {
		t.Errorf("load: %s (%v)", tally, err)
	}
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(connectTimeout)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

func TestDumpStateIsYAML(t *testing.T) {
	key := rules.FrontendKey{Addr: NodeAddr4, Protocol: rules.TCP, Port: 80}
	state := rules.NewState(map[rules.FrontendKey]*rules.Frontend{
		key: {
			Owner: rules.Owner{Gateway: "default/gw", Listener: "foo", Route: "default/r"},
			Backends: []rules.Backend{{Ref: "default/svc", Weight: 1, Endpoints: []rules.Endpoint{
				{Addr: netip.MustParseAddrPort("10.0.0.1:80"), Name: "pod", Local: true},
			}}},
		},
		{Addr: NodeAddr6, Protocol: rules.UDP, Port: 80}: {Select: rules.FlowHash},
	}, nil).WithExclusive([]netip.Addr{NodeAddr4, NodeAddr6})
	want := strings.TrimPrefix(`
exclusive: ["192.0.2.1", "2001:db8::1"]
"192.0.2.1 tcp 80":
  owner: {gateway: "default/gw", listener: "foo", route: "default/r"}
  select: random
  backends:
  - {ref: "default/svc", weight: 1, endpoints: [{addr: "10.0.0.1:80", name: "pod", local: true}]}
"2001:db8::1 udp 80":
  owner: {gateway: "", listener: "", route: ""}
  select: flow-hash
  backends: []
`, "\n")
	if diff := cmp.Diff(want, DumpState(state)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
