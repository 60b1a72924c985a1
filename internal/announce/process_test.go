package announce

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/portway-dev/portway/internal/layer2"
	"github.com/portway-dev/portway/internal/netns"
	"github.com/portway-dev/portway/internal/owner"
)

// asNode set to a nodeConfig makes the test binary one node: sockets that a library
// opens by itself are in the namespace of their process only, and only a process can be
// killed.
const asNode = "PORTWAY_TEST_NODE"

func TestMain(m *testing.M) {
	if text := os.Getenv(asNode); text != "" {
		if err := runNode(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	netns.Main(m)
}

// nodeConfig is what a node is told at its start.
type nodeConfig struct {
	Node    string
	Bind    netip.AddrPort
	KeyFile string
	// Quiet: it prints owners once a second at most, and what it has used, and looks for
	// strangers as rarely as it does by default.
	Quiet bool
	// ForgetAfter is that of members; 0: its default.
	ForgetAfter time.Duration
}

// report is one line that a node prints.
type report struct {
	Owners   []Owner
	Changes  []Change
	Counters Counters
	Problems []Problem
	Usage    *usage
}

// usage is what the process has used.
type usage struct {
	CPU time.Duration
	RSS int // bytes
}

func used() (*usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil, err
	}
	var size, resident int
	_, err = fmt.Sscan(string(text), &size, &resident)
	return &usage{CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), RSS: resident * os.Getpagesize()}, err
}

// runNode announces what its standard input says, one Desired per line, and tells what it
// knows. SIGTERM ends it.
func runNode(text string) error {
	var given nodeConfig
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return err
	}
	ctx, cancel := ossignal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	config := DefaultConfig()
	config.Node, config.Bind, config.KeyFile = given.Node, given.Bind, given.KeyFile
	config.forgetAfter = given.ForgetAfter
	config.NodeAddresses = []netip.Addr{given.Bind.Addr()}
	if !given.Quiet {
		config.Layer2.Recheck, config.Layer2.Verify = time.Second, time.Second
	}
	a, err := New(config, klog.Background())
	if err != nil {
		return err
	}
	go func() {
		lines := json.NewDecoder(os.Stdin)
		for {
			var d Desired
			if err := lines.Decode(&d); err != nil {
				return
			}
			a.Set(d)
		}
	}()
	done := make(chan struct{})
	go tell(a, given.Quiet, done)
	defer close(done)
	return a.Run(ctx)
}

// tell prints reports until there is nobody to read them.
func tell(a *Announcer, quiet bool, done <-chan struct{}) {
	out := json.NewEncoder(os.Stdout)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	changed := a.Changed()
	for {
		var r report
		select {
		case <-done:
			return
		case c := <-a.Changes():
			r.Changes = c
		case <-tick.C:
			changed = a.Changed()
			u, err := used()
			if !quiet || err != nil {
				continue
			}
			r.Usage = u
		case <-changed:
			r.Owners, r.Counters, r.Problems = a.Owners(), a.Counters(), a.Problems()
			if quiet {
				changed = nil
			}
		}
		if out.Encode(r) != nil {
			return
		}
	}
}

// lab is three nodes and a client on one segment.
type lab struct {
	*netns.Namespace // the switch; its ports have the nodes' names
	keyFile          string
	nodes            []*node
	client           *host
}

// host is a namespace on the segment.
type host struct {
	*netns.Namespace
	addr netip.Addr
}

// node is a host that announces.
type node struct {
	*host
	lab *lab
	mac layer2.MAC

	process     *netns.Process
	input       io.WriteCloser
	quiet       bool
	forgetAfter time.Duration
}

// patience bounds waiting for what takes a few seconds on an idle machine.
const patience = 40 * time.Second

func newLab(tb testing.TB) *lab {
	tb.Helper()
	l := &lab{Namespace: netns.ForTest(tb, "switch"), keyFile: filepath.Join(tb.TempDir(), "key")}
	if err := os.WriteFile(l.keyFile, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := l.FilterBridged(false); err != nil {
		tb.Fatal(err)
	}
	if err := l.AddBridge("lan"); err != nil {
		tb.Fatal(err)
	}
	for i := range 3 {
		n := &node{host: l.attach(tb, fmt.Sprintf("node-%d", i+1), byte(i+1)), lab: l}
		n.mac = n.readMAC(tb)
		l.nodes = append(l.nodes, n)
	}
	l.client = l.attach(tb, "client", 9)
	return l
}

// attach connects a host to the segment.
func (l *lab) attach(tb testing.TB, name string, number byte) *host {
	tb.Helper()
	h := &host{Namespace: netns.ForTest(tb, name), addr: netip.AddrFrom4([4]byte{198, 51, 100, number})}
	if err := netns.Connect(h.Namespace, "eth0", l.Namespace, name); err != nil {
		tb.Fatal(err)
	}
	run(tb, l.Namespace, "ip link set "+name+" master lan")
	addr6 := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 5, 15: number})
	if err := h.AddAddress("eth0", netip.PrefixFrom(h.addr, 24), netip.PrefixFrom(addr6, 64)); err != nil {
		tb.Fatal(err)
	}
	return h
}

