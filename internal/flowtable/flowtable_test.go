package flowtable

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portway-dev/portway/internal/netns"
)

const mark = 0x1000

func TestMain(m *testing.M) { netns.Main(m) }

// forNode returns a Table for a namespace.
func forNode(n *netns.Namespace, interfaces ...string) *Table {
	return New(Config{Mark: mark, Interfaces: interfaces, NetNS: n.Handle()})
}

// ensure skips the test where the kernel has no flowtables.
func ensure(t *testing.T, table *Table) bool {
	t.Helper()
	changed, err := table.Ensure()
	if unable := (*UnableError)(nil); errors.As(err, &unable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func load(t *testing.T, n *netns.Namespace, script string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	p, err := n.Run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(time.Minute); err != nil || code != 0 {
		t.Fatalf("nft: %d, %v: %s", code, err, p.Stderr())
	}
}

func listed(t *testing.T, n *netns.Namespace) string {
	t.Helper()
	out, err := n.Output("nft", "list", "ruleset", "inet")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUnable(t *testing.T) {
	lab := netns.LabForTest(t)
	table := forNode(lab.Node, "*")
	_, err := table.Ensure()
	unable := (*UnableError)(nil)
	if err == nil {
		t.Skip("this kernel has flowtables")
	}
	if !errors.As(err, &unable) || !strings.Contains(err.Error(), "modules nf_flow_table_inet and nft_flow_offload") {
		t.Errorf("Ensure: %v", err)
	}
	if out := listed(t, lab.Node); out != "" {
		t.Errorf("it left\n%s", out)
	}
	if err := table.Remove(); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

func TestListing(t *testing.T) {
	lab := netns.LabForTest(t, netns.PodSpec{Name: "pod", Number: 2})
	table := forNode(lab.Node, "*")
	if !ensure(t, table) {
		t.Error("nothing was changed")
	}
	want := table.Listing("pod2", "uplink")
	if diff := cmp.Diff(want, listed(t, lab.Node)); diff != "" {
		t.Errorf("nft lists (-want +got):\n%s", diff)
	}
	if ensure(t, table) {
		t.Error("what is there was changed")
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	if out := listed(t, lab.Node); out != "" {
		t.Errorf("Remove left\n%s", out)
	}
}

// rules are what matters here of those of the product: one listener, with our bit.
const rules = `table inet t {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr 192.0.2.1 tcp dport 7000 ct mark set ct mark | 0x1000 dnat ip to 10.244.1.2:8080
		ip daddr 192.0.2.1 tcp dport 7001 dnat ip to 10.244.1.2:8080
	}
	chain forward {
		type filter hook forward priority filter;
		ct mark 0x1000 counter
	}
}`

func TestOffloadsOurFlows(t *testing.T) {
	lab := netns.LabForTest(t, netns.PodSpec{Name: "pod", Number: 2})
	if err := lab.Serve(8080); err != nil {
		t.Fatal(err)
	}
	load(t, lab.Node, rules)
	table := forNode(lab.Node, "uplink", "pod*")
	ensure(t, table)
	ours, theirs := dial(t, lab, 7000), dial(t, lab, 7001)
	talk(t, ours, theirs)
	if got, want := offloaded(t, lab.Node), []string{"7000"}; !cmp.Equal(got, want) {
		t.Errorf("flows to ports %v are offloaded, want %v", got, want)
	}
	before := listed(t, lab.Node)
	talk(t, ours)
	if after := listed(t, lab.Node); after != before {
		t.Errorf("packets of an offloaded flow were in forward (-before +after):\n%s", cmp.Diff(before, after))
	}
	// Once conntrack has forgotten it, it is a new flow, for all chains: the kernel looks every second.
	if _, err := lab.Node.Output("conntrack", "-D", "-p", "tcp", "--orig-port-dst", "7000"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); listed(t, lab.Node) == before; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a flow that conntrack has forgotten is still offloaded")
		}
		talk(t, ours)
	}
	if err := table.Remove(); err != nil {
		t.Fatal(err)
	}
	talk(t, ours, theirs)
}

func TestLaterInterfaces(t *testing.T) {
	lab := netns.LabForTest(t)
	table := forNode(lab.Node, "*")
	ensure(t, table)
	for i := range maxDevices + 10 { // more than one message takes
		if err := lab.Node.AddBridge(fmt.Sprint("bridge", i)); err != nil {
			t.Fatal(err)
		}
	}
	if !ensure(t, table) {
		t.Error("nothing was changed")
	}
	interfaces, whole, err := table.present()
	if want := maxDevices + 11; err != nil || !whole || len(interfaces) != want {
		t.Errorf("%d interfaces, want %d; whole: %v, %v", len(interfaces), want, whole, err)
	}
	if ensure(t, table) {
		t.Error("what is there was changed")
	}
	narrow := forNode(lab.Node, "uplink")
	ensure(t, narrow)
	if diff := cmp.Diff(narrow.Listing("uplink"), listed(t, lab.Node)); diff != "" {
		t.Errorf("nft lists (-want +got):\n%s", diff)
	}
}

func TestMadeAgain(t *testing.T) {
	lab := netns.LabForTest(t)
	table := forNode(lab.Node, "*")
	ensure(t, table)
	for _, damage := range []string{
		"flush chain inet portway-flowtable forward",
		"delete table inet portway-flowtable",
		"flush ruleset",
		"add rule inet portway-flowtable forward counter",
	} {
		load(t, lab.Node, damage)
		if !ensure(t, table) {
			t.Errorf("after %q nothing was changed", damage)
		}
		if diff := cmp.Diff(table.Listing("uplink"), listed(t, lab.Node)); diff != "" {
			t.Errorf("after %q nft lists (-want +got):\n%s", damage, diff)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		interfaces []string
		want       string
	}{
		{[]string{"eth0", "cali*", "*"}, ""},
		{nil, "no interfaces"},
		{[]string{"a["}, `interface "a[": must be a name or a pattern such as cali*`},
		{[]string{""}, `interface "": must be a name or a pattern such as cali*`},
	} {
		got := ""
		if err := (Config{Mark: mark, Interfaces: test.interfaces}).Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%q: %q, want %q", test.interfaces, got, test.want)
		}
	}
}

func dial(t *testing.T, lab *netns.Lab, port uint16) *netns.Conn {
	t.Helper()
	conn, err := lab.Client.Dial(netip.AddrPort{}, netip.AddrPortFrom(netns.NodeAddr4, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func talk(t *testing.T, conns ...*netns.Conn) {
	t.Helper()
	for _, conn := range conns {
		for range 5 {
			if err := conn.Echo("hello"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// offloaded returns the ports that offloaded flows go to.
func offloaded(t *testing.T, n *netns.Namespace) []string {
	t.Helper()
	out, err := n.Output("conntrack", "-L", "-p", "tcp")
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "[OFFLOAD]") {
			_, port, _ := strings.Cut(line, " dport=")
			port, _, _ = strings.Cut(port, " ")
			ports = append(ports, port)
		}
	}
	return ports
}
