package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/portway-dev/portway/integration/lab"
)

// Addresses on the segment of the nodes and of the client outside, as a rack has them.
const (
	layer2Class = "portway-layer2"
	layer2Pool  = "rack"
	segment4    = "172.30.0.128/26"
	segment6    = "fd30::8000/122"
	// stranger's are in the pool, and somebody has them.
	stranger4, stranger6 = "172.30.0.190", "fd30::803e"

	// memberPort is the default of --layer2-port.
	memberPort = 7946
)

// TestLayer2 runs a cluster whose nodes announce addresses on the segment where the client
// outside is, too: nobody routes anything to a node.
func TestLayer2(t *testing.T) {
	r := newRack(t, layer2Cluster(t, Options{}), 10, segment4, segment6)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rack)
	}{
		{"own-addresses", ownAddresses},
		{"local", localTraffic},
		{"stranger", strangerOnSegment},
		{"agents-restarted", agentsRestarted},
		{"drain", drainNode},
		{"no-api-server", cutFromAPIServer},
		{"split", splitSegment},
		{"owner-killed", ownerKilled},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.settled(t)
			test.run(t, r)
		})
	}
}

// TestLayer2IPv6: the same where nodes have no IPv4, and so talk to each other by IPv6.
func TestLayer2IPv6(t *testing.T) {
	r := newRack(t, layer2Cluster(t, Options{OnlyIPv6: true}), 3, segment6)
	ownAddresses(t, r)
	before := r.settled(t)
	node := busiest(before)
	r.failOver(t, before, node)
	r.booted(t, node)
}