func run(tb testing.TB, n *netns.Namespace, command string) string {
	tb.Helper()
	out, err := n.Output("sh", "-ec", command)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func (h *host) readMAC(tb testing.TB) (mac layer2.MAC) {
	tb.Helper()
	if err := h.Do(func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = layer2.MAC(i.HardwareAddr)
		}
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	return mac
}

// start starts the node's process, which must not run.
func (n *node) start(tb testing.TB) {
	tb.Helper()
	config, err := json.Marshal(nodeConfig{
		Node: n.Name(), Bind: netip.AddrPortFrom(n.addr, 7946), KeyFile: n.lab.keyFile, Quiet: n.quiet, ForgetAfter: n.forgetAfter,
	})
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asNode+"="+string(config))
	if n.input, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if n.process, err = n.Run(cmd); err != nil {
		tb.Fatal(err)
	}
	process := n.process
	tb.Cleanup(func() {
		process.Kill()
		if tb.Failed() {
			tb.Logf("%s:\n%s%s", n.Name(), process.Stdout(), process.Stderr())
		}
	})
}

// set tells the node what to announce.
func (n *node) set(tb testing.TB, addresses map[netip.Addr]Address) {
	tb.Helper()
	d := Desired{Addresses: addresses}
	for _, other := range n.lab.nodes {
		d.Members = append(d.Members, other.addr)
	}
	if err := json.NewEncoder(n.input).Encode(d); err != nil {
		tb.Fatal(err)
	}
}

// startAll starts all nodes with the same addresses, and waits until all are owned and
// everybody agrees about that.
func (l *lab) startAll(tb testing.TB, addresses []netip.Addr) {
	tb.Helper()
	for _, n := range l.nodes {
		n.start(tb)
		n.set(tb, readyFor(addresses))
	}
	l.awaitOwners(tb, addresses)
}

func readyFor(addresses []netip.Addr) map[netip.Addr]Address {
	out := map[netip.Addr]Address{}
	for _, a := range addresses {
		out[a] = Address{Ready: true}
	}
	return out
}

// reports returns all that the node has printed in this life.
func (n *node) reports() (last report, changes []Change) {
	scanner := bufio.NewScanner(strings.NewReader(n.process.Stdout()))
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		var r report
		if json.Unmarshal(scanner.Bytes(), &r) != nil {
			continue // still being written
		}
		switch {
		case r.Changes != nil:
			changes = append(changes, r.Changes...)
		case r.Usage == nil:
			last = r
		}
	}
	return last, changes
}

// usage returns what the node has used last.
func (n *node) usage() (u usage) {
	scanner := bufio.NewScanner(strings.NewReader(n.process.Stdout()))
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		var r report
		if json.Unmarshal(scanner.Bytes(), &r) == nil && r.Usage != nil {
			u = *r.Usage
		}
	}
	return u
}

// running are the nodes whose processes run.
func (l *lab) running() (out []*node) {
	for _, n := range l.nodes {
		if n.process == nil {
			continue
		}
		select {
		case <-n.process.Done():
		default:
			out = append(out, n)
		}
	}
	return out
}

// owners returns who owns what when all running nodes agree and all is answered for.
func (l *lab) owners(addresses []netip.Addr) (map[netip.Addr]*node, error) {
	out := map[netip.Addr]*node{}
	names := map[string]*node{}
	for _, n := range l.running() {
		names[n.Name()] = n
	}
	for _, n := range l.running() {
		last, _ := n.reports()
		known := map[netip.Addr]Owner{}
		for _, o := range last.Owners {
			known[o.Address] = o
		}
		for _, a := range addresses {
			o := known[a]
			if names[o.Node] == nil || o.Phase != owner.Answering || out[a] != nil && out[a] != names[o.Node] {
				return nil, fmt.Errorf("%s thinks of %s: %+v", n.Name(), a, o)
			}
			out[a] = names[o.Node]
		}
	}
	return out, nil
}

func (l *lab) awaitOwners(tb testing.TB, addresses []netip.Addr) (out map[netip.Addr]*node) {
	tb.Helper()
	var err error
	eventually(tb, func() string { return fmt.Sprintf("all nodes agree: %v", err) }, func() bool {
		out, err = l.owners(addresses)
		return err == nil
	})
	return out
}

func eventually(tb testing.TB, what func() string, f func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", patience, what())
		}
	}
}

// neighbour is where the client's kernel thinks that an address is.
func (h *host) neighbour(tb testing.TB, a netip.Addr) string {
	tb.Helper()
	fields := strings.Fields(run(tb, h.Namespace, "ip neigh show to "+a.String()))
	if i := slices.Index(fields, "lladdr"); i >= 0 {
		return fields[i+1]
	}
	return ""
}

// reach has the client's kernel find an address.
func (h *host) reach(tb testing.TB, a netip.Addr) {
	tb.Helper()
	if err := h.Do(func() error {
		conn, err := dialUDP(a)
		if err != nil {
			return err
		}
		_, _ = conn.Write([]byte("?")) // refused when nobody is there
		return conn.Close()
	}); err != nil {
		tb.Fatal(err)
	}
}

// awaitAt waits until the client's kernel, asking, finds an address at a node.
func (h *host) awaitAt(tb testing.TB, a netip.Addr, n *node) {
	tb.Helper()
	eventually(tb, func() string { return fmt.Sprintf("the client finds %s at %s (%s)", a, n.Name(), n.mac) }, func() bool {
		h.reach(tb, a)
		return h.neighbour(tb, a) == n.mac.String()
	})
}