func layer2Cluster(t *testing.T, o Options) *Cluster {
	t.Helper()
	o.CRDs, o.Deployment = lab.CRDsStandard, "deploy-layer2"
	c := startWith(t, o)
	if err := c.Deploy(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return c
}

const rackPort, nobodysPort = 8080, 8081

// rack is Gateways with an address of each family and the same port, each with pods of its own.
type rack struct {
	*space
	families int
	gateways map[string][]netip.Addr // by name, which is that of the pods
	macs     map[string]int          // node by MAC address
}

func newRack(t *testing.T, c *Cluster, count int, segments ...string) *rack {
	t.Helper()
	r := &rack{space: c.space(t, "rack"), families: len(segments), gateways: map[string][]netip.Addr{}, macs: map[string]int{}}
	r.apply(t, fmt.Sprintf(`
apiVersion: portway.dev/v1alpha1
kind: AddressPool
metadata: {name: %s}
spec: {addresses: ['%s'], announcement: {mode: Layer2}}
`, layer2Pool, strings.Join(segments, "', '")))
	t.Cleanup(func() { r.discard(t, "addresspool", layer2Pool) })
	families := "[IPv4, IPv6]"
	if len(segments) == 1 {
		families = "[IPv6]"
	}
	r.class(t, layer2Class, "{mode: Pool, pool: "+layer2Pool+", ipFamilies: "+families+"}")
	var names []string
	var manifests []string
	for i := range count {
		name := fmt.Sprintf("gw-%02d", i)
		names = append(names, name)
		manifests = append(manifests, backend(name, 1), of(layer2Class, gateway(name, rackPort)),
			route("TCPRoute", name, name, name), route("UDPRoute", name, name, name))
	}
	r.apply(t, manifests...)
	for _, name := range names {
		r.ready(t, name, 1)
		r.gateways[name] = addresses(t, r.announced(t, name))
	}
	for i := range Nodes {
		out, err := c.Node(i+1).Output(t.Context(), "ip", "-o", "link", "show", "dev", "eth0")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(out, "link/ether ")
		mac, _, _ := strings.Cut(rest, " ")
		r.macs[mac] = i + 1
	}
	return r
}

// announced waits until a Gateway is programmed and nodes say that they announce all of its
// addresses.
func (s *space) announced(t *testing.T, name string) *gatewayv1.Gateway {
	t.Helper()
	s.programmed(t, name)
	return s.gatewayHas(t, name, "portway.dev/Announced", metav1.ConditionTrue, "Announced", "")
}

// all addresses of the rack.
func (r *rack) all() []netip.Addr {
	return sorted(slices.Concat(slices.Collect(maps.Values(r.gateways))...))
}

// nodeReport is what these tests read of a NodeReport.
type nodeReport struct {
	Metadata struct{ Name string }
	Report   struct {
		Announcing []struct{ Addresses []netip.Addr }
		Findings   []struct{ Reason, Message, Gateway string }
	}
}

func (c *Cluster) nodeReports(ctx context.Context) ([]nodeReport, error) {
	out, err := c.Kubectl(ctx, "get", "nodereports", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []nodeReport }
	return list.Items, json.Unmarshal([]byte(out), &list)
}

// announcers are the nodes that say they announce an address.
func (c *Cluster) announcers(ctx context.Context) (map[netip.Addr][]string, error) {
	reports, err := c.nodeReports(ctx)
	if err != nil {
		return nil, err
	}
	nodes := map[netip.Addr][]string{}
	for _, report := range reports {
		for _, group := range report.Report.Announcing {
			for _, addr := range group.Addresses {
				nodes[addr] = append(nodes[addr], report.Metadata.Name)
			}
		}
	}
	return nodes, nil
}

// settled waits until each address of the rack is announced by one node, which is the one
// that the client outside finds, and returns which.
func (r *rack) settled(t *testing.T) map[netip.Addr]int {
	t.Helper()
	owners := map[netip.Addr]int{}
	eventually(t, 2*settle, func() error {
		told, err := r.announcers(t.Context())
		if err != nil {
			return err
		}
		for _, addr := range r.all() {
			node, err := r.answering(t.Context(), addr)
			if err != nil {
				return err
			}
			if want := []string{fmt.Sprintf("node%d", node)}; !slices.Equal(told[addr], want) {
				return fmt.Errorf("%s: %v say they announce it, and %v answers", addr, told[addr], want)
			}
			owners[addr] = node
		}
		return nil
	})
	return owners
}

// answering is the node that answers the client outside for an address, asked anew.
func (r *rack) answering(ctx context.Context, addr netip.Addr) (int, error) {
	mac, err := r.neighbour(ctx, addr)
	if err != nil {
		return 0, err
	}
	node, ours := r.macs[mac]
	if !ours {
		return 0, fmt.Errorf("%s has %s", mac, addr)
	}
	return node, nil
}

// neighbour is the MAC address that answers the client outside for an address.
func (c *Cluster) neighbour(ctx context.Context, addr netip.Addr) (mac string, err error) {
	outside := c.Outside()
	if _, err := outside.Output(ctx, "ip", "neigh", "flush", "to", addr.String(), "dev", "eth0"); err != nil {
		return "", err
	}
	// What is sent does not matter; the kernel has to ask first.
	_, _ = c.ask(ctx, "tcp", join(addr, nobodysPort))
	out, err := outside.Output(ctx, "ip", "neigh", "show", "to", addr.String(), "dev", "eth0")
	if err != nil {
		return "", err
	}
	_, rest, found := strings.Cut(out, "lladdr ")
	if !found {
		return "", fmt.Errorf("nobody answers for %s: %s", addr, strings.TrimSpace(out))
	}
	mac, _, _ = strings.Cut(rest, " ")
	return mac, nil
}

// ownedBy is what a node announces.
func ownedBy(owners map[netip.Addr]int, node int) (owned []netip.Addr) {
	for addr, of := range owners {
		if of == node {
			owned = append(owned, addr)
		}
	}
	return sorted(owned)
}

// busiest is the node that announces most.
func busiest(owners map[netip.Addr]int) int {
	best := 1
	for node := range Nodes {
		if len(ownedBy(owners, node+1)) > len(ownedBy(owners, best)) {
			best = node + 1
		}
	}
	return best
}

// same fails the test if an address is announced by another node than before.
func (r *rack) same(t *testing.T, before map[netip.Addr]int) {
	t.Helper()
	if now := r.settled(t); !maps.Equal(before, now) {
		t.Errorf("addresses moved: before %v, now %v", before, now)
	}
}

// streams asks every address of the rack all the time, or those that a node announces.
func (r *rack) streams(t *testing.T, of []netip.Addr) map[netip.Addr]*stream {
	t.Helper()
	all := map[netip.Addr]*stream{}
	for _, addr := range of {
		r.reach(t, "tcp", join(addr, rackPort), r.gatewayOf(addr))
		all[addr] = streamFrom(t, r.Outside(), 1, "tcp", join(addr, rackPort))
	}
	return all
}

func (r *rack) gatewayOf(addr netip.Addr) string {
	for name, has := range r.gateways {
		if slices.Contains(has, addr) {
			return name
		}
	}
	return ""
}

// unharmed ends streams and fails the test if a connection failed or was misdirected.
func (r *rack) unharmed(t *testing.T, all map[netip.Addr]*stream) {
	t.Helper()
	for addr, s := range all {
		s.whole(t)
		if err := only(s.answered(), r.gatewayOf(addr)); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// moved does so for addresses that moved meanwhile, a few times each: the connection that is open
// at this moment is reset, since the next node does not know it. No other fails.
func (r *rack) moved(t *testing.T, all map[netip.Addr]*stream) {
	t.Helper()
	cut := 0
	for addr, s := range all {
		resets := s.resets()
		if cut += resets; resets > Nodes {
			t.Errorf("%s: %d connections were reset, more than could be open when it moved", addr, resets)
		}
	}
	t.Logf("%d connections were reset", cut)
	r.unharmed(t, all)
}

// resets ends the stream, and takes out of its failures the connections that had been
// opened, which it returns the number of.
func (s *stream) resets() int {
	s.stop()
	s.done.Wait()
	before := len(s.failures)
	s.failures = slices.DeleteFunc(s.failures, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) })
	return before - len(s.failures)
}

// eventOf waits for an Event about a Gateway that says something.
func (s *space) eventOf(t *testing.T, name string, says func(note string) bool) {
	t.Helper()
	eventually(t, settle, func() error {
		list, err := s.Kube.EventsV1().Events(s.name).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var notes []string
		for _, e := range list.Items {
			if e.Regarding.Kind == "Gateway" && e.Regarding.Name == name {
				if says(e.Note) {
					return nil
				}
				notes = append(notes, e.Note)
			}
		}
		return fmt.Errorf("of Gateway %s only this was told: %q", name, notes)
	})
}

// finding waits until a node reports a finding for a reason, and returns what it says.
func (c *Cluster) finding(t *testing.T, reason string, limit time.Duration) (node, message string) {
	t.Helper()
	eventually(t, limit, func() error {
		reports, err := c.nodeReports(t.Context())
		if err != nil {
			return err
		}
		for _, report := range reports {
			for _, f := range report.Report.Findings {
				if f.Reason == reason {
					node, message = report.Metadata.Name, f.Message
					return nil
				}
			}
		}
		return errors.New("no node has found " + reason)
	})
	return node, message
}
